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
        let recorder = Recorder::new(store.clone(), disk)?;
        Ok(EventFiller { store, recorder, start: position })
    }
}

impl EventFiller {
    /// Takes outcomes that follow a position. It may wait for the disk.
    pub fn push(&mut self, before: Position, outcomes: Vec<Outcome>) {
        let (_has_room, has_block) = self.store.push(before, outcomes);
        if has_block {
            self.recorder.run();
        }
    }

    /// Takes back what was brought into files: it came of a state that was not what the log
    /// says.
    pub fn take_back(self) {
        self.store.forget_between(&(self.start..self.store.newest()));
    }

    /// Brings the rest into files.
    pub fn finish(mut self) {
        self.recorder.finish();
    }
}
