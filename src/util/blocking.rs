//! Work that waits for the disk, beside the tasks that must not.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs something that waits for the disk where it holds up nobody. Where there is
/// one thread only, as in a simulation, it runs at once: what happens when must not
/// depend on other threads there.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if has_one_thread() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs a task that can keep a core busy, on a thread of its own if there is more
/// than one.
pub(crate) fn spawn_busy(work: impl Future<Output = ()> + Send + 'static) {
    if has_one_thread() {
        tokio::spawn(work);
    } else {
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || handle.block_on(work));
    }
}

fn has_one_thread() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}
