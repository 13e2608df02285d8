//! A key: a clean absolute path, and the order that keeps a directory together.
//!
//! Keys are ordered by their directory first and their name second:
//!
//! ```text
//! /a          directory /      name a
//! /b          directory /      name b
//! /a/x        directory /a     name x
//! /a-b/x      directory /a-b   name x
//! ```
//!
//! So the children of a directory are neighbours in any ordered map of keys,
//! sorted by name, with no grandchild between them: a listing is one range.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A clean absolute path: one leading slash, no empty, `.` or `..` parts, no
/// slash at the end. The root is `/`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "SmolStr", into = "SmolStr")]
pub struct KeyPath {
    /// A short text lies in here, so that comparing keys need not look elsewhere.
    text: SmolStr,
    /// Where the last slash stands: before it the directory, behind it the name.
    slash: u32,
}

/// A text that is not a clean path, where only a clean one may stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {0:?} is not a clean absolute path of at most {max} bytes and {parts} parts", max = KeyPath::MAX_BYTES, parts = KeyPath::MAX_PARTS)]
pub struct InvalidKey(pub String);

impl KeyPath {
    /// The longest key, in bytes. A key creates the directories above it, so
    /// without a bound one request could create megabytes of them.
    pub const MAX_BYTES: usize = 4096;

    /// The deepest key, in parts.
    pub const MAX_PARTS: usize = 128;

    /// Returns the root directory, `/`.
    pub fn root() -> Self {
        Self { text: SmolStr::new_static("/"), slash: 0 }
    }

    /// Cleans a path as a client wrote it: parts that are empty or `.` are left
    /// out, and `..` takes the part before it away, down to the root.
    ///
    /// # Errors
    ///
    /// If what remains is longer than [`Self::MAX_BYTES`] or deeper than
    /// [`Self::MAX_PARTS`].
    pub fn clean(path: &str) -> Result<Self, InvalidKey> {
        if Self::is_clean(path) {
            return Ok(Self::from_clean(SmolStr::from(path)));
        }
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let text = format!("/{}", parts.join("/"));
        if text.len() > Self::MAX_BYTES || parts.len() > Self::MAX_PARTS {
            return Err(InvalidKey(text));
        }
        Ok(Self::from_clean(SmolStr::from(text)))
    }

    /// Returns whether a path is clean already and within the bounds, as most
    /// are: then it need not be taken apart.
    fn is_clean(path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut parts = 0;
        let clean = rest.split('/').all(|part| {
            parts += 1;
            !matches!(part, "" | "." | "..")
        });
        path == "/" || (clean && path.len() <= Self::MAX_BYTES && parts <= Self::MAX_PARTS)
    }

    /// Takes a text that is known to be clean.
    fn from_clean(text: SmolStr) -> Self {
        let slash = text.rfind('/').expect("a clean path has a slash");
        Self { slash: u32::try_from(slash).expect("a clean path is short"), text }
    }

    /// Returns the whole path.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the last part; of the root, nothing.
    pub fn name(&self) -> &str {
        &self.text[self.split() + 1..]
    }

    /// Returns the directory that holds this key; of the root, nothing.
    pub fn parent(&self) -> Option<Self> {
        match self.split() {
            _ if self.is_root() => None,
            0 => Some(Self::root()),
            slash => Some(Self::from_clean(SmolStr::from(&self.text[..slash]))),
        }
    }

    /// Returns the key of this name in this directory: the name is one part of a key.
    pub fn child(&self, name: &str) -> Self {
        let directory = if self.is_root() { "" } else { &*self.text };
        Self { text: SmolStr::from(format!("{directory}/{name}")), slash: to_u32(directory.len()) }
    }

    /// Returns the parts, from the first one to the name; of the root, none.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.text[1..].split('/').filter(|part| !part.is_empty())
    }

    /// Returns the key that the first bytes of this one are: whole parts.
    pub fn first_bytes(&self, length: usize) -> Self {
        Self::from_clean(SmolStr::from(&self.text[..length]))
    }

    /// Returns whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.text.len() == 1
    }

    /// Returns whether `key` is this key or lies below it: `/foo` covers `/foo`
    /// and `/foo/x`, not `/foobar`.
    pub fn covers(&self, key: &Self) -> bool {
        match key.text.strip_prefix(&*self.text) {
            Some(rest) => self.is_root() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Returns this path and all those above it, from itself up to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        let mut next = Some(&*self.text);
        std::iter::from_fn(move || {
            let path = next?;
            next = match path.rfind('/') {
                Some(0) if path.len() > 1 => Some("/"),
                Some(0) | None => None,
                Some(slash) => Some(&path[..slash]),
            };
            Some(path)
        })
    }

    /// Returns a bound that stands directly before the first child of this
    /// directory in the order of keys. It is no key itself.
    pub fn before_children(&self) -> Self {
        if self.is_root() {
            return Self::root();
        }
        Self { text: SmolStr::from(format!("{}/", self.text)), slash: to_u32(self.text.len()) }
    }

    /// Returns whether `key` stands directly in this directory.
    pub fn is_parent_of(&self, key: &Self) -> bool {
        !key.is_root() && key.directory() == if self.is_root() { "" } else { &*self.text }
    }

    /// The directory's path, with the root as the empty text.
    fn directory(&self) -> &str {
        &self.text[..self.split()]
    }

    fn split(&self) -> usize {
        self.slash as usize
    }
}

fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a key is at most 4 KiB long")
}

impl Ord for KeyPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Where the names begin at the same place, so does the slash before them,
        // and the texts are in the order of the parts. Most keys that are compared
        // lie in one directory, and this is where a lookup spends its time.
        if self.slash == other.slash {
            return self.text.as_bytes().cmp(other.text.as_bytes());
        }
        (self.directory(), self.name()).cmp(&(other.directory(), other.name()))
    }
}

impl PartialOrd for KeyPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<SmolStr> for KeyPath {
    type Error = InvalidKey;

    fn try_from(text: SmolStr) -> Result<Self, Self::Error> {
        if Self::is_clean(&text) {
            Ok(Self::from_clean(text))
        } else {
            Err(InvalidKey(text.to_string()))
        }
    }
}

impl From<KeyPath> for SmolStr {
    fn from(key: KeyPath) -> Self {
        key.text
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> KeyPath {
        KeyPath::clean(path).unwrap()
    }

    #[test]
    fn clean_leaves_one_slash_and_no_dots() {
        for (path, clean) in [
            ("", "/"),
            ("/", "/"),
            ("//foo//bar/", "/foo/bar"),
            ("foo/./bar", "/foo/bar"),
            ("/foo/../bar", "/bar"),
            ("/../../foo", "/foo"),
            ("/föö/…", "/föö/…"),
        ] {
            assert_eq!(key(path).as_str(), clean);
        }
    }

    #[test]
    fn key_beyond_the_bounds_is_refused() {
        assert!(KeyPath::clean(&"x".repeat(KeyPath::MAX_BYTES)).is_err());
        assert!(KeyPath::clean(&"x".repeat(KeyPath::MAX_BYTES - 1)).is_ok());
        assert!(KeyPath::clean(&"/x".repeat(KeyPath::MAX_PARTS + 1)).is_err());
        assert!(KeyPath::clean(&"/x".repeat(KeyPath::MAX_PARTS)).is_ok());
    }

    #[test]
    fn children_of_a_directory_are_neighbours() {
        let mut keys =
            ["/a/x", "/b", "/a-b", "/a", "/a-b/x", "/a/x/1", "/a/y", "/a/w"].map(key).to_vec();
        keys.sort();
        let order: Vec<_> = keys.iter().map(KeyPath::as_str).collect();
        assert_eq!(order, ["/a", "/a-b", "/b", "/a/w", "/a/x", "/a/y", "/a-b/x", "/a/x/1"]);
        assert!(key("/a").before_children() < key("/a/w"));
        assert!(key("/a").before_children() > key("/b"));
        assert!(KeyPath::root().before_children() < key("/a"));
    }

    #[test]
    fn covers_whole_parts_only() {
        assert!(key("/foo").covers(&key("/foo")));
        assert!(key("/foo").covers(&key("/foo/x")));
        assert!(!key("/foo").covers(&key("/foobar")));
        assert!(key("/").covers(&key("/foo")));
    }

    #[test]
    fn ancestors_lead_to_the_root() {
        let above: Vec<_> = key("/a/b/c").ancestors().map(str::to_owned).collect();
        assert_eq!(above, ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(KeyPath::root().ancestors().count(), 1);
    }

    #[test]
    fn parts_make_the_key_again() {
        let all = key("/a/b-c/d");
        assert_eq!(all.parts().collect::<Vec<_>>(), ["a", "b-c", "d"]);
        assert_eq!(all.parts().fold(KeyPath::root(), |above, name| above.child(name)), all);
        assert_eq!(KeyPath::root().parts().count(), 0);
        assert_eq!(all.first_bytes(6), key("/a/b-c"));
    }

    #[test]
    fn only_a_clean_path_is_read_back() {
        assert!(KeyPath::try_from(SmolStr::from("/foo")).is_ok());
        for path in ["", "foo", "/foo/", "/foo//bar", "/./x"] {
            assert!(KeyPath::try_from(SmolStr::from(path)).is_err(), "{path}");
        }
    }
}
