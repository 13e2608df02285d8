//! Files: errors that say what, on which file and why, and the few steps that
//! make a file durable.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The operating system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct IoError {
    /// What was tried, as a verb: "read", "sync".
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl IoError {
    /// Wraps an error of the operating system: `result.map_err(IoError::at("read", path))`.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Makes the names of a directory's files durable.
///
/// # Errors
///
/// If the operating system refuses.
pub fn sync_dir(dir: &Path) -> Result<(), IoError> {
    let file = File::open(dir).map_err(IoError::at("open", dir))?;
    file.sync_all().map_err(IoError::at("sync", dir))
}

/// Writes a file so that under its name there is the whole of it or none: under
/// a temporary name first, synced, renamed, and its directory synced.
///
/// # Errors
///
/// If the operating system refuses. Nothing is left then.
///
/// # Panics
///
/// If the path has no directory.
pub fn write_durably(
    path: &Path,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), IoError> {
    let draft = path.with_extension("tmp");
    if let Err(error) = write_draft(&draft, write) {
        // A draft would take room that the log may need. That it cannot be removed
        // either says less than why it could not be written.
        let _removed = fs::remove_file(&draft);
        return Err(error);
    }
    fs::rename(&draft, path).map_err(IoError::at("rename", &draft))?;
    sync_dir(path.parent().expect("a file lies in a directory"))
}

fn write_draft(draft: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<(), IoError> {
    let file = File::create(draft).map_err(IoError::at("create", draft))?;
    write(&file).map_err(IoError::at("write", draft))?;
    file.sync_all().map_err(IoError::at("sync", draft))
}
