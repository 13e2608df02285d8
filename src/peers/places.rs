//! Places: who may be connected to the peer port, and who has to go if too many are.
//!
//! ```text
//! connection ─▶ a stranger's place ─ a frame of a member comes ─▶ a member's place
//!                    │ too many: the oldest goes                      │ too many of one:
//!                    ▼ says nothing: goes                             ▼ the oldest idle one goes
//! ```
//!
//! So whoever opens connections and is no member takes no place from those that are, and
//! a member that has lost its connections without a word gets new ones.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use etcd_log::NodeId;
use tokio::sync::Notify;

use crate::util::rate_limit::RateLimit;

/// How many places strangers have: a few that join, and some that are curious.
const STRANGERS: usize = 32;

/// How many places each member has: it needs a few, and one for each watch that it has
/// no history for.
const OF_EACH: usize = 64;

/// The places at a port. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Places {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    /// How many there are for strangers, for each member, and in all.
    most: (usize, usize, usize),
    next: AtomicU64,
    /// In the order in which they were taken.
    taken: Mutex<Vec<Taken>>,
    told: RateLimit,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    /// Whose it is; nobody's who is known, at first.
    member: Option<NodeId>,
    signs: Arc<Signs>,
}

/// What the table and whoever has a place tell each other, with each message.
#[derive(Debug)]
struct Signs {
    is_idle: AtomicBool,
    is_lost: Notify,
}

/// A place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    number: u64,
    /// The first member that spoke here: mostly the only one.
    member: OnceLock<NodeId>,
    signs: Arc<Signs>,
}

impl Places {
    /// Makes so many places.
    pub fn new(most: usize) -> Self {
        let strangers = STRANGERS.min(most / 4).max(1);
        let of_each = OF_EACH.min(most / 4).max(1);
        Self::of((strangers, of_each, most.max(2)))
    }

    /// Makes places that are never short.
    pub(super) fn without_end() -> Self {
        Self::of((usize::MAX, usize::MAX, usize::MAX))
    }

    fn of(most: (usize, usize, usize)) -> Self {
        let table = Table {
            most,
            next: AtomicU64::new(0),
            taken: Mutex::default(),
            told: RateLimit::default(),
        };
        Self { table: Arc::new(table) }
    }

    /// Takes a stranger's place. If there is none, the stranger that came first loses his.
    pub fn take(&self) -> Place {
        let number = self.table.next.fetch_add(1, Ordering::Relaxed);
        let signs = Arc::new(Signs { is_idle: true.into(), is_lost: Notify::new() });
        let (strangers, _, all) = self.table.most;
        let mut taken = self.taken();
        if taken.iter().filter(|place| place.member.is_none()).count() >= strangers {
            lose(&mut taken, |place| place.member.is_none());
            if self.table.told.is_due() {
                tracing::warn!(
                    "{strangers} connections at the peer port are of no member: for each new one the oldest is closed"
                );
            }
        }
        if taken.len() >= all {
            // There are as many as can be, most of them members'.
            let _lost = lose(&mut taken, |place| place.member.is_none())
                || lose(&mut taken, Taken::is_idle)
                || lose(&mut taken, |_| true);
        }
        taken.push(Taken { number, member: None, signs: Arc::clone(&signs) });
        drop(taken);
        Place { places: self.clone(), number, member: OnceLock::new(), signs }
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.table.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn is_idle(&self) -> bool {
        self.signs.is_idle.load(Ordering::Relaxed)
    }
}

/// Takes a place from the first that may lose it. Returns whether there is one.
fn lose(taken: &mut Vec<Taken>, may_lose: impl Fn(&Taken) -> bool) -> bool {
    let Some(at) = taken.iter().position(may_lose) else { return false };
    taken.remove(at).signs.is_lost.notify_one();
    true
}

impl Place {
    /// Notes that a member speaks here. If it has too many places, it loses the one that
    /// has been idle for longest; or else the oldest.
    pub(super) fn belongs_to(&self, member: NodeId) {
        if self.member.get() == Some(&member) {
            return;
        }
        let _first = self.member.set(member);
        let mut taken = self.places.taken();
        let is_here = |place: &Taken| place.number == self.number;
        match taken.iter_mut().find(|place| is_here(place)) {
            Some(place) if place.member != Some(member) => place.member = Some(member),
            Some(_) | None => return,
        }
        let (_, of_each, _) = self.places.table.most;
        let is_its = |place: &Taken| place.member == Some(member);
        if taken.iter().filter(|place| is_its(place)).count() > of_each {
            let _lost =
                lose(&mut taken, |place| is_its(place) && place.is_idle() && !is_here(place))
                    || lose(&mut taken, |place| is_its(place) && !is_here(place));
        }
    }

    /// Returns whether a member has spoken here.
    pub(super) fn is_a_members(&self) -> bool {
        self.member.get().is_some()
    }

    /// Notes whether something is being answered here.
    pub(super) fn set_idle(&self, is_idle: bool) {
        self.signs.is_idle.store(is_idle, Ordering::Relaxed);
    }

    /// Waits until the place is lost to somebody else.
    pub async fn lost(&self) {
        self.signs.is_lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().retain(|place| place.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn is_lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn strangers_take_places_from_strangers_alone() {
        let places = Places::new(40);
        let member = places.take();
        member.belongs_to(NodeId(1));
        let mut strangers: Vec<_> = (0..10).map(|_| places.take()).collect();
        assert!(!strangers.iter().any(is_lost));
        for _ in 0..300 {
            strangers.push(places.take());
            assert!(is_lost(&strangers.remove(0)));
        }
        assert!(!is_lost(&member) && !strangers.iter().any(is_lost));
        // Whoever goes leaves a place.
        drop(strangers.pop());
        let next = places.take();
        assert!(!strangers.iter().any(is_lost) && !is_lost(&next));
    }

    #[test]
    fn member_takes_places_from_itself_alone() {
        let places = Places::new(40);
        let take = |member: u64| {
            let place = places.take();
            place.belongs_to(NodeId(member));
            place
        };
        let other = take(2);
        let mut its: Vec<_> = (0..10).map(|_| take(1)).collect();
        its[0].set_idle(false);
        its.push(take(1));
        // The oldest is in use.
        assert!(is_lost(&its.remove(1)) && !is_lost(&its[0]));
        for place in &its {
            place.set_idle(false);
        }
        its.push(take(1));
        assert!(is_lost(&its.remove(0)));
        assert!(!is_lost(&other) && !its.iter().any(is_lost));
    }

    #[test]
    fn all_places_together_are_bounded() {
        let places = Places::new(8);
        let taken: Vec<_> = (0..20).map(|_| places.take()).collect();
        for (member, place) in (0..).zip(&taken) {
            place.belongs_to(NodeId(member));
        }
        assert!(places.taken().len() <= 8);
    }
}
