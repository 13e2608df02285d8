//! The files that there are, by the positions that they hold: no two hold the same one.

use std::collections::BTreeMap;
use std::ops::Range;

use etcd_log::{EventNumber, Index, LogTime};
use etcd_projections::Position;

use super::block::BlockPlace;
use super::file::{EventFile, end_of};

/// The files, by the position before their first outcome.
#[derive(Debug, Default)]
pub(super) struct Files {
    runs: BTreeMap<Position, Run>,
    /// How often something was forgotten because it may be wrong: a block that was begun
    /// before that may be, too.
    epoch: u64,
    /// What is to be done to files of which something was forgotten, by whoever may wait for
    /// the disk.
    owed: Vec<Mend>,
}

/// A file that holds something, and where its blocks lie.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: EventFile,
    pub(super) blocks: Vec<BlockPlace>,
}

impl Run {
    /// Where its last outcome led.
    fn after(&self) -> Position {
        self.blocks.last().expect("a file that holds nothing is none").after
    }
}

/// What has to be done to a file of which something was wrong, once nobody waits.
#[derive(Debug)]
pub(super) enum Mend {
    /// It is to end here.
    Cut(EventFile, u64),
    /// Nothing of it is any good.
    Remove(EventFile),
}

impl Files {
    /// Adds a file that was found. Returns it if it holds nothing, or what another one
    /// holds too.
    pub(super) fn add(&mut self, before: Position, run: Run) -> Result<(), EventFile> {
        let fits = run.blocks.last().is_some_and(|last| {
            self.run_before(last.after).is_none_or(|(_, other)| other.after() <= before)
        });
        if !fits {
            return Err(run.file);
        }
        self.runs.insert(before, run);
        Ok(())
    }

    /// Returns when this is, as [`Files::add_block`] wants to know it.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds the next block of a file that begins at a position, which was begun at some time.
    /// Returns whether that could be: whether nothing was forgotten since, the file is still
    /// as it was, and nobody else has written there.
    pub(super) fn add_block(
        &mut self,
        epoch: u64,
        start: Position,
        file: &EventFile,
        block: BlockPlace,
    ) -> bool {
        if epoch != self.epoch {
            return false;
        }
        let is_taken = self
            .run_before(block.after)
            .is_some_and(|(other, run)| *other > block.before || run.after() > block.before);
        if is_taken {
            return false;
        }
        match self.runs.get_mut(&start) {
            Some(run) if run.file.is(file) && end_of(&run.blocks) == block.offset => {
                run.blocks.push(block);
                true
            }
            None if start == block.before => {
                self.runs.insert(start, Run { file: file.clone(), blocks: vec![block] });
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns the blocks of a file that begins at a position.
    pub(super) fn blocks(&self, start: Position) -> &[BlockPlace] {
        self.runs.get(&start).map_or(&[], |run| &run.blocks)
    }

    /// Returns the block with the outcome that follows a position.
    pub(super) fn following(&self, position: Position) -> Option<(EventFile, BlockPlace)> {
        let (_, run) = self.runs.range(..=position).next_back()?;
        run.find(|block| block.before <= position, |block| position < block.after)
    }

    /// Returns the block with the outcome that led to a position or, if it lies between
    /// two outcomes, to where those before it did.
    pub(super) fn leading_to(&self, position: Position) -> Option<(EventFile, BlockPlace)> {
        let (_, run) = self.run_before(position)?;
        run.find(|block| block.before < position, |block| position <= block.after)
    }

    /// Returns the block with the command of an index.
    pub(super) fn at_index(&self, index: Index) -> Option<(EventFile, BlockPlace)> {
        // No position of this index stands before it.
        let lowest = Position { index, ..Position::default() };
        let (_, run) = self.run_before(lowest)?;
        run.find(|block| block.before.index < index, |block| index <= block.after.index)
    }

    /// Returns the block with the event of a number.
    pub(super) fn at_event(&self, number: EventNumber) -> Option<(EventFile, BlockPlace)> {
        let run = self.runs.values().rev().find(|run| run.blocks[0].before.event < number)?;
        run.find(|block| block.before.event < number, |block| number <= block.after.event)
    }

    /// Returns the block during which a logged time was passed.
    pub(super) fn at_time(&self, time: LogTime) -> Option<(EventFile, BlockPlace)> {
        let run = self.runs.values().rev().find(|run| run.blocks[0].before.time <= time)?;
        run.find(|block| block.before.time <= time, |block| time < block.after.time)
    }

    /// Returns where the next file behind a position begins.
    pub(super) fn next_start(&self, position: Position) -> Option<Position> {
        let next = self.runs.keys().find(|start| **start > position);
        next.copied()
    }

    /// Returns the positions between which everything is there, oldest first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<Position>> {
        self.runs.iter().map(|(start, run)| *start..run.after())
    }

    /// Returns how many bytes all files have, about.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.values().map(|run| end_of(&run.blocks)).sum()
    }

    /// Forgets a block and what lies behind it in its file. Returns what is to be done to
    /// the file; nothing, if it is known already.
    pub(super) fn cut(&mut self, file: &EventFile, block: &BlockPlace) -> Option<Mend> {
        let (start, run) = self.runs.range_mut(..=block.before).next_back()?;
        let at = run.blocks.iter().position(|other| other == block)?;
        if !run.file.is(file) {
            return None;
        }
        if at > 0 {
            run.blocks.truncate(at);
            return Some(Mend::Cut(run.file.clone(), block.offset));
        }
        let start = *start;
        self.remove(start)
    }

    /// Forgets the file that begins at a position. Returns what is to be done to it.
    pub(super) fn remove(&mut self, start: Position) -> Option<Mend> {
        self.runs.remove(&start).map(|run| Mend::Remove(run.file))
    }

    /// Forgets the files of which every outcome lies before a command. Returns what is to
    /// be done to them.
    pub(super) fn forget_before(&mut self, index: Index) -> Vec<Mend> {
        let old = self.runs.iter().take_while(|(_, run)| run.after().index < index);
        let old: Vec<_> = old.map(|(start, _)| *start).collect();
        old.into_iter().filter_map(|start| self.remove(start)).collect()
    }

    /// Returns what is to be done to files of which something was forgotten, once.
    pub(super) fn take_owed(&mut self) -> Vec<Mend> {
        std::mem::take(&mut self.owed)
    }

    /// Forgets every block with an outcome behind a command.
    pub(super) fn forget_behind(&mut self, index: Index) {
        self.forget_from(|block| block.after.index > index);
    }

    /// Forgets every block with an outcome behind a position.
    pub(super) fn forget_after(&mut self, position: Position) {
        self.forget_from(|block| block.after > position);
    }

    /// Forgets every block with an outcome between two positions.
    pub(super) fn forget_between(&mut self, range: &Range<Position>) {
        self.forget_from(|block| range.start < block.after && block.before < range.end);
    }

    /// Forgets the first block of each file that may be wrong, and what lies behind it there.
    fn forget_from(&mut self, may_be_wrong: impl Fn(&BlockPlace) -> bool) {
        self.epoch += 1;
        let first = |run: &Run| {
            let first = run.blocks.iter().find(|block| may_be_wrong(block));
            first.map(|block| (run.file.clone(), *block))
        };
        let cuts: Vec<_> = self.runs.values().filter_map(first).collect();
        for (file, block) in cuts {
            let mend = self.cut(&file, &block);
            self.owed.extend(mend);
        }
    }

    fn run_before(&self, position: Position) -> Option<(&Position, &Run)> {
        self.runs.range(..position).next_back()
    }
}

impl Run {
    /// Returns the last block that begins early enough, if it ends late enough.
    fn find(
        &self,
        begins: impl Fn(&BlockPlace) -> bool,
        ends: impl Fn(&BlockPlace) -> bool,
    ) -> Option<(EventFile, BlockPlace)> {
        let at = self.blocks.partition_point(begins).checked_sub(1)?;
        let block = self.blocks[at];
        ends(&block).then(|| (self.file.clone(), block))
    }
}
