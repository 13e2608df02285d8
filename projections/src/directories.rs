//! The directories: each by its name, below the one that holds it.
//!
//! ```text
//! /          1           1 "a"  ─▶ 2
//! /a         2           1 "b"  ─▶ 3
//! /a/b       4           2 "b"  ─▶ 4
//! /b         3
//! ```
//!
//! A key makes all directories above it. If each kept its whole path, a key of 4 KiB
//! and 128 parts would take a quarter of a megabyte; so each keeps its name, and a
//! path is put together when somebody asks.
//!
//! The numbers are a machine's own business, and nobody else sees them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use etcd_log::KeyPath;
use imbl::OrdMap;
use smol_str::SmolStr;

/// The number of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(u64);

/// The root directory, which is always there.
const ROOT: Number = Number(1);

/// The directories but the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directories {
    by_name: OrdMap<(Number, SmolStr), Number>,
    /// How many numbers were given: none is given twice.
    given: u64,
}

impl Directories {
    /// Returns how many there are, without the root.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Returns the number of a directory, if there is such a one.
    pub(crate) fn find(&self, path: &KeyPath) -> Option<Number> {
        path.parts().try_fold(ROOT, |above, name| self.below(above, name))
    }

    /// Returns the path to a key as far as there are directories, and one part further;
    /// nothing, if all of it is a directory.
    pub(crate) fn first_missing(&self, path: &KeyPath) -> Option<KeyPath> {
        let (mut above, mut length) = (ROOT, 0);
        for name in path.parts() {
            length += 1 + name.len();
            match self.below(above, name) {
                Some(below) => above = below,
                None => return Some(path.first_bytes(length)),
            }
        }
        None
    }

    /// Makes a directory, and those above it, unless they are there. Returns how many
    /// were made.
    pub(crate) fn make(&mut self, path: &KeyPath) -> u32 {
        let (mut above, mut made) = (ROOT, 0);
        for name in path.parts() {
            above = self.below(above, name).unwrap_or_else(|| {
                self.given += 1;
                made += 1;
                let number = Number(ROOT.0 + self.given);
                self.by_name.insert((above, SmolStr::from(name)), number);
                number
            });
        }
        made
    }

    /// Removes a directory and those above it, so many together: what [`Self::make`]
    /// has made.
    pub(crate) fn unmake(&mut self, path: &KeyPath, made: u32) {
        let above = std::iter::successors(Some(path.clone()), KeyPath::parent);
        for path in above.take(made as usize) {
            self.remove(&path);
        }
    }

    /// Removes a directory that holds nothing; the root stays.
    pub(crate) fn remove(&mut self, path: &KeyPath) {
        let above = path.parent().and_then(|parent| self.find(&parent));
        if let Some(above) = above {
            self.by_name.remove(&(above, SmolStr::from(path.name())));
        }
    }

    /// Returns the directories in a directory, by name.
    pub(crate) fn children(&self, directory: Number) -> impl Iterator<Item = (&SmolStr, Number)> {
        self.children_from(directory, "")
    }

    /// Returns the directories in a directory, by name, from a name on.
    pub(crate) fn children_from<'a>(
        &'a self,
        directory: Number,
        name: &str,
    ) -> impl Iterator<Item = (&'a SmolStr, Number)> + use<'a> {
        let here = self.by_name.range((directory, SmolStr::from(name))..);
        let here = here.take_while(move |((above, _), _)| *above == directory);
        here.map(|((_, name), number)| (name, *number))
    }

    /// Returns the root and all directories, in the order of their paths.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (KeyPath, Number)> {
        // A directory stands before all below it; so the next one is in one that came
        // by, or beside it. Those that wait are together no longer than their keys are.
        let mut waiting = BinaryHeap::from([Reverse((SmolStr::default(), ROOT))]);
        std::iter::from_fn(move || {
            let Reverse((path, directory)) = waiting.pop()?;
            for (name, below) in self.children(directory) {
                waiting.push(Reverse((SmolStr::from(format!("{path}/{name}")), below)));
            }
            let path = KeyPath::clean(&path).expect("a directory's path is that of a key");
            Some((path, directory))
        })
    }

    /// Returns the directory of this name in a directory.
    pub(crate) fn below(&self, above: Number, name: &str) -> Option<Number> {
        self.entry(above, name).map(|(_, number)| number)
    }

    /// Returns the same, with the name as it is kept here.
    pub(crate) fn entry(&self, above: Number, name: &str) -> Option<(&str, Number)> {
        let ((_, name), number) = self.by_name.get_key_value(&(above, SmolStr::from(name)))?;
        Some((name, *number))
    }
}
