//! The watch hub: who waits for events, by prefix.
//!
//! An event wakes those that wait for its key or for a directory above it, and
//! nobody else. What happened is not told: whoever was woken looks for himself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::KeyPath;
use etcd_projections::{Outcome, What};
use tokio::sync::Notify;

/// Who waits for events, by prefix. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchHub {
    places: Arc<Mutex<HashMap<Arc<str>, Place>>>,
}

#[derive(Debug, Default)]
struct Place {
    listeners: usize,
    bell: Arc<Notify>,
}

impl WatchHub {
    /// Returns a place to wait for events at a prefix or below it.
    pub(crate) fn listen(&self, prefix: &KeyPath) -> Listener {
        let prefix = Arc::<str>::from(prefix.as_str());
        let mut places = self.places();
        let place = places.entry(Arc::clone(&prefix)).or_default();
        place.listeners += 1;
        Listener { hub: self.clone(), prefix, bell: Arc::clone(&place.bell) }
    }

    /// Wakes those who wait for one of the outcomes.
    pub(crate) fn wake(&self, outcomes: &[Outcome]) {
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

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
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
