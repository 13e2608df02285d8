//! The published state: what this machine has applied, for all to read.
//!
//! ```text
//! apply ─▶ Publisher ─▶ Published, a copy in O(1) ─▶ reads
//!                 └───▶ wakes the watches below whose prefix something happened
//! ```
//!
//! Applying never waits for a reader: a reader takes the copy that is there, and
//! a watch that was woken pulls what it wants from the ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{KeyPath, LogId};
use etcd_projections::{Outcome, State, What};
use tokio::sync::{Notify, watch};

/// A state, and which entry of the log led to it.
#[derive(Clone, Debug)]
pub struct Published {
    /// What the log says up to here.
    pub state: State,
    /// The last entry applied; none before the first.
    pub applied: Option<LogId>,
}

/// The writing end: the apply path has it.
#[derive(Debug)]
pub struct Publisher {
    current: watch::Sender<Arc<Published>>,
    hub: WatchHub,
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct Reader {
    current: watch::Receiver<Arc<Published>>,
    hub: WatchHub,
}

/// Makes both ends, around the state that a machine starts from.
pub fn channel(state: State, applied: Option<LogId>) -> (Publisher, Reader) {
    let (sender, receiver) = watch::channel(Arc::new(Published { state, applied }));
    let hub = WatchHub::default();
    (Publisher { current: sender, hub: hub.clone() }, Reader { current: receiver, hub })
}

impl Publisher {
    /// Publishes a state, and wakes those who wait for one of its outcomes.
    pub fn publish(&self, state: State, applied: Option<LogId>, outcomes: &[Outcome]) {
        self.current.send_replace(Arc::new(Published { state, applied }));
        self.hub.wake(outcomes);
    }

    /// Publishes a state that came from another machine, and wakes everybody: what
    /// happened on the way to it is not known here.
    pub fn jump(&self, state: State, applied: Option<LogId>) {
        self.current.send_replace(Arc::new(Published { state, applied }));
        self.hub.wake_all();
    }
}

impl Reader {
    /// Returns the state as it is now.
    pub fn now(&self) -> Arc<Published> {
        Arc::clone(&self.current.borrow())
    }

    /// Waits for a state that fits. Returns nothing if there will be no more.
    pub async fn wait_for(&self, fits: impl Fn(&Published) -> bool) -> Option<Arc<Published>> {
        let mut current = self.current.clone();
        let published = current.wait_for(|published| fits(published)).await.ok()?;
        Some(Arc::clone(&published))
    }

    /// Returns a place to wait for events at a prefix or below it.
    pub fn listen(&self, prefix: &KeyPath) -> Listener {
        self.hub.listen(prefix)
    }
}

/// Who waits for events, by prefix. An event wakes those that wait for its key
/// or for a directory above it, and nobody else.
#[derive(Clone, Debug, Default)]
struct WatchHub {
    places: Arc<Mutex<HashMap<Arc<str>, Place>>>,
}

#[derive(Debug, Default)]
struct Place {
    listeners: usize,
    bell: Arc<Notify>,
}

impl WatchHub {
    fn listen(&self, prefix: &KeyPath) -> Listener {
        let prefix = Arc::<str>::from(prefix.as_str());
        let mut places = self.places();
        let place = places.entry(Arc::clone(&prefix)).or_default();
        place.listeners += 1;
        Listener { hub: self.clone(), prefix, bell: Arc::clone(&place.bell) }
    }

    fn wake(&self, outcomes: &[Outcome]) {
        let places = self.places();
        if places.is_empty() {
            return;
        }
        for outcome in outcomes {
            let What::Event(event) = &outcome.what else { continue };
            for path in event.key.ancestors() {
                if let Some(place) = places.get(path) {
                    place.bell.notify_waiters();
                }
            }
        }
    }

    fn wake_all(&self) {
        let places = self.places();
        // Always in the same order, so that a simulation can be repeated.
        let mut places: Vec<_> = places.iter().collect();
        places.sort_by_key(|(prefix, _)| *prefix);
        for (_, place) in places {
            place.bell.notify_waiters();
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Arc<str>, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place to wait for events at a prefix or below it.
#[derive(Debug)]
pub struct Listener {
    hub: WatchHub,
    prefix: Arc<str>,
    bell: Arc<Notify>,
}

impl Listener {
    /// Returns the bell of this place. To miss nothing, begin to wait for it
    /// before looking at the state.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut places = self.hub.places();
        if let Some(place) = places.get_mut(&self.prefix) {
            place.listeners -= 1;
            if place.listeners == 0 {
                places.remove(&self.prefix);
            }
        }
    }
}
