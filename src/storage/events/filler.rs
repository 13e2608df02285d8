//! Filling in what is missing: whoever applies the log again hands over what comes of it.

use etcd_log::IoError;
use etcd_projections::{Outcome, Position};

use super::recorder::Recorder;
use super::store::EventStore;
use crate::storage::disk_space::DiskRoom;

/// Takes what came behind a position, and brings it into files where it is missing there.
pub struct EventFiller {
    store: EventStore,
    recorder: Recorder,
    /// Behind which position it began.
    start: Position,
}

impl EventStore {
    /// Returns a filler of what is missing behind a position.
    ///
    /// # Errors
    ///
    /// If there is no memory to compress with.
    pub fn fill(&self, position: Position, disk: DiskRoom) -> Result<EventFiller, IoError> {
        let store = self.beside(position);
        let recorder = Recorder::new(store.clone(), disk, position)?;
        Ok(EventFiller { store, recorder, start: position })
    }
}

impl EventFiller {
    /// Takes outcomes that follow a position. It may wait for the disk.
    pub fn push(&mut self, before: Position, outcomes: Vec<Outcome>) {
        if self.store.push(before, outcomes).has_block {
            self.recorder.run();
        }
    }

    /// Brings all of it into files, if it is certain up to there. Takes back what is not: it may
    /// have come of a state that was not what the log says.
    pub fn finish(mut self, certain: Position) {
        let end = self.store.newest();
        if certain >= end {
            self.recorder.finish();
            return;
        }
        self.store.forget_between(&(certain.max(self.start)..end));
        self.store.mend_files();
    }
}
