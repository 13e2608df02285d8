//! The watch hub: who waits for events, by prefix.
//!
//! ```text
//! event at /a/b ─▶ who waits at /a/b or above it: /a/b, /a, /
//!              └─▶ who waits for the children of /a
//! ```
//!
//! An event wakes those, and nobody else. What happened is not told: whoever was woken
//! looks for himself. Where to begin is noted, so that one who has waited while a
//! million events happened elsewhere need not look through them; they may have left the
//! ring meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::EventNumber;
use etcd_projections::{Event, Outcome, What};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::filter::Filter;

/// How many events each place remembers: who waits is there after the first one.
const REMEMBERED: usize = 16;

/// Who waits for events, by prefix. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(crate) struct WatchHub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    places: Mutex<Places>,
    /// The last event that everybody was woken for who waits for it.
    woken: AtomicU64,
}

/// The places, by their prefix.
#[derive(Debug, Default)]
struct Places {
    /// Those of who waits for everything there.
    below: HashMap<Arc<str>, Place>,
    /// Those of who waits for direct children alone.
    children: HashMap<Arc<str>, Place>,
}

#[derive(Debug, Default)]
struct Place {
    listeners: usize,
    bell: Arc<Bell>,
}

/// What is rung when something happens at a place.
#[derive(Debug)]
pub struct Bell {
    rung: Notify,
    happened: Mutex<Happened>,
}

/// What has happened at a place of late.
#[derive(Debug)]
struct Happened {
    /// What happened up to this event is not known.
    forgotten: EventNumber,
    /// All that happened since.
    events: VecDeque<EventNumber>,
}

impl WatchHub {
    /// Makes a hub that begins behind an event.
    pub(crate) fn new(last: EventNumber) -> Self {
        let (places, woken) = (Mutex::default(), AtomicU64::new(last.0));
        Self { inner: Arc::new(Inner { places, woken }) }
    }

    /// Returns a place to wait for what a filter passes. `newest` is asked for the newest
    /// event once the place is there.
    pub(crate) fn listen(&self, filter: &Filter, newest: impl FnOnce() -> EventNumber) -> Listener {
        let mut places = self.places();
        let alike = places.of(filter.children);
        // One name for all who wait there.
        let known = alike.get_key_value(filter.prefix.as_str());
        let prefix =
            known.map_or_else(|| filter.prefix.as_str().into(), |(name, _)| Arc::clone(name));
        let place = alike.entry(Arc::clone(&prefix)).or_default();
        place.listeners += 1;
        let (is_first, bell) = (place.listeners == 1, Arc::clone(&place.bell));
        drop(places);
        if is_first {
            // What it was not rung for had been published before it was there.
            bell.forget(newest);
        }
        Listener { hub: self.clone(), prefix, children: filter.children, bell }
    }

    /// Wakes those who wait for one of the outcomes, all of which are published.
    pub(crate) fn wake(&self, outcomes: &[Outcome]) {
        let places = self.places();
        for outcome in outcomes {
            let What::Event(event) = &outcome.what else { continue };
            places.ring(event);
        }
        if let Some(last) = outcomes.last() {
            self.inner.woken.store(last.position.event.0, Ordering::Release);
        }
    }

    /// Wakes everybody: up to this event, nobody knows what has happened.
    pub(crate) fn wake_all(&self, last: EventNumber) {
        let places = self.places();
        // Always in the same order, so that a simulation can be repeated.
        let mut all: Vec<_> = places.below.iter().chain(&places.children).collect();
        all.sort_by_key(|(prefix, _)| *prefix);
        for (_, place) in all {
            place.bell.forget(|| last);
            place.bell.rung.notify_waiters();
        }
        self.inner.woken.store(last.0, Ordering::Release);
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.inner.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn of(&mut self, children: bool) -> &mut HashMap<Arc<str>, Place> {
        if children { &mut self.children } else { &mut self.below }
    }

    fn ring(&self, event: &Event) {
        if !self.below.is_empty() {
            let above = event.key.ancestors().filter_map(|path| self.below.get(path));
            above.for_each(|place| place.bell.ring(event.number));
        }
        if !self.children.is_empty()
            && let Some(directory) = event.key.ancestors().nth(1)
            && let Some(place) = self.children.get(directory)
        {
            place.bell.ring(event.number);
        }
    }
}

impl Default for Bell {
    /// A bell that knows of nothing yet.
    fn default() -> Self {
        let happened = Happened { forgotten: EventNumber(u64::MAX), events: VecDeque::new() };
        Self { rung: Notify::new(), happened: Mutex::new(happened) }
    }
}

impl Bell {
    /// Returns what waits until it is rung.
    pub fn notified(&self) -> Notified<'_> {
        self.rung.notified()
    }

    fn ring(&self, number: EventNumber) {
        let mut happened = self.happened();
        happened.events.push_back(number);
        if happened.events.len() > REMEMBERED
            && let Some(oldest) = happened.events.pop_front()
        {
            happened.forgotten = happened.forgotten.max(oldest);
        }
        drop(happened);
        self.rung.notify_waiters();
    }

    /// Notes that what happened up to an event is not known, and what happened since is.
    fn forget(&self, upto: impl FnOnce() -> EventNumber) {
        // Held meanwhile, so that nothing that comes behind the event is lost.
        let mut happened = self.happened();
        let upto = upto();
        happened.events.retain(|number| *number > upto);
        happened.forgotten = upto;
    }

    fn happened(&self) -> MutexGuard<'_, Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place to wait for events.
#[derive(Debug)]
pub struct Listener {
    hub: WatchHub,
    prefix: Arc<str>,
    children: bool,
    bell: Arc<Bell>,
}

impl Listener {
    /// Returns the bell of this place. To miss nothing, begin to wait for it
    /// before looking at the state.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Returns where to look for the next event: at this one or a later one, before which
    /// nothing has happened here from `from` on. It is published, or the next one.
    pub fn next_from(&self, from: EventNumber) -> EventNumber {
        // Read first: all up to it is noted at the place.
        let woken = EventNumber(self.hub.inner.woken.load(Ordering::Acquire));
        let happened = self.bell.happened();
        if from <= happened.forgotten {
            return from;
        }
        let next = happened.events.iter().find(|number| **number >= from).copied();
        next.unwrap_or_else(|| woken.next().max(from))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut places = self.hub.places();
        let places = places.of(self.children);
        if let Some(place) = places.get_mut(&self.prefix) {
            place.listeners -= 1;
            if place.listeners == 0 {
                places.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Index, KeyPath, LogTime};
    use etcd_projections::{Change, Position};
    use futures_util::FutureExt as _;

    use super::*;

    fn happens(hub: &WatchHub, number: u64, key: &str) {
        let (number, index, time) = (EventNumber(number), Index(number), LogTime(1));
        let (key, position) =
            (KeyPath::clean(key).unwrap(), Position { index, event: number, time });
        let event = Event { number, index, time, key, change: Change::DeleteDir };
        hub.wake(&[Outcome::new(position, What::Event(Arc::new(event)))]);
    }

    fn listen(hub: &WatchHub, key: &str, children: bool, newest: u64) -> Listener {
        let filter = Filter { children, ..Filter::below(KeyPath::clean(key).unwrap()) };
        hub.listen(&filter, || EventNumber(newest))
    }

    /// Which of these places an event wakes.
    #[track_caller]
    fn assert_wakes(hub: &WatchHub, number: u64, key: &str, places: &[(&Listener, bool)]) {
        let bells: Vec<_> = places.iter().map(|(place, _)| place.bell()).collect();
        let mut rung: Vec<_> = bells.iter().map(|bell| Box::pin(bell.notified())).collect();
        for rung in &mut rung {
            rung.as_mut().enable();
        }
        happens(hub, number, key);
        for (rung, (place, wakes)) in rung.iter_mut().zip(places) {
            assert_eq!(rung.now_or_never().is_some(), *wakes, "{key}: {place:?}");
        }
    }

    #[test]
    fn event_wakes_those_above_it_alone() {
        let hub = WatchHub::new(EventNumber(0));
        let (root, a, b) = (
            &listen(&hub, "/", false, 0),
            &listen(&hub, "/a", false, 0),
            &listen(&hub, "/b", false, 0),
        );
        let children = &listen(&hub, "/a", true, 0);
        assert_wakes(&hub, 1, "/a/x", &[(root, true), (a, true), (b, false), (children, true)]);
        assert_wakes(&hub, 2, "/a/x/y", &[(root, true), (a, true), (b, false), (children, false)]);
        assert_wakes(&hub, 3, "/a", &[(root, true), (a, true), (b, false), (children, false)]);
        assert_wakes(&hub, 4, "/", &[(root, true), (a, false), (b, false), (children, false)]);
    }

    #[test]
    fn who_has_waited_is_told_where_to_begin() {
        let hub = WatchHub::new(EventNumber(5));
        let place = listen(&hub, "/a", false, 5);
        assert_eq!(place.next_from(EventNumber(3)), EventNumber(3), "that is not known");
        assert_eq!(place.next_from(EventNumber(6)), EventNumber(6));
        (6..1000).for_each(|number| happens(&hub, number, "/elsewhere"));
        assert_eq!(place.next_from(EventNumber(6)), EventNumber(1000));
        happens(&hub, 1000, "/a");
        happens(&hub, 1001, "/elsewhere");
        assert_eq!(place.next_from(EventNumber(6)), EventNumber(1000));
        assert_eq!(place.next_from(EventNumber(1001)), EventNumber(1002));
        assert_eq!(place.next_from(EventNumber(2000)), EventNumber(2000), "it is yet to come");
    }

    #[test]
    fn what_is_forgotten_is_not_passed_over() {
        let hub = WatchHub::new(EventNumber(0));
        let place = listen(&hub, "/a", false, 0);
        (1..=20).for_each(|number| happens(&hub, number, "/a"));
        assert_eq!(place.next_from(EventNumber(4)), EventNumber(4));
        assert_eq!(place.next_from(EventNumber(5)), EventNumber(5));
        hub.wake_all(EventNumber(100));
        assert_eq!(place.next_from(EventNumber(21)), EventNumber(21));
        assert_eq!(place.next_from(EventNumber(101)), EventNumber(101));
    }

    #[test]
    fn place_goes_with_the_last_who_waits_there() {
        let hub = WatchHub::new(EventNumber(0));
        let (first, second) = (listen(&hub, "/a", false, 0), listen(&hub, "/a", false, 0));
        drop(first);
        assert_eq!(hub.places().below.len(), 1);
        drop(second);
        assert_eq!(hub.places().below.len(), 0);
    }
}
