//! The files below a directory, in the order of their keys as text.
//!
//! ```text
//! in the tree's order      as text
//! /d/a-b  /d/b             /d/a-b
//! /d/a/x                   /d/a/x         `-` stands before `/`
//!                          /d/b
//! ```
//!
//! The tree keeps a directory together ([`KeyPath`]), which is not the order that a client
//! would sort in. Here the directories are walked, each where its files stand: a directory
//! `a` comes as `a/`.

use std::cmp::Ordering;
use std::iter::Peekable;

use etcd_log::KeyPath;

use crate::directories::{Directories, Number};

/// A file, and its key.
pub(crate) type File<'a, T> = (&'a KeyPath, &'a T);

/// Files of one directory, by name.
pub(crate) type Files<'a, T> = Box<dyn Iterator<Item = File<'a, T>> + Send + Sync + 'a>;

/// Directories of one directory.
type Below<'a> = Box<dyn Iterator<Item = (&'a str, Number)> + Send + Sync + 'a>;

/// Walks the files below a directory, step by step.
pub(crate) struct Walk<'a, T, F> {
    directories: &'a Directories,
    /// The files of a directory, from a name on.
    files_of: F,
    /// The directories that are being walked, each in the one before it.
    open: Vec<Open<'a, T>>,
}

/// A directory that is being walked.
struct Open<'a, T> {
    path: KeyPath,
    files: Peekable<Files<'a, T>>,
    directories: Peekable<Below<'a>>,
}

impl<'a, T, F> Walk<'a, T, F>
where
    F: Fn(&KeyPath, &str) -> Files<'a, T>,
{
    /// Walks from what stands behind the directory's own slash in the first key that is
    /// wanted; from the beginning, if that is empty.
    pub(crate) fn new(
        directories: &'a Directories,
        files_of: F,
        top: &KeyPath,
        from: &str,
    ) -> Self {
        let mut walk = Self { directories, files_of, open: Vec::new() };
        let (mut next, mut from) =
            (directories.find(top).map(|number| (top.clone(), number)), from);
        while let Some((path, number)) = next.take() {
            let name = from.split('/').next().unwrap_or_default();
            let rest = from.get(name.len() + 1..);
            walk.open(path.clone(), number, from, name);
            if let Some(rest) = rest {
                next = directories.below(number, name).map(|number| (path.child(name), number));
                from = rest;
            }
        }
        walk
    }

    /// Opens a directory at what stands behind it, which begins with this name.
    fn open(&mut self, path: KeyPath, number: Number, from: &str, name: &str) {
        let files = (self.files_of)(&path, name);
        let mut files = files.peekable();
        while files.next_if(|(key, _)| key.name() < from).is_some() {}
        let below: Below<'a> = Box::new(AsText::new(self.directories, number, name));
        let mut below = below.peekable();
        // One that is in the way to the first key is walked already.
        while below.next_if(|(below, _)| with_slash(below).cmp(from.bytes()).is_le()).is_some() {}
        self.open.push(Open { path, files, directories: below });
    }
}

impl<'a, T, F> Iterator for Walk<'a, T, F>
where
    F: Fn(&KeyPath, &str) -> Files<'a, T>,
{
    /// Nothing, where a directory begins or ends.
    type Item = Option<File<'a, T>>;

    fn next(&mut self) -> Option<Option<File<'a, T>>> {
        let open = self.open.last_mut()?;
        let is_file_next = match (open.files.peek(), open.directories.peek()) {
            (Some((key, _)), Some((name, _))) => {
                key.name().bytes().cmp(with_slash(name)) == Ordering::Less
            }
            (file, _) => file.is_some(),
        };
        if is_file_next {
            return Some(open.files.next());
        }
        match open.directories.next() {
            Some((name, number)) => {
                let path = open.path.child(name);
                self.open(path, number, "", "");
            }
            None => drop(self.open.pop()),
        }
        Some(None)
    }
}

/// The directories in a directory, each as if a slash stood behind its name.
struct AsText<'a, I: Iterator<Item = (&'a str, Number)>> {
    by_name: Peekable<I>,
    /// Those that came by, and stand behind what may still come: each begins with the one
    /// before it.
    held: Vec<(&'a str, Number)>,
}

impl<'a> AsText<'a, Below<'a>> {
    /// Those that may stand at a name or behind it, and a few before it.
    fn new(directories: &'a Directories, above: Number, from: &str) -> Self {
        // What the name begins with stands before it, and with a slash perhaps behind it.
        let beginnings = from.char_indices().skip(1).filter(|(_, next)| *next < '/');
        let held = beginnings.filter_map(|(length, _)| directories.entry(above, &from[..length]));
        let held = held.collect();
        let by_name = directories.children_from(above, from);
        let by_name: Below<'a> = Box::new(by_name.map(|(name, number)| (name.as_str(), number)));
        Self { by_name: by_name.peekable(), held }
    }
}

impl<'a, I: Iterator<Item = (&'a str, Number)>> Iterator for AsText<'a, I> {
    type Item = (&'a str, Number);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let held = self.held.last().map(|(name, _)| *name);
            let goes_before = |(next, _): &(&str, Number)| {
                held.is_none_or(|held| with_slash(next).cmp(with_slash(held)).is_lt())
            };
            match self.by_name.next_if(goes_before) {
                Some(next) => self.held.push(next),
                None => return self.held.pop(),
            }
        }
    }
}

fn with_slash(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().chain([b'/'])
}
