//! The data directory: who this machine is, and where its files lie.
//!
//! ```text
//! default.etcd/
//!   LOCK           held by the one process that may write here
//!   node.json      who I am: minted once; changed if I am removed, or recovered
//!   joining.json   as whom I ask to be let into a cluster, until I am
//!   wal/           the newest part of the log: segments, and their high-water mark
//!   checkpoints/   the state at some positions of the log
//!   archive/       settled history
//!   events/        what came of it: a cache, that may be removed while the machine is stopped
//!   ballast        room that can be let go when the disk is nearly full
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use etcd_log::{ClusterId, IoError, NodeId, format_of, sync_dir, write_durably};
use serde::{Deserialize, Serialize};

/// The version of the directory's layout.
const FORMAT: u32 = 1;

/// What is set aside when a directory is started anew.
const CONTENTS: [&str; 6] =
    ["node.json", "joining.json", "wal", "archive", "checkpoints", "events"];

/// Who a machine is. Minted when its directory is made, and never reused: an
/// emptied directory is a new machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The version of the directory's layout.
    pub format: u32,
    /// The machine's random id.
    pub node: NodeId,
    /// Its name in the cluster.
    pub name: Arc<str>,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Whether it joined the cluster, and did not found it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joined: bool,
    /// Whether it was removed from the cluster.
    #[serde(default, skip_serializing_if = "is_false")]
    pub removed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Identity {
    /// Mints a new machine that founds a cluster of its own.
    pub fn founder(name: &str) -> Self {
        let (node, cluster) = (NodeId::random(), ClusterId::random());
        let name = Arc::from(name);
        Self { format: FORMAT, node, name, cluster, joined: false, removed: false }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// There is no machine's data in it.
    #[error("{} holds no data of a machine: there is no node.json, and no archive", .0.display())]
    Empty(PathBuf),
    /// There is data in it already.
    #[error("{} holds the data of a machine already", .0.display())]
    NotEmpty(PathBuf),
    /// A later version wrote it.
    #[error("{}: format {found} is newer than the {FORMAT} that this version knows", path.display())]
    NewerFormat {
        /// The directory's `node.json`.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its `node.json` is not one.
    #[error("{}: not the identity of a machine", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// A data directory that this process has to itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Option<File>,
    /// What was made to take it, innermost first: to be removed by whoever changes his
    /// mind.
    made: Vec<PathBuf>,
}

impl DataDir {
    /// Takes a directory to write in it, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// If another process uses it, or it cannot be written.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let mut made = missing(path);
        fs::create_dir_all(path).map_err(IoError::at("create", path))?;
        let lock_path = path.join("LOCK");
        let lock = loop {
            let is_new = !lock_path.exists();
            let lock = OpenOptions::new().create(true).write(true).truncate(false).open(&lock_path);
            let lock = lock.map_err(IoError::at("write", &lock_path))?;
            lock_now(&lock, path)?;
            // Whoever had it before may have taken it away.
            if is_same(&lock, &lock_path) {
                made.splice(0..0, is_new.then_some(lock_path));
                break lock;
            }
        };
        // What is there may not be so for good: the last process may have been killed
        // between naming it and syncing the directory.
        sync_dir(path)?;
        sync_parent(path)?;
        Ok(Self { path: path.to_owned(), _lock: Some(lock), made })
    }

    /// Takes a stopped machine's directory to read it, or a copy of its archive.
    /// Changes nothing in it.
    ///
    /// # Errors
    ///
    /// If another process uses it, or it holds no machine's data.
    pub fn take_to_read(path: &Path) -> Result<Self, DataDirError> {
        let lock_path = path.join("LOCK");
        let lock = match File::open(&lock_path) {
            Ok(lock) => {
                lock_now(&lock, path)?;
                Some(lock)
            }
            // A copy of a directory need not have one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(IoError::at("read", &lock_path)(error).into()),
        };
        let dir = Self { path: path.to_owned(), _lock: lock, made: Vec::new() };
        if dir.identity()?.is_none() && !dir.archive().exists() {
            return Err(DataDirError::Empty(path.to_owned()));
        }
        Ok(dir)
    }

    /// Removes what taking the directory has made, as far as nothing has come into it
    /// since: for whoever does not go on. The lock goes first, while it is held.
    pub fn leave(&self) {
        for made in &self.made {
            let removed = if made.is_dir() { fs::remove_dir(made) } else { fs::remove_file(made) };
            if removed.is_err() {
                // It holds something, or is none of ours by now.
                return;
            }
        }
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the log lies.
    pub fn wal(&self) -> PathBuf {
        self.path.join("wal")
    }

    /// Returns where settled history lies.
    pub fn archive(&self) -> PathBuf {
        self.path.join("archive")
    }

    /// Returns where the checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Returns where the events lie.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Reads who the directory belongs to; nobody, if it is new.
    ///
    /// # Errors
    ///
    /// If there is a `node.json` that cannot be read, or of a later version.
    pub fn identity(&self) -> Result<Option<Identity>, DataDirError> {
        read_identity(self.path.join("node.json"))
    }

    /// Reads as whom the directory asks to join a cluster; as nobody, if it does not.
    /// Until it has joined, the cluster is zero.
    ///
    /// # Errors
    ///
    /// As [`Self::identity`].
    pub fn joining(&self) -> Result<Option<Identity>, DataDirError> {
        read_identity(self.path.join("joining.json"))
    }

    /// Writes who the directory belongs to, durably.
    ///
    /// # Errors
    ///
    /// If the directory belongs to a machine already, or cannot be written.
    pub fn claim(&self, identity: &Identity) -> Result<(), DataDirError> {
        if self.identity()?.is_some() {
            return Err(DataDirError::NotEmpty(self.path.clone()));
        }
        self.rewrite(identity)?;
        self.give_up_joining()
    }

    /// Forgets as whom the directory has asked to join a cluster.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn give_up_joining(&self) -> Result<(), DataDirError> {
        let joining = self.path.join("joining.json");
        match fs::remove_file(&joining) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(IoError::at("remove", &joining)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Writes who the directory belongs to by now, durably.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn rewrite(&self, identity: &Identity) -> Result<(), DataDirError> {
        self.write_identity("node.json", identity)
    }

    /// Writes as whom the directory asks to join a cluster, durably.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn begin_joining(&self, identity: &Identity) -> Result<(), DataDirError> {
        self.write_identity("joining.json", identity)
    }

    fn write_identity(&self, name: &str, identity: &Identity) -> Result<(), DataDirError> {
        let text = serde_json::to_string(identity).expect("an identity is plain data");
        let write = |mut file: &File| writeln!(file, "{text}");
        Ok(write_durably(&self.path.join(name), write)?)
    }

    /// Sets aside what the directory holds, to start anew. Returns where it went;
    /// nowhere, if there was nothing.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn set_aside(&self) -> Result<Option<PathBuf>, DataDirError> {
        let present = CONTENTS.iter().filter(|name| self.path.join(name).exists());
        let present: Vec<_> = present.collect();
        if present.is_empty() {
            return Ok(None);
        }
        let aside = self.path.join(Utc::now().format("replaced-%Y%m%dT%H%M%S%.3fZ").to_string());
        fs::create_dir(&aside).map_err(IoError::at("create", &aside))?;
        for name in present {
            let path = self.path.join(name);
            fs::rename(&path, aside.join(name)).map_err(IoError::at("set aside", &path))?;
        }
        sync_dir(&aside)?;
        sync_dir(&self.path)?;
        Ok(Some(aside))
    }

    /// Brings back what was set aside: the start has come to nothing.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn put_back(&self, aside: &Path) -> Result<(), DataDirError> {
        for name in CONTENTS.iter().filter(|name| aside.join(name).exists()) {
            let (from, to) = (aside.join(name), self.path.join(name));
            fs::rename(&from, &to).map_err(IoError::at("bring back", &from))?;
        }
        fs::remove_dir(aside).map_err(IoError::at("remove", aside))?;
        Ok(sync_dir(&self.path)?)
    }
}

fn read_identity(path: PathBuf) -> Result<Option<Identity>, DataDirError> {
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IoError::at("read", &path)(error).into()),
    };
    if let Some(found) = format_of(&text).filter(|format| *format > FORMAT) {
        return Err(DataDirError::NewerFormat { path, found });
    }
    let identity = serde_json::from_slice(&text);
    identity.map(Some).map_err(|source| DataDirError::Unreadable { path, source })
}

/// Makes the name of a directory durable, unless what it lies in is not ours to
/// open: then whoever made it there has seen to that.
fn sync_parent(path: &Path) -> Result<(), IoError> {
    let path = path.canonicalize().map_err(IoError::at("find", path))?;
    let Some(parent) = path.parent() else { return Ok(()) };
    match sync_dir(parent) {
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Returns the directories that would have to be made, innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let missing =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    missing.map(Path::to_owned).collect()
}

/// Returns whether a file is still what stands under its name.
fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

fn lock_now(lock: &File, dir: &Path) -> Result<(), DataDirError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(IoError::at("lock", dir)(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_his_mind_leaves_nothing_of_his_own() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("not/yet/there");
        let left = |path: &Path| DataDir::take(path).unwrap().leave();
        left(&path);
        assert!(!dir.path().join("not").exists());
        fs::create_dir_all(&path).unwrap();
        left(&path);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::write(path.join("wal"), "x").unwrap();
        left(&path);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        // What others have left there is theirs.
        fs::write(path.join("LOCK"), "").unwrap();
        left(&path);
        assert!(path.join("LOCK").exists());
    }

    #[test]
    fn lock_that_was_taken_away_holds_nobody_up_and_lets_nobody_in() {
        let dir = tempfile::TempDir::new().unwrap();
        let first = DataDir::take(dir.path()).unwrap();
        assert!(matches!(DataDir::take(dir.path()), Err(DataDirError::InUse(_))));
        first.leave();
        let second = DataDir::take(dir.path()).unwrap();
        drop(first);
        assert!(matches!(DataDir::take(dir.path()), Err(DataDirError::InUse(_))));
        drop(second);
    }
}
