//! A disk that remembers what was done to it, so that a crash can be put at any
//! moment of it.
//!
//! ```text
//! log ─▶ RecordingDisk ─▶ a real directory, and the list of what was done
//!                                              │ crash after the n-th step
//!        a directory as it may be found ◀──────┘ unsynced data kept, torn or lost
//! ```
//!
//! What a crash leaves is in `crash_image`.
//!
//! okaywal writes by itself. What it did with a commit is read off the directory
//! afterwards, and listed in the order of its source: the commit, the next segment
//! if this one is full, the fsync. Only what can have changed is read: where the commit
//! stands, and what has another name or length than before. Its own syncs of the
//! directory are left out, save those after a segment is let go: so the log may not
//! rely on them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskFile, SegmentSize, Segments};
use crate::segments::full_segments::FullSegments;
use crate::segments::segment::{self, BEFORE_FRAMES, BEHIND_FRAMES, FILE_HEADER};

/// Something that was done to a disk.
#[derive(Clone, Debug)]
pub(crate) enum DiskOp {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    SetLen(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
    /// Somebody was told that their work is safe.
    Acknowledged(usize),
}

/// The files of a directory: the inode of each name, and what it holds.
type Files = BTreeMap<PathBuf, (u64, Vec<u8>)>;

/// The same, with how long each file is instead.
type Listing = BTreeMap<PathBuf, (u64, usize)>;

/// Where a commit stands: in which file, and where in it.
type Committed = (PathBuf, Range<usize>);

/// A disk that remembers what was done to it. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordingDisk {
    steps: Arc<Mutex<Vec<DiskOp>>>,
    segments: Arc<Mutex<Files>>,
}

impl RecordingDisk {
    /// Returns all that was done.
    pub(crate) fn steps(&self) -> Vec<DiskOp> {
        self.lock().clone()
    }

    /// Takes out all that was done.
    #[cfg(feature = "simulated-disk")]
    pub(crate) fn take_steps(&self) -> Vec<DiskOp> {
        std::mem::take(&mut self.lock())
    }

    /// Notes that somebody was told.
    pub(crate) fn acknowledge(&self, number: usize) {
        self.lock().push(DiskOp::Acknowledged(number));
    }

    /// Notes what okaywal's own thread did to the segments that were let go.
    pub(crate) fn observe(&self, dir: &Path) {
        self.note_segments(dir, None, &mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<DiskOp>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, and remembers it. What other threads do comes before or
    /// after.
    fn record<T>(&self, step: DiskOp, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut steps = self.lock();
        let result = work()?;
        steps.push(step);
        Ok(result)
    }

    /// Reads off the directory what okaywal did. A commit is synced when it is
    /// done, the segment that it went to first of all.
    fn note_segments(&self, dir: &Path, committed: Option<&Committed>, steps: &mut Vec<DiskOp>) {
        let mut known = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, mut changes) = look(dir, &known, committed);
        let_go(&mut known, &now, dir, steps);
        let committed_to = committed.map(|(path, _)| path.as_path());
        changes.sort_by_key(|change| Some(change.path.as_path()) != committed_to);
        for Changed { path, inode, length, at, bytes } in changes {
            let before = known.iter().find(|(_, (known, _))| *known == inode);
            let before = before.map(|(before, _)| before.clone());
            match &before {
                Some(old) if *old != path => steps.push(DiskOp::Rename(old.clone(), path.clone())),
                Some(_) => {}
                None => steps.push(DiskOp::Create(path.clone())),
            }
            let file = before.and_then(|before| known.remove(&before));
            let (_, content) = known.entry(path.clone()).or_insert(file.unwrap_or((inode, vec![])));
            if length < content.len() {
                steps.push(DiskOp::SetLen(path.clone(), length as u64));
                content.truncate(length);
            }
            steps.extend(written(&path, at, &content[at.min(content.len())..], &bytes));
            content.resize(length, 0);
            content[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        known.retain(|path, _| now.contains_key(path));
        steps.extend(committed_to.map(|path| DiskOp::Sync(path.to_owned())));
    }
}

/// Notes the segments that okaywal's own thread has let go since: one after the
/// other, oldest first, with a sync of the directory after each. They may be in
/// use again by now.
fn let_go(known: &mut Files, now: &Listing, dir: &Path, steps: &mut Vec<DiskOp>) {
    let is_spare = |path: &Path| path.to_string_lossy().ends_with("-cp");
    let mut gone: Vec<PathBuf> =
        known.keys().filter(|path| !is_spare(path) && !now.contains_key(*path)).cloned().collect();
    gone.sort_by_key(|path| number_of(path));
    for path in gone {
        let spare = PathBuf::from(format!("{}-cp", path.display()));
        let file = known.remove(&path).expect("listed above");
        known.insert(spare.clone(), file);
        steps.extend([DiskOp::Rename(path, spare), DiskOp::SyncDir(dir.to_owned())]);
    }
}

impl Disk for RecordingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.record(DiskOp::Create(path.to_owned()), || RealDisk.create(path))?;
        Ok(Box::new(RecordingFile { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path)?;
        Ok(Box::new(RecordingFile { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let step = DiskOp::Rename(from.to_owned(), to.to_owned());
        self.record(step, || RealDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.record(DiskOp::Remove(path.to_owned()), || RealDisk.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.record(DiskOp::SyncDir(dir.to_owned()), || RealDisk.sync_dir(dir))
    }

    fn segments(
        &self,
        dir: &Path,
        size: SegmentSize,
        full_segments: FullSegments,
    ) -> io::Result<Box<dyn Segments>> {
        let mut steps = self.lock();
        *self.segments.lock().unwrap_or_else(PoisonError::into_inner) = read_segments(dir);
        let segments = RealDisk.segments(dir, size, full_segments)?;
        self.note_segments(dir, None, &mut steps);
        Ok(Box::new(RecordingSegments { disk: self.clone(), dir: dir.to_owned(), segments }))
    }
}

struct RecordingFile {
    disk: RecordingDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl DiskFile for RecordingFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let step = DiskOp::Write(self.path.clone(), offset, bytes.to_vec());
        self.disk.record(step, || self.file.write_at(bytes, offset))
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.disk.record(DiskOp::SetLen(self.path.clone(), length), || self.file.set_len(length))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.record(DiskOp::Sync(self.path.clone()), || self.file.sync())
    }
}

struct RecordingSegments {
    disk: RecordingDisk,
    dir: PathBuf,
    segments: Box<dyn Segments>,
}

impl Segments for RecordingSegments {
    fn commit(&mut self, number: u64, frames: &[u8]) -> io::Result<(u64, u64)> {
        let mut steps = self.disk.lock();
        let place = self.segments.commit(number, frames)?;
        let at = usize::try_from(place.1).map_err(io::Error::other)?;
        // The header of a file that is used again is written with its first commit.
        let from = if at == FILE_HEADER { 0 } else { at };
        let upto = at + BEFORE_FRAMES + frames.len() + BEHIND_FRAMES;
        let committed = (segment::path(&self.dir, place.0), from..upto);
        self.disk.note_segments(&self.dir, Some(&committed), &mut steps);
        Ok(place)
    }

    fn close(self: Box<Self>) {
        self.segments.close();
    }
}

/// The number in a segment's name.
fn number_of(path: &Path) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Lists the segments.
fn list(dir: &Path) -> Listing {
    let paths = fs::read_dir(dir).into_iter().flatten().map(|file| file.unwrap().path());
    let segments = paths.filter(|path| path.to_string_lossy().contains("/wal-"));
    let described = segments.filter_map(|path| {
        let file = fs::metadata(&path).ok()?;
        Some((path, (file.ino(), usize::try_from(file.len()).ok()?)))
    });
    described.collect()
}

/// What may have been done to a file: what it holds from somewhere on.
struct Changed {
    path: PathBuf,
    inode: u64,
    length: usize,
    at: usize,
    bytes: Vec<u8>,
}

impl Changed {
    fn read(path: &Path, inode: u64, length: usize, part: Range<usize>) -> io::Result<Self> {
        let mut bytes = vec![0; part.len()];
        File::open(path)?.read_exact_at(&mut bytes, part.start as u64)?;
        Ok(Self { path: path.to_owned(), inode, length, at: part.start, bytes })
    }
}

/// Reads what may have changed. okaywal's own thread may give a file another name
/// meanwhile: then once more.
fn look(dir: &Path, known: &Files, committed: Option<&Committed>) -> (Listing, Vec<Changed>) {
    let read = |(path, &(inode, length)): (&PathBuf, &(u64, usize))| {
        let is_as_before = known
            .get(path)
            .is_some_and(|(known, content)| *known == inode && content.len() == length);
        let part = match committed {
            _ if !is_as_before => 0..length,
            Some((committed_to, part)) if committed_to == path => part.clone(),
            Some(_) => return None,
            // Nobody says where something was written.
            None => 0..length,
        };
        Some(Changed::read(path, inode, length, part))
    };
    loop {
        let now = list(dir);
        let changes: io::Result<Vec<_>> = now.iter().filter_map(read).collect();
        if let Ok(changes) = changes
            && list(dir) == now
        {
            return (now, changes);
        }
    }
}

/// Reads all segments as they are.
fn read_segments(dir: &Path) -> Files {
    let (_, files) = look(dir, &Files::new(), None);
    files.into_iter().map(|file| (file.path, (file.inode, file.bytes))).collect()
}

/// What was written to a file from somewhere on, from what it holds before and after.
fn written(path: &Path, from: usize, before: &[u8], after: &[u8]) -> Option<DiskOp> {
    let is_other = |at: &usize| before.get(*at) != Some(&after[*at]);
    let first = (0..after.len()).find(is_other)?;
    let last = (0..after.len()).rfind(is_other)?;
    Some(DiskOp::Write(path.to_owned(), (from + first) as u64, after[first..=last].to_vec()))
}
