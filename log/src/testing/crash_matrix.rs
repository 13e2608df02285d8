//! The crash matrix: a crash after every single step that the log takes on disk,
//! and every way in which the disk may be found afterwards.
//!
//! The law: the log opens; it holds all that was acknowledged before the crash, and
//! besides that at most the one write that was under way; its vote is the last one
//! acknowledged, or the one under way; and it goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::archive::retention::Retain;
use crate::disk::Disk as _;
use crate::storage::{LogStorage as _, Write};
use crate::testing::crash_image::{Crash, Image};
use crate::testing::fixtures::{self, NODE};
use crate::testing::simulated_disk::{DiskOp, RecordingDisk};
use crate::types::{Entry, RaftIndex, Term, Vote};
use crate::wal::Wal;
use crate::wal::options::WalOptions;

/// So small that the workload fills many segments.
const SEGMENT_BYTES: u32 = 2048;

/// So little that sealed files are dropped.
const RETAIN: Retain = Retain::Bytes(2000);

/// What the log holds once a write is acknowledged.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: Vec<Arc<Entry>>,
    vote: Option<Vote>,
    /// How many entries at the beginning may have been dropped.
    droppable: u64,
}

impl Model {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Write::Vote(vote) => self.vote = Some(*vote),
            Write::Truncate { since } => {
                self.entries.truncate(usize::try_from(since.0).unwrap());
            }
            Write::Purge { .. }
            | Write::Install { .. }
            | Write::Backfill { .. }
            | Write::Forget { .. } => {}
        }
    }
}

/// A log at work on a disk that remembers.
struct Workload {
    dir: TempDir,
    disk: Arc<RecordingDisk>,
    wal: Wal,
    /// What the log holds after each acknowledgement; before the first, nothing.
    models: Vec<Model>,
    term: u64,
}

fn options(dir: &Path) -> WalOptions {
    WalOptions { retain: RETAIN, ..fixtures::options(dir, SEGMENT_BYTES) }
}

fn dirs(dir: &Path) -> [PathBuf; 3] {
    ["wal", "archive", "checkpoints"].map(|name| dir.join(name))
}

/// A directory that need not outlive the machine, so one in memory will do.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

impl Workload {
    fn new() -> Self {
        let dir = scratch();
        fs::create_dir(dir.path().join("checkpoints")).unwrap();
        let disk = Arc::new(RecordingDisk::default());
        let (wal, _) = Wal::open_on(&disk, &options(dir.path())).unwrap();
        Self { dir, disk, wal, models: vec![Model::default()], term: 1 }
    }

    fn write(&mut self, write: Write) {
        let mut model = self.models.last().unwrap().clone();
        model.apply(&write);
        self.models.push(model);
        fixtures::write(&self.wal, write).unwrap();
        self.disk.acknowledge(self.models.len() - 1);
    }

    fn vote(&mut self) {
        self.term += 1;
        let term = Term(self.term);
        self.write(Write::Vote(Vote { term, node: NODE, committed: false }));
    }

    /// Appends entries, each with a commit of its own.
    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let index = self.models.last().unwrap().entries.len() as u64;
            self.write(Write::Append(vec![entry(index, self.term)]));
        }
    }

    /// Another leader overrules the last entries.
    fn conflict(&mut self, count: u64) {
        let length = self.models.last().unwrap().entries.len() as u64;
        self.vote();
        self.write(Write::Truncate { since: RaftIndex(length - count) });
    }

    /// Writes a checkpoint of all entries so far, and waits until what it settles
    /// has been sealed, and dropped if it is too much.
    fn checkpoint(&mut self) {
        let last = self.models.last().unwrap().entries.last().unwrap().id;
        self.wal.note_committed(last);
        // A commit that takes the note along, and begins a segment if one is full.
        self.write(Write::Purge { upto: last });
        let dir = self.dir.path().join("checkpoints");
        let (draft, path) =
            (dir.join("draft.tmp"), dir.join(format!("{}.checkpoint", last.index.0)));
        let mut file = self.disk.create(&draft).unwrap();
        file.write_at(b"a checkpoint", 0).unwrap();
        file.sync().unwrap();
        self.disk.rename(&draft, &path).unwrap();
        self.disk.sync_dir(&dir).unwrap();
        // All that the checkpoint contains may be dropped.
        let model = self.models.last_mut().unwrap();
        model.droppable = last.index.0 + 1;
        self.wal.note_checkpoints(Some(last.index), Some(last.index));
        self.settle();
    }

    /// Waits until there is nothing left to be sealed, dropped, or let go.
    fn settle(&self) {
        let dir = self.dir.path().join("wal");
        let is_settled = || {
            let Some(released) = self.wal.released() else { return false };
            let names = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name());
            let numbers =
                names.filter_map(|name| name.to_str()?.strip_prefix("wal-")?.parse().ok());
            let mut numbers: Vec<u64> = numbers.collect();
            numbers.retain(|number| *number <= released);
            numbers.is_empty() && self.wal.reader().archived().1 <= 2000
        };
        fixtures::eventually("all is settled", is_settled);
        self.disk.observe(&dir);
    }
}

fn entry(index: u64, term: u64) -> Arc<Entry> {
    fixtures::entry(index, term, &format!("{index} of {term} {}", "v".repeat(100)))
}

/// Everything that a log does: votes, entries over several segments, a conflict,
/// checkpoints, sealing, segments that are used again, dropping.
fn workload() -> Workload {
    let mut work = Workload::new();
    work.vote();
    work.append(9);
    work.conflict(3);
    work.append(8);
    work.checkpoint();
    work.append(14);
    work.conflict(2);
    work.append(3);
    work.checkpoint();
    work.append(20);
    work.checkpoint();
    work.append(2);
    work
}

/// Opens what a crash has left, and holds it against what was acknowledged.
fn check(found: &BTreeMap<PathBuf, Vec<u8>>, root: &Path, models: &[Model]) -> Result<(), String> {
    let dir = scratch();
    for path in dirs(dir.path()) {
        fs::create_dir(path).unwrap();
    }
    for (path, content) in found {
        fs::write(dir.path().join(path.strip_prefix(root).unwrap()), content).unwrap();
    }
    let mut next = compare(dir.path(), models)?;
    // It goes on from there, and what it writes now is there as well.
    for _ in 0..2 {
        let (wal, _) = Wal::open(&options(dir.path())).map_err(|error| error.to_string())?;
        let added = entry(next.entries.len() as u64, 1000);
        next.apply(&Write::Append(vec![Arc::clone(&added)]));
        fixtures::write(&wal, Write::Append(vec![added])).map_err(|error| error.to_string())?;
        wal.close().map_err(|error| error.to_string())?;
        next = compare(dir.path(), &[next])?;
    }
    Ok(())
}

/// Returns the model that a log agrees with.
fn compare(dir: &Path, models: &[Model]) -> Result<Model, String> {
    let (wal, _) = Wal::open(&options(dir)).map_err(|error| error.to_string())?;
    let (state, first) = (wal.state(), wal.first());
    let read = wal.reader().iter(first..RaftIndex(u64::MAX)).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| error.to_string())?;
    wal.close().map_err(|error| error.to_string())?;
    let agrees = |model: &&Model| {
        state.vote == model.vote
            && first.0 <= model.droppable
            && model.entries.get(usize::try_from(first.0).unwrap()..) == Some(&read)
    };
    models.iter().find(agrees).cloned().ok_or_else(|| {
        let expected: Vec<_> =
            models.iter().map(|model| (model.entries.len(), model.vote)).collect();
        format!("vote {:?}, {} entries from {first}; expected {expected:?}", state.vote, read.len())
    })
}

const CRASHES: [Crash; 10] = [
    Crash::KeepsAll,
    Crash::LosesAll,
    Crash::LosesData,
    Crash::LosesNames,
    Crash::TearsTails,
    Crash::TearsHeads,
    Crash::KeepsSome(1),
    Crash::KeepsSome(2),
    Crash::KeepsSome(3),
    Crash::KeepsSome(4),
];

/// Crashes after every step, in every way, and checks what is found each time.
/// Returns how many different disks were found.
fn crash_everywhere(mut image: Image, steps: &[DiskOp], root: &Path, models: &[Model]) -> usize {
    let mut seen = BTreeSet::new();
    let mut acknowledged = 0;
    for (at, step) in steps.iter().enumerate() {
        image.apply(step);
        if let DiskOp::Acknowledged(number) = step {
            acknowledged = *number;
        }
        for crash in CRASHES {
            let found = image.after(crash);
            if !seen.insert((acknowledged, found.clone())) {
                continue;
            }
            let possible = &models[acknowledged..models.len().min(acknowledged + 2)];
            if let Err(what) = check(&found, root, possible) {
                let files: Vec<_> = found.keys().map(|path| path.file_name().unwrap()).collect();
                panic!("{crash:?} after step {at}, {}: {what}\n{files:?}", shown(step));
            }
        }
    }
    seen.len()
}

fn shown(step: &DiskOp) -> String {
    match step {
        DiskOp::Write(path, offset, bytes) => {
            format!("Write({}, {offset}, {} bytes)", path.display(), bytes.len())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn nothing_acknowledged_is_lost_wherever_a_crash_comes() {
    let work = workload();
    let steps = work.disk.steps();
    let count = |wanted: fn(&DiskOp) -> bool| steps.iter().filter(|step| wanted(step)).count();
    // Without these the matrix would prove less than it says.
    let reused = |step: &DiskOp| matches!(step, DiskOp::Rename(from, _) if from.to_string_lossy().ends_with("-cp"));
    assert!(steps.iter().any(reused), "no segment was used again");
    assert!(count(|step| matches!(step, DiskOp::Remove(_))) > 0, "nothing was dropped");
    assert!(count(|step| matches!(step, DiskOp::SetLen(..))) > 0, "no room was given back");
    assert!(count(|step| matches!(step, DiskOp::Acknowledged(_))) > 60);
    let found = crash_everywhere(Image::default(), &steps, work.dir.path(), &work.models);
    assert!(found > 500, "{found} disks");
}

/// Opening repairs what a crash has left, and may be cut short itself.
#[test]
fn opening_can_be_cut_short_as_well() {
    let work = workload();
    let steps = work.disk.steps();
    let mut image = Image::default();
    let mut acknowledged = 0;
    for (at, step) in steps.iter().enumerate() {
        image.apply(step);
        if let DiskOp::Acknowledged(number) = step {
            acknowledged = *number;
        }
        if at % 11 != 0 {
            continue;
        }
        let possible = &work.models[acknowledged..work.models.len().min(acknowledged + 2)];
        for crash in [Crash::TearsTails, Crash::KeepsSome(5)] {
            open_and_crash(&image.after(crash), work.dir.path(), possible);
        }
    }
}

fn open_and_crash(found: &BTreeMap<PathBuf, Vec<u8>>, root: &Path, possible: &[Model]) {
    let dir = scratch();
    for path in dirs(dir.path()) {
        fs::create_dir(path).unwrap();
    }
    for (path, content) in found {
        fs::write(dir.path().join(path.strip_prefix(root).unwrap()), content).unwrap();
    }
    let all = dirs(dir.path());
    let image = Image::of(&[&all[0], &all[1], &all[2]]);
    let disk = Arc::new(RecordingDisk::default());
    let (wal, _) = Wal::open_on(&disk, &options(dir.path())).unwrap();
    wal.close().unwrap();
    // Which of the two it is was settled when it opened, but not acknowledged.
    let steps: Vec<_> = disk.steps();
    let mut image = image;
    for step in &steps {
        image.apply(step);
        for crash in CRASHES {
            if let Err(what) = check(&image.after(crash), dir.path(), possible) {
                panic!("opening, {crash:?} after {}: {what}", shown(step));
            }
        }
    }
}

/// The simulated disk must hold what the real one does, or it proves nothing.
#[test]
fn simulated_disk_holds_what_the_real_one_does() {
    let work = workload();
    // Until then okaywal may still be letting segments go.
    work.wal.close().unwrap();
    work.disk.observe(&work.dir.path().join("wal"));
    let steps = work.disk.steps();
    let mut image = Image::default();
    for step in &steps {
        image.apply(step);
    }
    let real: BTreeMap<_, _> = dirs(work.dir.path())
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let simulated = image.after(Crash::KeepsAll);
    assert_eq!(real.keys().collect::<Vec<_>>(), simulated.keys().collect::<Vec<_>>());
    for (path, content) in &real {
        assert!(simulated[path] == *content, "{}", path.display());
    }
}
