//! The writing end of the store: the apply path has it, and never waits for it.

use etcd_log::{Index, IoError};
use etcd_projections::{Outcome, Position};
use tokio::sync::mpsc;

use super::recorder::Recorder;
use super::store::{EventStore, Pushed};
use crate::storage::disk_space::DiskRoom;
use crate::util::blocking::blocking;
use crate::util::rate_limit::RateLimit;

/// Takes outcomes as they come. What it was given is in files soon after it is dropped.
#[derive(Debug)]
pub struct EventWriter {
    store: EventStore,
    wake: mpsc::Sender<()>,
    told: RateLimit,
}

impl EventWriter {
    /// Starts the task that brings outcomes into files, while there is room on the disk.
    ///
    /// # Errors
    ///
    /// If there is no memory to compress with.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn start(store: EventStore, disk: DiskRoom) -> Result<Self, IoError> {
        let (wake, mut wakes) = mpsc::channel(1);
        let mut recorder = Recorder::new(store.clone(), disk, Position::default())?;
        tokio::spawn(async move {
            while wakes.recv().await.is_some() {
                let work = move || {
                    recorder.run();
                    recorder
                };
                recorder = blocking(work).await;
            }
            blocking(move || recorder.finish()).await;
        });
        Ok(Self { store, wake, told: RateLimit::default() })
    }

    /// Takes outcomes that follow a position. Never waits: if there is no room for them,
    /// they are left out, and said to be.
    pub fn push(&self, before: Position, outcomes: Vec<Outcome>) {
        let Pushed { has_room, has_block } = self.store.push(before, outcomes);
        if has_block || !has_room {
            self.wake();
        }
        if !has_room && self.told.is_due() {
            tracing::warn!("events come faster than they can be stored: the log has them");
        }
    }

    /// Notes that the state has come to a position without outcomes, with a checkpoint of
    /// another machine. What was stored since a command is not certain: nobody has compared
    /// the state before with what others had.
    pub fn jump(&self, position: Position, certain: Index) {
        self.distrust(certain);
        self.store.pending().jump(position);
    }

    /// Forgets what was stored since a command: the state was not what the log says.
    pub fn distrust(&self, certain: Index) {
        self.store.forget_behind(certain);
        self.wake();
    }

    /// Sees to it that everything so far is in files soon, and that the files go of which
    /// every outcome lies before a command.
    pub fn flush(&self, oldest: Index) {
        self.store.pending().urge(oldest);
        self.wake();
    }

    fn wake(&self) {
        // If it cannot be told, it will look once more in any case, or the runtime ends.
        let _told = self.wake.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::events::Interest;
    use crate::storage::events::fixtures::{open, read_all, some_history, stored};
    use crate::util::limit;

    #[tokio::test]
    async fn what_is_pushed_is_there_at_once_and_in_files_later() {
        limit::begin();
        let dir = tempfile::tempdir().unwrap();
        let history = some_history(20);
        let store = open(dir.path(), &history);
        let writer = EventWriter::start(store.clone(), DiskRoom::default()).unwrap();
        let all = || read_all(store.after(Position::default(), Interest::All), 1000);
        let is_in_files = || store.pending().ranges().next().is_none();
        for (at, (before, outcomes)) in history.iter().enumerate() {
            writer.push(*before, outcomes.clone());
            assert_eq!(all(), (stored(&history[..=at]), None));
        }
        assert!(store.bytes() == 0 && !is_in_files(), "it is not enough for a block");
        writer.flush(Index(0));
        while !is_in_files() {
            tokio::task::yield_now().await;
        }
        assert_eq!(all(), (stored(&history), None));
    }

    #[tokio::test]
    async fn what_was_left_out_is_believed_once_it_is_filled_in() {
        limit::begin();
        let dir = tempfile::tempdir().unwrap();
        let history = some_history(100);
        let store = open(dir.path(), &history);
        store.pending().bound(10_000);
        let writer = EventWriter::start(store.clone(), DiskRoom::default()).unwrap();
        for (before, outcomes) in &history {
            writer.push(*before, outcomes.clone());
        }
        let all = || read_all(store.after(Position::default(), Interest::All), 1000);
        assert!(all().1.is_some(), "there is no room for all of it");
        while store.pending().ranges().next().is_some() {
            tokio::task::yield_now().await;
        }
        let mut filler = store.fill(Position::default(), DiskRoom::default()).unwrap();
        for (before, outcomes) in &history {
            filler.push(*before, outcomes.clone());
        }
        filler.finish(store.newest());
        assert_eq!(all(), (stored(&history), None));
    }

    /// A state that was wrong has left wrong events behind, in files and in memory.
    #[tokio::test]
    async fn what_is_not_certain_is_forgotten() {
        limit::begin();
        let dir = tempfile::tempdir().unwrap();
        let history = some_history(20);
        let store = open(dir.path(), &history);
        let writer = EventWriter::start(store.clone(), DiskRoom::default()).unwrap();
        for (at, (before, outcomes)) in history.iter().enumerate() {
            writer.push(*before, outcomes.clone());
            if at == 9 {
                writer.flush(Index(0));
                while store.pending().ranges().next().is_some() {
                    tokio::task::yield_now().await;
                }
            }
        }
        let certain = history[15].0.index;
        writer.jump(Position { index: Index(1000), ..Position::default() }, certain);
        let upto = |store: &EventStore| store.ranges().last().map(|range| range.end.index);
        assert!(upto(&store) <= Some(certain), "{:?} behind {certain}", upto(&store));
        let in_files = upto(&store);
        writer.distrust(history[5].0.index);
        assert!(in_files.is_some() && upto(&store).unwrap_or_default() <= history[5].0.index);
    }
}
