//! The end of a process, and the start of the next one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Mirror, SEGMENT_BYTES};
use crate::storage::LogStorage as _;
use crate::testing::crash_image::{Crash, Image};
use crate::testing::simulated_disk::RecordingDisk;
use crate::testing::{compare, fixtures};
use crate::wal::Wal;
use crate::wal::options::WalOptions;

impl Mirror {
    fn dirs(&self) -> [PathBuf; 2] {
        let dir = self.home.path().join(self.opened.to_string());
        ["wal", "archive"].map(|name| dir.join(name))
    }

    pub(super) fn close(&mut self, cache: usize) {
        self.settle();
        self.wal.close().unwrap();
        self.model.close();
        let archived = self.wal.reader().last_archived();
        self.open(cache);
        // What is in the archive is committed.
        assert!(self.wal.state().committed >= archived);
        self.after_opening();
        self.see("closed");
    }

    pub(super) fn crash(&mut self, crash: Crash, cache: usize) {
        self.settle();
        let mut image = self.image.clone();
        self.disk.steps().iter().for_each(|step| image.apply(step));
        let from = self.home.path().join(self.opened.to_string());
        self.opened += 1;
        let to = self.home.path().join(self.opened.to_string());
        for (path, content) in image.after(crash) {
            let path = to.join(path.strip_prefix(&from).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.open(cache);
        self.after_opening();
        self.see("crashed");
    }

    fn open(&mut self, cache: usize) {
        let [dir, archive] = self.dirs();
        self.image = Image::of(&[&dir, &archive]);
        self.disk = Arc::new(RecordingDisk::default());
        let (retain, home) = (self.retain, dir.parent().unwrap().to_owned());
        let options = fixtures::options(&home, SEGMENT_BYTES);
        let options = WalOptions { retain, cache_bytes: cache, must_exist: true, ..options };
        self.wal = Wal::open_on(&self.disk, &options).unwrap().0;
        self.checkpoints = (None, None);
    }

    /// What is known to be committed may have been lost, but not what was noted. Then the
    /// leader tells it again.
    fn after_opening(&mut self) {
        let (found, known) = (self.wal.state().committed, self.model.committed);
        assert!(self.model.noted <= found && found <= known, "{found:?} committed");
        self.model.committed = found;
        compare::wal_is(&self.wal, &self.model);
        if let Some(known) = known {
            self.note_committed(known);
        }
    }
}
