//! The filter of a watch: which events it is about.
//!
//! Whoever asks whether an event is one that somebody waits for asks here. From where on
//! a watch wants events is not a part of it: that is its cursor's business.

use etcd_log::KeyPath;
use etcd_projections::{Change, Event};

/// Which events a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where they happen: at this key, or below it.
    pub prefix: KeyPath,
    /// Whether they happen at its direct children alone, and not at the key itself.
    pub children: bool,
    /// What happens there.
    pub actions: Actions,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// A key gets a value.
    pub set: bool,
    /// Somebody deletes a key, or a directory.
    pub delete: bool,
    /// The time of a key is over.
    pub expire: bool,
}

impl Filter {
    /// Makes the filter that passes everything at a key or below it.
    pub fn below(prefix: KeyPath) -> Self {
        Self { prefix, children: false, actions: Actions::ALL }
    }

    /// Returns whether a watch with this filter wants an event.
    pub fn passes(&self, event: &Event) -> bool {
        self.covers(&event.key) && self.actions.include(&event.change)
    }

    /// Returns whether what happens at a key can be of interest.
    pub fn covers(&self, key: &KeyPath) -> bool {
        if self.children { self.prefix.is_parent_of(key) } else { self.prefix.covers(key) }
    }
}

impl Actions {
    /// All there are.
    pub const ALL: Self = Self { set: true, delete: true, expire: true };

    /// None: nobody waits for that, but a list of names begins with it.
    pub const NONE: Self = Self { set: false, delete: false, expire: false };

    /// Returns these and another one, by its name; nothing, if there is no such action.
    pub fn with(self, name: &str) -> Option<Self> {
        match name {
            "set" => Some(Self { set: true, ..self }),
            "delete" => Some(Self { delete: true, ..self }),
            "expire" => Some(Self { expire: true, ..self }),
            _ => None,
        }
    }

    fn include(self, change: &Change) -> bool {
        match change {
            Change::Set { .. } => self.set,
            Change::Delete { .. } | Change::DeleteDir => self.delete,
            Change::Expire { .. } => self.expire,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_neither_the_directory_nor_what_lies_deeper() {
        let key = |path: &str| KeyPath::clean(path).unwrap();
        let filter = Filter { children: true, ..Filter::below(key("/a")) };
        let covered = ["/a", "/a/b", "/a/b/c", "/ab", "/"].map(|path| filter.covers(&key(path)));
        assert_eq!(covered, [false, true, false, false, false]);
        let root = Filter { children: true, ..Filter::below(KeyPath::root()) };
        assert_eq!(["/a", "/a/b", "/"].map(|path| root.covers(&key(path))), [true, false, false]);
    }

    #[test]
    fn actions_are_known_by_their_names_in_lower_case() {
        let named = Actions::NONE.with("set").and_then(|set| set.with("expire"));
        assert_eq!(named, Some(Actions { delete: false, ..Actions::ALL }));
        assert_eq!(Actions::NONE.with("SET"), None);
        assert_eq!(Actions::NONE.with(""), None);
    }
}
