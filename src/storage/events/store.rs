//! The store: what is in the files and in memory, as one.
//!
//! A file is believed up to where the outcomes begin that are in memory: those are what
//! the fold has made, and the files are compared with them before they are let go.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{ClusterId, EventNumber, Index, IoError, LogTime};
use etcd_projections::{Outcome, Position};

use super::block::BlockPlace;
use super::file::{EventFile, FileFault};
use super::files::{Files, Mend, Run};
use super::open_files::OpenFiles;
use super::pending::{Batch, Pending};
use super::reader::EventReader;
use super::record::{Interest, Stored};
use crate::util::error_chain::ErrorChain;

/// The event store of a machine, to read from. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct EventStore {
    pub(super) dir: Arc<Path>,
    pub(super) cluster: ClusterId,
    pub(super) open_files: OpenFiles,
    files: Arc<Mutex<Files>>,
    pending: Arc<Mutex<Pending>>,
}

/// What has become of outcomes that were pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pushed {
    /// Whether there was room for them.
    pub(super) has_room: bool,
    /// Whether there is enough for a block by now.
    pub(super) has_block: bool,
}

/// Where to find the outcomes that follow a position, or that lead to one.
pub(super) enum Source {
    /// In memory.
    Memory(Arc<Batch>),
    /// In a file, as far as it is believed.
    File(EventFile, BlockPlace),
    /// There are none: it is where the machine stands, or where history begins.
    End,
    /// Not here.
    Nowhere,
}

impl EventStore {
    /// Opens the store of a cluster in a directory, which need not be there, for a machine
    /// that stands at a position. Files that are of no use are removed, and reported.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path, cluster: ClusterId, newest: Position) -> Result<Self, IoError> {
        fs::create_dir_all(dir).map_err(IoError::at("create", dir))?;
        let (mut found, open_files) = (Vec::new(), OpenFiles::default());
        for path in paths(dir)? {
            match EventFile::open(&path, &open_files, cluster) {
                Ok(file) => found.push(file),
                // It may be as good as ever: whoever starts the next time looks again.
                Err(error @ FileFault::Io(_)) => {
                    tracing::warn!("events are left out, the log has them: {}", ErrorChain(&error));
                }
                Err(error) => remove_useless(&path, &ErrorChain(&error).to_string()),
            }
        }
        found.sort_by_key(|found| found.before);
        let mut files = Files::default();
        for found in found {
            let run = Run { file: found.file, blocks: found.blocks };
            if let Err(file) = files.add(found.before, run) {
                remove_useless(file.path(), "it holds nothing that others do not");
            }
        }
        let (files, pending) = (Arc::new(Mutex::new(files)), Pending::new(newest));
        let (dir, pending) = (Arc::from(dir), Arc::new(Mutex::new(pending)));
        Ok(Self { dir, cluster, open_files, files, pending })
    }

    /// Returns whether every outcome is here from an event on, up to what was applied
    /// last.
    pub fn covers(&self, from: EventNumber) -> bool {
        let newest = self.newest();
        let last = self.ranges().pop().filter(|range| range.end == newest);
        last.map_or(newest, |range| range.start).event < from
    }

    /// Returns whether every outcome is here from a command on, up to what was applied
    /// last.
    pub fn reaches_back_to(&self, index: Index) -> bool {
        let newest = self.newest();
        let last = self.ranges().pop().filter(|range| range.end == newest);
        last.map_or(newest, |range| range.start).index < index
    }

    /// Returns the positions between which every outcome is here, oldest first: from
    /// behind the start of each up to its end.
    pub fn ranges(&self) -> Vec<Range<Position>> {
        let (first, pending) = {
            let pending = self.pending();
            (pending.first(), pending.ranges().collect::<Vec<_>>())
        };
        let files: Vec<_> = self.files().ranges().collect();
        let believed = files.into_iter().map(|range| range.start..range.end.min(first));
        let believed = believed.filter(|range| range.start < range.end);
        let mut ranges: Vec<Range<Position>> = Vec::new();
        for range in believed.chain(pending) {
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Returns how many bytes the files have, about.
    pub fn bytes(&self) -> u64 {
        self.files().bytes()
    }

    /// Returns a reader of what came after a position, oldest first.
    pub fn after(&self, position: Position, interest: Interest) -> EventReader {
        EventReader::forward(self.clone(), position, interest)
    }

    /// Returns a reader of what led to a position, newest first.
    pub fn before(&self, position: Position, interest: Interest) -> EventReader {
        EventReader::backward(self.clone(), position, interest)
    }

    /// Returns where the machine stands.
    pub fn newest(&self) -> Position {
        self.pending().newest()
    }

    /// Returns where a command led, with all of its events, before any expiry that followed
    /// it; nothing, if that is not known here. It reads two blocks at most, unless a restore
    /// fills them.
    pub fn position_at_index(&self, index: Index) -> Option<Position> {
        if index == Index(0) {
            return Some(Position::default());
        }
        self.around_index(index).and_then(|(_, first)| self.end_of_command(first))
    }

    /// Returns where a command led of which this is the first outcome: a restore has more.
    fn end_of_command(&self, first: Position) -> Option<Position> {
        let (mut end, mut reader) = (first, self.after(first, Interest::All));
        while let Some(chunk) = reader.next(1).ok()? {
            for stored in chunk.stored {
                // Of the outcomes without an index of their own, the others are the clock's.
                if stored.position.index > first.index || stored.is_of_the_clock() {
                    return Some(end);
                }
                end = stored.position;
            }
        }
        Some(end)
    }

    /// Returns the position before a command, behind the expiries that preceded it; before
    /// the next one, where the machine stands. Nothing, if that is not known here. It reads
    /// a block at most.
    pub fn position_before_index(&self, index: Index) -> Option<Position> {
        let newest = self.newest();
        if index == newest.index.next() {
            return Some(newest);
        }
        self.around_index(index).map(|(before, _)| before)
    }

    /// Returns the position before an event, as [`Self::position_before_index`] does.
    pub fn position_before_event(&self, number: EventNumber) -> Option<Position> {
        let newest = self.newest();
        if number == newest.event.next() {
            return Some(newest);
        }
        let file = |files: &Files| files.at_event(number);
        let around = self.around(|position| position.event >= number, file);
        around.map(|(before, _)| before)
    }

    fn around_index(&self, index: Index) -> Option<(Position, Position)> {
        self.around(|position| position.index >= index, |files| files.at_index(index))
    }

    /// Returns the position of the first outcome that has come so far, and the one before.
    fn around(
        &self,
        has_come: impl Fn(&Position) -> bool,
        find: impl Fn(&Files) -> Option<(EventFile, BlockPlace)>,
    ) -> Option<(Position, Position)> {
        let (batch, limit) = {
            let pending = self.pending();
            (pending.first_that(|batch| has_come(&batch.after)), pending.first())
        };
        if let Some(batch) = batch.filter(|batch| !has_come(&batch.before)) {
            let at = batch.outcomes.partition_point(|outcome| !has_come(&outcome.position));
            let before = at.checked_sub(1).map_or(batch.before, |at| batch.outcomes[at].position);
            return Some((before, batch.outcomes[at].position));
        }
        let (file, block) = find(&self.files())?;
        let mut records = self.read(&file, &block, &Interest::All)?.into_iter();
        let (before, stored) = records.find(|(_, stored)| has_come(&stored.position))?;
        (stored.position <= limit).then_some((before, stored.position))
    }

    /// Returns the last position at a logged time or before it; nothing, if that is not
    /// known here. It reads a block at most.
    pub fn position_at_time(&self, time: LogTime) -> Option<Position> {
        let (batch, first) = {
            let pending = self.pending();
            if pending.newest().time <= time {
                return Some(pending.newest());
            }
            let batch = pending.first_that(|batch| time < batch.after.time);
            (batch.filter(|batch| batch.before.time <= time), pending.first())
        };
        let is_then = |position: &Position| position.time <= time;
        if let Some(batch) = batch {
            let positions = batch.outcomes.iter().map(|outcome| outcome.position);
            return Some(positions.take_while(is_then).last().unwrap_or(batch.before));
        }
        let (file, block) = self.files().at_time(time)?;
        let records = self.read(&file, &block, &Interest::All)?;
        let positions = records.iter().map(|(_, stored)| stored.position);
        let last = positions.take_while(is_then).last().unwrap_or(block.before);
        (last <= first).then_some(last)
    }

    /// Removes the files of which every outcome lies before a command.
    pub fn forget_before(&self, index: Index) {
        let mends = self.files().forget_before(index);
        mends.into_iter().for_each(mend);
    }

    /// Forgets what came of the commands behind one: the state that it came of may not have
    /// been what the log says. It is filled in from the log again.
    pub fn forget_behind(&self, index: Index) {
        self.pending().forget_behind(index);
        self.files().forget_behind(index);
    }

    /// Takes outcomes that follow a position. Waits for no disk.
    pub(super) fn push(&self, before: Position, outcomes: Vec<Outcome>) -> Pushed {
        let (was_full, has_room, has_block) = {
            let pending = &mut self.pending();
            (pending.is_full(), pending.push(before, outcomes), pending.has_block())
        };
        if !has_room && !was_full {
            // What lies there in files is from before a start, and is compared with nothing.
            self.files().forget_after(before);
        }
        Pushed { has_room, has_block }
    }

    /// Does to the files what was left to be done when something of them was forgotten.
    pub(super) fn mend_files(&self) {
        let owed = self.files().take_owed();
        owed.into_iter().for_each(mend);
    }

    /// Returns how often something was forgotten because it may have been wrong.
    pub fn epoch(&self) -> u64 {
        self.files().epoch()
    }

    /// Forgets what is in files between two positions: nobody can say whether it is what the
    /// log says. It is filled in from the log again.
    pub(super) fn forget_between(&self, range: &Range<Position>) {
        self.files().forget_between(range);
    }

    /// Returns where to find the outcome that follows a position, and up to where a file
    /// that holds it is believed.
    pub(super) fn following(&self, position: Position) -> (Source, Position) {
        let (batch, first, newest) = {
            let pending = self.pending();
            (pending.following(position), pending.first(), pending.newest())
        };
        let source = if position >= newest {
            Source::End
        } else if let Some(batch) = batch {
            Source::Memory(batch)
        } else {
            let block = self.files().following(position).filter(|_| position < first);
            block.map_or(Source::Nowhere, |(file, block)| Source::File(file, block))
        };
        (source, first)
    }

    /// Returns where to find the outcome that led to a position.
    pub(super) fn leading_to(&self, position: Position) -> Source {
        let (batch, first) = {
            let pending = self.pending();
            (pending.leading_to(position), pending.first())
        };
        if position == Position::default() {
            Source::End
        } else if let Some(batch) = batch {
            Source::Memory(batch)
        } else {
            let block = self.files().leading_to(position).filter(|_| position <= first);
            block.map_or(Source::Nowhere, |(file, block)| Source::File(file, block))
        }
    }

    /// Reads what is of interest from a block. One that is not as it was written becomes a
    /// gap, and is reported.
    pub(super) fn read(
        &self,
        file: &EventFile,
        block: &BlockPlace,
        interest: &Interest,
    ) -> Option<Vec<(Position, Stored)>> {
        match file.outcomes(block, interest) {
            Ok(outcomes) => Some(outcomes),
            Err(error) => {
                self.give_up(file, block, &error);
                None
            }
        }
    }

    /// Makes a block, and what lies behind it in its file, a gap.
    pub(super) fn give_up(&self, file: &EventFile, block: &BlockPlace, why: &FileFault) {
        let cut = self.files().cut(file, block);
        if let Some(cut) = cut {
            tracing::warn!("events are given up, the log has them: {}", ErrorChain(why));
            mend(cut);
        }
    }

    /// Returns a store of the same files, for whoever fills in what is missing: it stands
    /// at a position, and is given what comes behind.
    pub(super) fn beside(&self, position: Position) -> Self {
        Self { pending: Arc::new(Mutex::new(Pending::new(position))), ..self.clone() }
    }

    /// Lets go of the lock soon: readers wait for it.
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the lock soon: applying waits for it.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does to a file what is to be done.
pub(super) fn mend(mend: Mend) {
    let mended = match mend {
        Mend::Cut(file, length) => file.cut(length),
        Mend::Remove(file) => file.remove(),
    };
    if let Err(error) = mended {
        // The next start finds the same again.
        tracing::debug!("a file of events stays as it is: {}", ErrorChain(&error));
    }
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>, IoError> {
    let entries = fs::read_dir(dir).map_err(IoError::at("list", dir))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: Vec<_> = paths.collect::<io::Result<_>>().map_err(IoError::at("list", dir))?;
    let is_ours = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "events");
    Ok(paths.into_iter().filter(is_ours).collect())
}

fn remove_useless(path: &Path, why: &str) {
    tracing::warn!("{} is removed, the log has its events: {why}", path.display());
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!("{} cannot be removed: {error}", path.display());
    }
}
