//! The published state: what this machine has applied, for all to read.
//!
//! ```text
//! apply ─▶ Publisher ─▶ Published ─▶ reads
//!                 ├───▶ wakes the watches whose filter something may pass
//!                 └───▶ the store of events, which never keeps it waiting
//! ```
//!
//! Applying changes nothing under a reader's eyes: a state that somebody reads is
//! copied first, in O(1), and its parts as they change. A state that nobody reads is
//! changed where it stands, which takes half the time; whoever asks for it meanwhile
//! waits. What takes long is applied to a copy in any case.
//! A watch that was woken pulls what it wants from the ring.

use std::sync::Arc;

use etcd_log::{Check, Index, LogFormat, LogId, LogTime};
use etcd_projections::{Diverged, Machines, Outcome, Position, State};
use tokio::sync::watch;

use super::filter::Filter;
use super::watch_hub::{Listener, WatchHub};
use crate::storage::events::EventWriter;

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
    events: Option<Arc<EventWriter>>,
    /// The last command of the state that it began with.
    begun: Index,
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct StateReader {
    current: watch::Receiver<Arc<Published>>,
    hub: WatchHub,
}

/// Makes both ends, around the state that a machine starts from.
pub fn channel(state: State, applied: Option<LogId>) -> (Publisher, StateReader) {
    let (begun, hub) = (state.position().index, WatchHub::new(state.position().event));
    let (sender, receiver) = watch::channel(Arc::new(Published { state, applied }));
    let publisher = Publisher { current: sender, hub: hub.clone(), events: None, begun };
    (publisher, StateReader { current: receiver, hub })
}

impl Publisher {
    /// Has what comes of it stored from now on, if somebody stores it.
    #[must_use]
    pub fn storing(self, events: Option<Arc<EventWriter>>) -> Self {
        Self { events, ..self }
    }

    /// Returns the state as it is now.
    pub fn now(&self) -> Arc<Published> {
        Arc::clone(&self.current.borrow())
    }

    /// Applies an entry to the state, and wakes those who wait for one of its outcomes.
    /// Unless it takes long, whoever asks for the state meanwhile waits for it.
    pub fn apply(
        &self,
        entry: LogId,
        takes_long: bool,
        apply: impl FnOnce(&mut State) -> Vec<Outcome>,
    ) {
        let (mut before, mut outcomes) = (Position::default(), Vec::new());
        let advance = |current: &mut Published| {
            before = current.state.position();
            outcomes = apply(&mut current.state);
            current.applied = Some(entry);
        };
        if takes_long {
            let mut next = Published::clone(&self.now());
            advance(&mut next);
            self.current.send_replace(Arc::new(next));
        } else {
            self.current.send_modify(|current| advance(Arc::make_mut(current)));
        }
        self.hub.wake(&outcomes);
        if let Some(events) = &self.events {
            events.push(before, outcomes);
        }
    }

    /// Publishes a state that came from another machine, and wakes everybody: what
    /// happened on the way to it is not known here.
    pub fn jump(&self, state: State, applied: Option<LogId>) {
        let (position, certain) = (state.position(), self.certain());
        self.current.send_replace(Arc::new(Published { state, applied }));
        self.hub.wake_all(position.event);
        if let Some(events) = &self.events {
            events.jump(position, certain);
        }
    }

    /// Notes that the state is not what the log says: what was stored of it since it was
    /// compared last is not, either.
    pub fn distrust(&self) {
        if let Some(events) = &self.events {
            events.distrust(self.certain());
        }
    }

    /// The last command up to which what was stored is known to be what the log says: what
    /// this process has begun with is compared with it while it is stored again.
    fn certain(&self) -> Index {
        self.current.borrow().state.checked().unwrap_or_default().index.max(self.begun)
    }
}

impl StateReader {
    /// Returns the state as it is now. While somebody has it, what changes in it has to
    /// be copied: whoever waits for something lets go of it first.
    pub fn now(&self) -> Arc<Published> {
        Arc::clone(&self.current.borrow())
    }

    /// Returns the logged time.
    pub fn logged(&self) -> LogTime {
        self.current.borrow().state.position().time
    }

    /// Returns the index of the last command.
    pub fn index(&self) -> Index {
        self.current.borrow().state.position().index
    }

    /// Returns the last entry applied; none before the first.
    pub fn applied(&self) -> Option<LogId> {
        self.current.borrow().applied
    }

    /// Returns what the log may say: the format in force.
    pub fn format(&self) -> LogFormat {
        self.current.borrow().state.format()
    }

    /// Compares the state with what a proposer's was.
    ///
    /// # Errors
    ///
    /// If the two differ.
    pub fn compare(&self, check: &Check) -> Result<(), Diverged> {
        self.current.borrow().state.compare(check)
    }

    /// Returns the machines of the cluster as they are now.
    pub fn machines(&self) -> Machines {
        self.current.borrow().state.machines().clone()
    }

    /// Waits for a state that fits. Returns nothing if there will be no more.
    pub async fn wait_for(&self, fits: impl Fn(&Published) -> bool) -> Option<Arc<Published>> {
        let mut current = self.current.clone();
        let published = current.wait_for(|published| fits(published)).await.ok()?;
        Some(Arc::clone(&published))
    }

    /// Returns a place to wait for what a filter passes.
    pub fn listen(&self, filter: &Filter) -> Listener {
        self.hub.listen(filter, || self.current.borrow().state.position().event)
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, ClusterId, Command, LogTime};

    use super::*;

    fn found(publisher: &Publisher) {
        let batch = Batch::new(
            LogTime(1),
            vec![Command::Sync { cluster: ClusterId(1), format: LogFormat::FIRST }],
        );
        publisher.apply(LogId::default(), false, |state| state.apply(&batch));
    }

    #[test]
    fn state_that_nobody_reads_is_changed_where_it_stands() {
        let (publisher, reader) = channel(State::new(10), None);
        let before = Arc::as_ptr(&reader.now());
        found(&publisher);
        assert_eq!(Arc::as_ptr(&reader.now()), before);
    }

    #[test]
    fn state_that_somebody_reads_stays_as_it_is() {
        let (publisher, reader) = channel(State::new(10), None);
        let before = reader.now();
        let digest = before.state.digest();
        found(&publisher);
        assert_eq!(before.state.digest(), digest);
        assert_ne!(reader.now().state.digest(), digest);
    }
}
