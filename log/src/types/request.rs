//! Requests: commands that somebody asks for under an id of his own, so that they are done
//! once, however often he asks.
//!
//! ```text
//! {"as":{"id":"7f3a-1","hash":"0123456789abcdef","since":41,"do":{"set":{"key":"/a","value":"b"}}}}
//! ```
//!
//! Whoever gets no answer does not know whether his command was done; so he asks again, and
//! the state remembers that it was (Raft, section 8). The hash is of what he said: it tells a
//! repetition from another command under the same id. It is written down because what he said
//! is not all there is of the command by then: a leader makes up for a clock that lags, and a
//! restore has been worked out. The index is of before it was asked for first, as far as whoever
//! proposes it knows: if an id has been forgotten since then, it may be this one, and the
//! command may be done.
//!
//! Deliberately not here: for how long an id is remembered (`etcd-projections`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::command::{Command, TestAndSet};
use super::numbers::{Index, RequestHash};

/// The id of a request: 1 to 64 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Arc<str>")]
pub struct RequestId(Arc<str>);

/// Something else than [`RequestId::MAX_CHARS`] visible ASCII characters, or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request id has 1 to {} visible ASCII characters", RequestId::MAX_CHARS)]
pub struct InvalidRequestId;

impl RequestId {
    /// How many characters it has at most.
    pub const MAX_CHARS: usize = 64;

    /// Returns its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Arc<str>> for RequestId {
    type Error = InvalidRequestId;

    fn try_from(text: Arc<str>) -> Result<Self, InvalidRequestId> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_right = is_visible && (1..=Self::MAX_CHARS).contains(&text.len());
        if is_right { Ok(Self(text)) } else { Err(InvalidRequestId) }
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        Self::try_from(Arc::from(text))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestHash {
    /// Hashes what tells one request from another: some texts, in order.
    pub fn of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut hash = Xxh3::new();
        for text in texts {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Self(hash.digest())
    }
}

/// A command that somebody asked for under an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Read")]
pub struct Asked {
    /// The id.
    pub id: RequestId,
    /// What he said, for telling whether he says it again.
    pub hash: RequestHash,
    /// Behind this command it was tried first, or later.
    pub since: Index,
    /// What is to be done: a command of a client.
    #[serde(rename = "do")]
    pub command: Box<Command>,
}

/// The same, as it may stand in a log: not every command is a client's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    id: RequestId,
    hash: RequestHash,
    since: Index,
    #[serde(rename = "do")]
    command: Box<Command>,
}

impl TryFrom<Read> for Asked {
    type Error = &'static str;

    fn try_from(read: Read) -> Result<Self, Self::Error> {
        let Read { id, hash, since, command } = read;
        let is_clients = matches!(*command, Command::Restore(_)) || said(&command).is_some();
        if !is_clients {
            return Err("only what a client wants is asked for under an id");
        }
        Ok(Self { id, hash, since, command })
    }
}

impl Asked {
    /// Notes under which id a client asks for a command that says all that he said; it has not
    /// been tried up to some command.
    ///
    /// # Panics
    ///
    /// If it is a restore, which does not, or no client's.
    pub fn new(id: RequestId, since: Index, command: Command) -> Self {
        let hash = said(&command).expect("a command that says what a client said");
        Self { id, hash, since, command: Box::new(command) }
    }
}

/// Hashes what a client said who asks for a command; nothing, if it does not tell.
fn said(command: &Command) -> Option<RequestHash> {
    let (name, [key, value, prev], ttl) = match command {
        Command::Set { key, value, ttl } => ("set", [key.as_str(), value, ""], *ttl),
        Command::Create { key, value, ttl } => ("create", [key.as_str(), value, ""], *ttl),
        Command::TestAndSet(TestAndSet { key, prev_value, value, ttl }) => {
            ("testAndSet", [key.as_str(), value, prev_value], *ttl)
        }
        Command::Delete { key } => ("delete", [key.as_str(), "", ""], None),
        Command::DeleteDir { key } => ("deleteDir", [key.as_str(), "", ""], None),
        Command::TestAndDelete { key, prev_value } => {
            ("testAndDelete", [key.as_str(), "", prev_value], None)
        }
        Command::Restore(_)
        | Command::As(_)
        | Command::Sync { .. }
        | Command::Upgrade { .. }
        | Command::Join(_)
        | Command::Leave { .. } => return None,
    };
    let ttl = ttl.map(|ttl| ttl.to_string()).unwrap_or_default();
    Some(RequestHash::of([name, key, value, prev, &ttl]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{KeyPath, Ttl};

    #[test]
    fn id_is_of_visible_characters() {
        for good in ["a", "~!\"#", &"x".repeat(64), "0f8fad5b-d9cb-469f-a165-70867728950e"] {
            assert_eq!(good.parse::<RequestId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", " ", "a b", "a\n", "\u{7f}", "é", &"x".repeat(65)] {
            assert_eq!(bad.parse::<RequestId>(), Err(InvalidRequestId), "{bad:?}");
        }
    }

    /// A command that differs in anything that was said has another hash.
    #[test]
    fn hash_tells_commands_apart() {
        let key = |path| KeyPath::clean(path).unwrap();
        let set = |path, value: &str, ttl| Command::Set {
            key: key(path),
            value: Arc::from(value),
            ttl: Ttl::new(ttl),
        };
        let test = |prev: &str, value: &str| {
            let (key, prev_value, value) = (key("/a"), Arc::from(prev), Arc::from(value));
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl: None })
        };
        let create =
            |value: &str| Command::Create { key: key("/a"), value: Arc::from(value), ttl: None };
        let test_and_delete =
            |prev: &str| Command::TestAndDelete { key: key("/a"), prev_value: Arc::from(prev) };
        let commands = [
            set("/a", "b", 0),
            set("/a", "b", 1),
            set("/a", "b1", 0),
            set("/ab", "1", 0),
            create("b"),
            test("b", "c"),
            test("c", "b"),
            test_and_delete("b"),
            Command::Delete { key: key("/a") },
            Command::DeleteDir { key: key("/a") },
        ];
        let id: RequestId = "x".parse().unwrap();
        let hash = |command: &Command| Asked::new(id.clone(), Index(0), command.clone()).hash;
        for (at, command) in commands.iter().enumerate() {
            let same = commands.iter().filter(|other| hash(other) == hash(command));
            assert_eq!(same.count(), 1, "{at}: {command:?}");
        }
        // It is a part of the format.
        assert_eq!(hash(&set("/a", "b", 5)).to_string(), "d4aa6fab6c208680");
    }
}
