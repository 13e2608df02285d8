//! Which files of events are open: a few. There are as many files as there is history, and
//! a machine's open files are for its log and its clients.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How many are open at a time, besides those that are being read or written.
const MOST: usize = 32;

/// The files that are open, by when they were opened. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenFiles {
    recent: Arc<Mutex<VecDeque<Weak<NamedFile>>>>,
}

/// A file that is opened when it is needed.
#[derive(Debug)]
pub(super) struct NamedFile {
    path: PathBuf,
    open_files: OpenFiles,
    file: Mutex<Option<Arc<File>>>,
}

impl OpenFiles {
    /// Returns a file of this name.
    pub(super) fn named(&self, path: &Path) -> Arc<NamedFile> {
        let (path, open_files) = (path.to_owned(), self.clone());
        Arc::new(NamedFile { path, open_files, file: Mutex::default() })
    }

    /// Notes that a file was opened, and closes the one that was opened first.
    fn note(&self, opened: &Arc<NamedFile>) {
        let first = {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.push_back(Arc::downgrade(opened));
            if recent.len() > MOST { recent.pop_front() } else { None }
        };
        let first = first.and_then(|first| first.upgrade());
        if let Some(first) = first {
            *first.lock() = None;
        }
    }
}

impl NamedFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, which must not be there.
    pub(super) fn create(self: &Arc<Self>) -> io::Result<()> {
        self.open_with(OpenOptions::new().read(true).write(true).create_new(true)).map(drop)
    }

    /// Returns the file, open.
    pub(super) fn open(self: &Arc<Self>) -> io::Result<Arc<File>> {
        if let Some(file) = &*self.lock() {
            return Ok(Arc::clone(file));
        }
        self.open_with(OpenOptions::new().read(true).write(true))
    }

    fn open_with(self: &Arc<Self>, options: &OpenOptions) -> io::Result<Arc<File>> {
        let file = Arc::new(options.open(&self.path)?);
        *self.lock() = Some(Arc::clone(&file));
        self.open_files.note(self);
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_open_and_each_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let open_files = OpenFiles::default();
        let names = (0..3 * MOST).map(|number| dir.path().join(number.to_string()));
        let files: Vec<_> = names.map(|path| open_files.named(&path)).collect();
        for file in &files {
            file.create().unwrap();
        }
        let open = || files.iter().filter(|file| file.lock().is_some()).count();
        assert_eq!(open(), MOST);
        assert!(files.iter().all(|file| file.open().is_ok()) && open() == MOST);
        assert_eq!(open_files.recent.lock().unwrap().len(), MOST);
    }
}
