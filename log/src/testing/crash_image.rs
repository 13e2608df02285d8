//! What a disk holds after a crash: of what was synced all, and of the rest what the
//! crash leaves.
//!
//! ```text
//! steps, up to the crash ─▶ Image: what is durable, and what was done since ─▶ files
//!                                                  all, none, torn, by chance ─┘
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::testing::simulated_disk::DiskOp;

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// All of it is there: the process was killed, the machine went on.
    KeepsAll,
    /// None of it is.
    LosesAll,
    /// Names are there, and files without what was written to them.
    LosesData,
    /// What was written is there, under the names of before.
    LosesNames,
    /// The last write of each file is there up to its middle.
    TearsTails,
    /// The last write of each file is there from its middle on.
    TearsHeads,
    /// Some of it, by chance.
    KeepsSome(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// A change of names: what is gone, and what is there.
#[derive(Clone, Debug)]
struct NameChange {
    gone: Option<PathBuf>,
    named: Option<(PathBuf, usize)>,
}

/// The disk in the middle of its work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
}

impl Image {
    /// Takes what lies in some directories for safe.
    pub(crate) fn of(dirs: &[&Path]) -> Self {
        let mut image = Self::default();
        for dir in dirs {
            for file in fs::read_dir(dir).into_iter().flatten() {
                let path = file.unwrap().path();
                let durable = fs::read(&path).unwrap();
                image.names.insert(path, image.inodes.len());
                image.inodes.push(Inode { durable, unsynced: Vec::new() });
            }
        }
        image.durable_names = image.names.clone();
        image
    }

    /// Does one step more.
    pub(crate) fn apply(&mut self, step: &DiskOp) {
        match step {
            DiskOp::Create(path) => {
                let named = Some((path.clone(), self.inodes.len()));
                self.inodes.push(Inode::default());
                self.change_names(NameChange { gone: None, named });
            }
            DiskOp::Write(path, offset, bytes) => {
                self.inode(path).unsynced.push(Change::Write(*offset, bytes.clone()));
            }
            DiskOp::SetLen(path, length) => {
                self.inode(path).unsynced.push(Change::SetLen(*length));
            }
            DiskOp::Sync(path) => {
                let inode = self.inode(path);
                for change in std::mem::take(&mut inode.unsynced) {
                    change.apply(&mut inode.durable);
                }
            }
            DiskOp::Rename(from, to) => {
                let named = Some((to.clone(), self.names[from]));
                self.change_names(NameChange { gone: Some(from.clone()), named });
            }
            DiskOp::Remove(path) => {
                self.change_names(NameChange { gone: Some(path.clone()), named: None });
            }
            DiskOp::SyncDir(dir) => self.sync_names(dir),
            DiskOp::Acknowledged(_) => {}
        }
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        &mut self.inodes[self.names[path]]
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn sync_names(&mut self, dir: &Path) {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|c| c.is_in(dir));
        self.unsynced_names = elsewhere;
        for change in here {
            change.apply(&mut self.durable_names);
        }
    }

    /// Returns the files that are found after a crash.
    pub(crate) fn after(&self, crash: Crash) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut chance = Chance::of(crash);
        let mut names = self.durable_names.clone();
        for change in &self.unsynced_names {
            let keeps = match crash {
                Crash::LosesAll | Crash::LosesNames => false,
                Crash::KeepsSome(_) => chance.coin(),
                _ => true,
            };
            if keeps {
                change.apply(&mut names);
            }
        }
        let found = names
            .into_iter()
            .map(|(path, inode)| (path, self.inodes[inode].after(crash, &mut chance)));
        found.collect()
    }
}

impl Inode {
    fn after(&self, crash: Crash, chance: &mut Chance) -> Vec<u8> {
        let mut content = self.durable.clone();
        let count = self.unsynced.len();
        for (at, change) in self.unsynced.iter().enumerate() {
            let is_last = at + 1 == count;
            match crash {
                Crash::LosesAll | Crash::LosesData => {}
                Crash::TearsTails if is_last => change.half(true).apply(&mut content),
                Crash::TearsHeads if is_last => change.half(false).apply(&mut content),
                Crash::KeepsSome(_) => match chance.next() % 4 {
                    0 => {}
                    1 => change.half(true).apply(&mut content),
                    2 => change.half(false).apply(&mut content),
                    _ => change.apply(&mut content),
                },
                _ => change.apply(&mut content),
            }
        }
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let offset = usize::try_from(*offset).unwrap();
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(length) => content.resize(usize::try_from(*length).unwrap(), 0),
        }
    }

    /// The first half of a write, or the second.
    fn half(&self, first: bool) -> Self {
        match self {
            Self::Write(offset, bytes) => {
                let middle = bytes.len() / 2;
                if first {
                    Self::Write(*offset, bytes[..middle].to_vec())
                } else {
                    Self::Write(*offset + middle as u64, bytes[middle..].to_vec())
                }
            }
            Self::SetLen(_) => self.clone(),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, inode)) = &self.named {
            names.insert(path.clone(), *inode);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let paths = self.gone.iter().chain(self.named.as_ref().map(|(path, _)| path));
        paths.into_iter().any(|path| path.parent() == Some(dir))
    }
}

/// Random numbers from a seed.
struct Chance {
    state: u64,
}

impl Chance {
    fn of(crash: Crash) -> Self {
        let seed = if let Crash::KeepsSome(seed) = crash { seed } else { 0 };
        Self { state: seed ^ 0x2013 }
    }

    fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    fn coin(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }
}
