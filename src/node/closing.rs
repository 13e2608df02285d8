//! Closing: whoever waits gets to know that the machine stops.

use tokio::sync::watch;

/// Tells when the machine closes.
#[derive(Clone, Debug)]
pub struct Closing {
    pub(super) closing: watch::Receiver<bool>,
}

impl Closing {
    /// Returns whether the machine is closing.
    pub fn has_begun(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until the machine closes.
    pub async fn begun(&mut self) {
        // A machine that is gone has closed, too.
        let _closed = self.closing.wait_for(|closing| *closing).await.is_ok();
    }
}
