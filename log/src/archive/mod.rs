//! The archive: settled history, in sealed files that follow each other.
//!
//! ```text
//! archive/00000000000000000001-00000000000000041877.sealed   commands 1 to 41877
//!         00000000000000041878-00000000000000083412.sealed   … and so on, without gaps
//!         draft.tmp                                          left by a crash; removed
//! ```
//!
//! Contents come at one end and go at the other. Each names the hash of the one
//! before it, so that a file that is missing, swapped or doubled is noticed at
//! every start. A copy of the directory is a backup.

pub(crate) mod retention;
pub(crate) mod sealed;

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::sealed::{Predecessor, Sealed, SealedReader};
use crate::disk::Disk;
use crate::error::{Damage, Gap, LogError};
use crate::files::IoError;
use crate::types::{Entry, Index, LogId, RaftIndex};

/// How many files are kept open for readers.
const OPEN_FILES: usize = 4;

/// The sealed files of a directory. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Archive {
    shared: Arc<Contents>,
}

struct Contents {
    dir: PathBuf,
    /// Oldest first, without gaps.
    files: Mutex<VecDeque<Arc<Sealed>>>,
    /// Those read last, newest first.
    open: Mutex<VecDeque<Arc<SealedReader>>>,
    /// Held by whoever writes the next file.
    sealing: Mutex<()>,
}

impl Archive {
    /// Opens the archive of a directory, which need not be there: checks all
    /// footers, and that each file follows the one before. What lies before
    /// `forgotten` is left out, for it only waits to be removed, and may be damaged. Without segments
    /// it is a copy, which may begin anywhere.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is damaged, of a later version, or missing.
    pub(crate) fn open(
        dir: &Path,
        forgotten: Option<LogId>,
        is_copy: bool,
    ) -> Result<Self, LogError> {
        let mut files: VecDeque<Arc<Sealed>> = VecDeque::new();
        let mut next = (RaftIndex(0), Index(1));
        let kept_from = forgotten.map_or(RaftIndex(0), |upto| upto.index.next());
        // The damage found before anything that is kept.
        let mut damage = None;
        for (path, first, last) in list(dir)? {
            let sealed = match Sealed::open(&path, next) {
                Ok(sealed) => sealed,
                Err(error @ LogError::Damage(_)) if forgotten.is_some() && files.is_empty() => {
                    damage.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // It tells whether what lies before is kept.
            match damage.take() {
                Some(error) if sealed.footer.first > kept_from => return Err(error),
                Some(_) | None => {}
            }
            if sealed.footer.last.index < kept_from {
                continue;
            }
            check_name(&sealed, first, last, next)?;
            if let Some(before) = files.back() {
                check_order(&sealed, before, next)?;
            }
            next = (sealed.footer.last.index.next(), sealed.footer.index.next());
            files.push_back(Arc::new(sealed));
        }
        if let Some(error) = damage {
            return Err(error);
        }
        if let Some(oldest) = files.front().filter(|_| !is_copy) {
            let (found, expected) = (oldest.footer.first, kept_from);
            if found > expected {
                let command = if forgotten.is_some() { oldest.footer.before } else { Index(0) };
                let next = (expected, command.next());
                let (found, expected) = (format!("entry {found}"), format!("entry {expected}"));
                return Err(Gap::before(&oldest.path, found, expected, next));
            }
        }
        let (files, open, sealing) = (Mutex::new(files), Mutex::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Contents { dir: dir.to_owned(), files, open, sealing }) })
    }

    /// Returns where the files lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Removes what a crash has left, a draft, and files that had been forgotten; and
    /// makes sure that the others are there for good.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub(crate) fn clear_up(&self, disk: &dyn Disk) -> Result<(), LogError> {
        let dir = self.dir();
        let draft = sealed::draft(dir);
        let kept = self.files().front().map(|file| file.path.clone());
        let forgotten = list(dir)?.into_iter().map(|(path, ..)| path);
        let forgotten: Vec<_> = forgotten.take_while(|path| Some(path) != kept.as_ref()).collect();
        for path in draft.exists().then_some(&draft).into_iter().chain(&forgotten) {
            disk.remove(path).map_err(IoError::at("remove", path))?;
        }
        // A file that is there may not be so for good: the last process may have
        // been killed between naming it and this. Its segments go before long.
        Ok(disk.sync_dir(dir).map_err(IoError::at("sync", dir))?)
    }

    /// Returns the files, oldest first.
    pub(crate) fn sealed(&self) -> Vec<Arc<Sealed>> {
        self.files().iter().cloned().collect()
    }

    /// Returns the first entry, if there is one.
    pub(crate) fn first(&self) -> Option<RaftIndex> {
        self.files().front().map(|file| file.footer.first)
    }

    /// Returns the first entry, if there is one, and the last command before it.
    pub(crate) fn oldest(&self) -> Option<(RaftIndex, Index)> {
        self.files().front().map(|file| (file.footer.first, file.footer.before))
    }

    /// Returns the newest file.
    pub(crate) fn newest(&self) -> Option<Arc<Sealed>> {
        self.files().back().cloned()
    }

    /// Returns the last entry, if there is one.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.newest().map(|file| file.footer.last)
    }

    /// Returns what the next file must go on from.
    pub(crate) fn predecessor(&self) -> Option<Predecessor> {
        self.newest().map(|file| Predecessor {
            before: file.footer.index,
            time: file.footer.time,
            membership: file.footer.membership.clone(),
            previous: Some(file.hash),
        })
    }

    /// Takes the right to write the next file, or to make another one the last:
    /// settled segments and history that is fetched may come at the same time.
    pub(crate) fn sealing(&self) -> MutexGuard<'_, ()> {
        lock(&self.shared.sealing)
    }

    /// Adds a file that has just been sealed.
    ///
    /// # Panics
    ///
    /// If it does not follow the last one: the next start would refuse it.
    pub(crate) fn push(&self, sealed: Sealed) {
        let mut files = self.files();
        let last = files.back().map(|last| (last.hash, last.footer.last.index.next()));
        let follows = last.is_none_or(|(hash, next)| {
            sealed.footer.previous == Some(hash) && sealed.footer.first == next
        });
        assert!(follows, "{} does not follow the last file", sealed.path.display());
        files.push_back(Arc::new(sealed));
    }

    /// Forgets the files up to an entry, and returns them.
    pub(crate) fn forget(&self, upto: LogId) -> Vec<Arc<Sealed>> {
        let mut files = self.files();
        let gone = files.iter().take_while(|file| file.footer.last.index <= upto.index).count();
        let gone = files.drain(..gone).collect();
        drop(files);
        lock(&self.shared.open).retain(|reader| reader.last > upto.index);
        gone
    }

    /// Returns the entries from `index` on, as far as one block goes; none, if the
    /// archive does not hold it.
    ///
    /// # Errors
    ///
    /// If they cannot be read back as they were written.
    pub(crate) fn entries(&self, index: RaftIndex) -> Result<Vec<Arc<Entry>>, LogError> {
        match self.file_with(|file| file.footer.last.index < index) {
            Some(file) if file.footer.first <= index => self.reader(&file)?.entries(index),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    /// Returns the entry that holds the command `index`, and the last command
    /// before it. For a command before the first one it is the first entry;
    /// nothing, for one behind the last.
    ///
    /// # Errors
    ///
    /// As [`Self::entries`].
    pub(crate) fn find(&self, index: Index) -> Result<Option<(RaftIndex, Index)>, LogError> {
        let Some(file) = self.file_with(|file| file.footer.index < index) else { return Ok(None) };
        if index <= file.footer.before {
            return Ok(Some((file.footer.first, file.footer.before)));
        }
        self.reader(&file)?.find(index).map(Some)
    }

    /// Returns the first file that does not lie before what is wanted.
    fn file_with(&self, is_before: impl Fn(&Sealed) -> bool) -> Option<Arc<Sealed>> {
        let files = self.files();
        let at = files.partition_point(|file| is_before(file));
        files.get(at).cloned()
    }

    fn reader(&self, file: &Sealed) -> Result<Arc<SealedReader>, LogError> {
        let mut open = lock(&self.shared.open);
        let last = file.footer.last.index;
        if let Some(reader) = open.iter().find(|reader| reader.last == last) {
            return Ok(Arc::clone(reader));
        }
        let reader = Arc::new(file.reader()?);
        open.push_front(Arc::clone(&reader));
        open.truncate(OPEN_FILES);
        Ok(reader)
    }

    fn files(&self) -> MutexGuard<'_, VecDeque<Arc<Sealed>>> {
        lock(&self.shared.files)
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// Lists the sealed files of a directory by their names, oldest first, with their
/// first and last command.
fn list(dir: &Path) -> Result<Vec<(PathBuf, Index, Index)>, LogError> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(IoError::at("list", dir)(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(IoError::at("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(commands) = name.strip_suffix(".sealed") else { continue };
        let numbers = commands.split_once('-').and_then(|(first, last)| {
            Some((Index(first.parse().ok()?), Index(last.parse().ok()?)))
        });
        let Some((first, last)) = numbers else { return Err(LogError::Stray(path)) };
        files.push((path, first, last));
    }
    files.sort_by_key(|(_, first, last)| (*first, *last));
    Ok(files)
}

/// Checks that a file is what its name says.
fn check_name(
    file: &Sealed,
    first: Index,
    last: Index,
    next: (RaftIndex, Index),
) -> Result<(), LogError> {
    let (from, to) = (file.footer.before.next(), file.footer.index);
    if (from, to) == (first, last) {
        return Ok(());
    }
    let what = format!("file holds the commands {from} to {to}");
    Err(Damage::at(&file.path, 0, next, what))
}

/// Checks that a file follows the one before, with this entry and command.
fn check_order(file: &Sealed, before: &Sealed, next: (RaftIndex, Index)) -> Result<(), LogError> {
    let begins = (file.footer.first, file.footer.before.next());
    if begins != next {
        let shown = |(entry, command)| format!("entry {entry} and command {command}");
        return Err(Gap::before(&file.path, shown(begins), shown(next), next));
    }
    if file.footer.previous != Some(before.hash) {
        let what = format!("file does not follow {}, but another one", before.path.display());
        return Err(Damage::at(&file.path, 0, next, what));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
