//! The recorder: brings what is in memory into files, a block at a time.
//!
//! ```text
//! pending          what to do with the outcomes behind a position
//! ─────────────────────────────────────────────────────────────────────────────
//! in a file        compare: the same are let go of, and another ends the file there
//! in none          write a block, up to where the next file begins
//! ```
//!
//! So a machine that applies its log again after a start writes nothing twice, and what
//! is missing between two files is filled in by whoever applies it.

use std::sync::Arc;

use etcd_log::{Index, IoError};
use etcd_projections::Position;

use super::FILE_BYTES;
use super::block::{BlockBuilder, BlockPlace};
use super::file::{EventFile, FileFault, HEADER};
use super::files::Mend;
use super::pending::Batch;
use super::record::{Interest, Stored};
use super::store::{EventStore, mend};
use crate::storage::disk_space::DiskRoom;
use crate::util::error_chain::ErrorChain;
use crate::util::rate_limit::RateLimit;

/// How much room must be left on the disk besides.
const MARGIN: u64 = 64 << 20;

/// Brings outcomes into files.
pub(super) struct Recorder {
    store: EventStore,
    disk: DiskRoom,
    builder: BlockBuilder,
    /// How far it has come.
    at: Position,
    open: Option<Open>,
    file_bytes: u64,
    told: RateLimit,
}

/// The file that is being written.
struct Open {
    file: EventFile,
    /// The position before its first outcome.
    start: Position,
    /// Where the next block goes.
    end: u64,
}

impl Open {
    /// Leaves the file as it was before the block that came to nothing.
    fn give_up(self) {
        let Self { file, end, .. } = self;
        mend(if end == HEADER as u64 { Mend::Remove(file) } else { Mend::Cut(file, end) });
    }
}

/// What there is to do.
struct Todo {
    batches: Vec<Arc<Batch>>,
    /// Whether they are worth a block.
    is_block: bool,
    /// The block that the first outcome is in already.
    known: Option<(EventFile, BlockPlace)>,
    /// Where the next file begins.
    limit: Option<Position>,
    /// When all of this was so.
    epoch: u64,
}

impl Recorder {
    /// Makes one that writes what comes behind a position, while there is room on the disk.
    pub(super) fn new(store: EventStore, disk: DiskRoom, at: Position) -> Result<Self, IoError> {
        let builder = BlockBuilder::new().map_err(IoError::at("compress", &store.dir))?;
        let told = RateLimit::default();
        Ok(Self { store, disk, builder, at, open: None, file_bytes: FILE_BYTES, told })
    }

    /// Closes files that have so many bytes.
    #[cfg(test)]
    pub(super) fn close_at(&mut self, bytes: u64) {
        self.file_bytes = bytes;
    }

    /// Brings all full blocks into files; or all there is, if somebody wants that. Forgets
    /// what somebody does not want any more.
    pub(super) fn run(&mut self) {
        self.store.mend_files();
        let oldest = self.store.pending().take_urge();
        if let Some(oldest) = oldest {
            self.store.forget_before(oldest);
        }
        while let Some(todo) = self.todo() {
            match &todo.known {
                Some((file, block)) => self.compare(&todo.batches, file, block),
                None if todo.is_block || oldest.is_some() => self.write_block(&todo),
                None => return,
            }
        }
    }

    /// Brings all there is into files, and closes the last one.
    pub(super) fn finish(&mut self) {
        self.store.pending().urge(Index(0));
        self.run();
        self.close();
    }

    fn todo(&mut self) -> Option<Todo> {
        // First of all: what is forgotten from here on may be what is begun here.
        let epoch = self.store.files().epoch();
        let (batches, is_block) = {
            let pending = self.store.pending();
            pending.next_block(self.at.max(pending.first()))
        };
        let at = self.at.max(batches.first()?.before);
        if at != self.at {
            // What lies between was left out.
            self.close();
            self.at = at;
        }
        let files = self.store.files();
        let (known, limit) = (files.following(at), files.next_start(at));
        Some(Todo { batches, is_block, known, limit, epoch })
    }

    /// Compares outcomes with a block that should hold them. If it holds others, it goes,
    /// and what was compared is written anew; what it holds from before is a gap then.
    fn compare(&mut self, batches: &[Arc<Batch>], file: &EventFile, block: &BlockPlace) {
        // What is in a file already is not written here.
        self.close();
        let Some(known) = self.store.read(file, block, &Interest::All) else { return };
        let at = self.at;
        let mut known = known.into_iter().map(|(_, stored)| stored).filter(|it| it.position > at);
        for outcome in batches.iter().flat_map(|batch| batch.behind(at)) {
            match known.next() {
                Some(known) if known == Stored::from(outcome) => self.at = outcome.position,
                Some(_) => {
                    let what = format!("the log leads elsewhere behind {:?}", self.at);
                    let (path, offset) = (file.path().to_owned(), block.offset);
                    let fault = FileFault::Damaged { path, offset, what };
                    self.store.give_up(file, block, &fault);
                    self.at = at;
                    return;
                }
                None => break,
            }
        }
        self.settle();
    }

    /// Writes the next block, up to the next file.
    fn write_block(&mut self, todo: &Todo) {
        self.builder.begin(self.at);
        for outcome in todo.batches.iter().flat_map(|batch| batch.behind(self.at)) {
            if let Some(limit) = todo.limit.filter(|limit| outcome.position > *limit) {
                // It passes by where the file begins, which is of another history.
                let gone = self.store.files().remove(limit);
                gone.into_iter().for_each(mend);
                return;
            }
            self.builder.push(outcome);
            if self.builder.is_full() || todo.limit == Some(outcome.position) {
                break;
            }
        }
        match self.append(todo.epoch) {
            Ok(true) => {}
            // Somebody else has written here: it is looked at anew.
            Ok(false) => return,
            Err(error) => {
                self.open = None;
                if self.told.is_due() {
                    let error = ErrorChain(&error);
                    tracing::warn!("events are not stored, the log has them: {error}");
                }
            }
        }
        self.at = self.builder.position();
        self.settle();
        if todo.limit == Some(self.at) {
            self.close();
        }
    }

    /// Puts the block into the open file, or into a new one; or leaves it out, where there
    /// is no room on the disk. Returns whether it is as it was begun, and nobody else has
    /// written there meanwhile.
    fn append(&mut self, epoch: u64) -> Result<bool, IoError> {
        if !self.disk.has_room_besides_reserve(MARGIN) {
            self.close();
            return Ok(true);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open { file: self.create()?, start: self.at, end: HEADER as u64 },
        };
        let written = self.write(&open);
        let is_added = written
            .as_ref()
            .is_ok_and(|block| self.store.files().add_block(epoch, open.start, &open.file, *block));
        if !is_added {
            open.give_up();
            return written.map(|_| false);
        }
        open.end += u64::from(written?.length);
        let is_long = open.end >= self.file_bytes;
        self.open = Some(open);
        if is_long {
            self.close();
        }
        Ok(true)
    }

    /// Writes the block behind those of a file.
    fn write(&mut self, open: &Open) -> Result<BlockPlace, IoError> {
        let finished = self.builder.finish(open.end);
        let (bytes, block) = finished.map_err(IoError::at("compress", open.file.path()))?;
        open.file.write(bytes, open.end)?;
        Ok(block)
    }

    fn create(&self) -> Result<EventFile, IoError> {
        let EventStore { dir, open_files, cluster, .. } = &self.store;
        EventFile::create(dir, open_files, *cluster, self.at)
    }

    /// Closes the open file.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let blocks = self.store.files().blocks(open.start).to_vec();
        if let Err(error) = open.file.close(&blocks) {
            // It is looked through when it is opened.
            tracing::debug!("a file of events has no table: {}", ErrorChain(&error));
        }
    }

    fn settle(&self) {
        self.store.pending().settle(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::events::fixtures::{open, push, recorder, some_history};

    /// However often it is tried.
    #[test]
    fn block_that_is_not_added_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let history = some_history(12);
        let store = open(dir.path(), &history);
        push(&store, &history);
        let mut recorder = recorder(&store);
        let todo = recorder.todo().unwrap();
        store.forget_behind(Index(0));
        recorder.write_block(&todo);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
