//! Commands: what somebody wants, and the batches they travel in.
//!
//! ```text
//! {"time":"2026-11-22T10:00:00.000000000Z","commands":[
//!    {"set":{"key":"/foo","value":"bar","ttl":5}},
//!    {"delete":{"key":"/old"}}],
//!  "check":{"entry":57,"index":41,"event":40,"time":"…","digest":"…"}}   now and then
//! ```
//!
//! The JSON is part of the log's format: a change of meaning is a new kind of
//! command, so that an old log replays to the same state for ever. A field that
//! this version does not know is refused, never skipped.
//!
//! Deliberately not here: whether a command may run (`etcd-projections`).

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::format::LogFormat;
use super::key_path::KeyPath;
use super::numbers::{ClusterId, Digest, EventNumber, Index, LogTime, NodeId, RaftIndex};
use super::request::Asked;

/// How long a key lives: whole seconds, one or more.
pub type Ttl = NonZeroU64;

/// What somebody wants. It may be refused; it takes an [`Index`]
/// either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Set a key, whatever it holds.
    #[serde(rename_all = "camelCase")]
    Set {
        /// The key to set.
        key: KeyPath,
        /// Its new value, never empty.
        value: Arc<str>,
        /// How long it lives; absent for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<Ttl>,
    },
    /// Set a key if it is not there (format 2).
    #[serde(rename_all = "camelCase")]
    Create {
        /// The key to set.
        key: KeyPath,
        /// Its value, never empty.
        value: Arc<str>,
        /// How long it lives; absent for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<Ttl>,
    },
    /// Set a key if it holds a given value.
    TestAndSet(TestAndSet),
    /// Delete a key.
    Delete {
        /// The key to delete.
        key: KeyPath,
    },
    /// Delete a key if it holds a given value (format 2).
    #[serde(rename_all = "camelCase")]
    TestAndDelete {
        /// The key to delete.
        key: KeyPath,
        /// The value it must hold.
        prev_value: Arc<str>,
    },
    /// Delete a directory that holds nothing.
    DeleteDir {
        /// The directory to delete.
        key: KeyPath,
    },
    /// Found a cluster, or found it anew under another identity. The first
    /// command of every log.
    Sync {
        /// The identity of the cluster from here on.
        cluster: ClusterId,
        /// What its log may say from here on; absent where that is the first format.
        #[serde(default, skip_serializing_if = "LogFormat::is_first")]
        format: LogFormat,
    },
    /// Do what somebody asked for under an id, unless that was done before (format 3).
    As(Asked),
    /// Put down many changes below a directory at once, to make it what it was (format 2).
    Restore(Restore),
    /// Say more in the log from here on: all members can read it (format 2).
    Upgrade {
        /// What it may say.
        format: LogFormat,
    },
    /// Make a machine known to the cluster, or its new addresses.
    Join(Machine),
    /// Forget a machine.
    Leave {
        /// The machine's name.
        name: Arc<str>,
    },
}

/// Sets a key if it holds a given value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestAndSet {
    /// The key to set.
    pub key: KeyPath,
    /// The value it must hold.
    pub prev_value: Arc<str>,
    /// Its new value, never empty.
    pub value: Arc<str>,
    /// How long it lives; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
}

/// Makes what lies at a key or below it what it was, under one index.
///
/// The changes were worked out from the state behind a command, and count there alone:
/// if another command has come in between, all of it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restore {
    /// What is made what it was: a key, and all below it.
    pub key: KeyPath,
    /// The command behind which it was so.
    pub at: Index,
    /// The command before this one, if nothing comes in between.
    pub base: Index,
    /// What has to be done for it, in order. No two change the same key.
    pub changes: Vec<RestoreChange>,
}

/// One of the changes of a [`Restore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RestoreChange {
    /// Delete a key, unless it is gone.
    Delete(KeyPath),
    /// Delete a directory, unless it holds something.
    DeleteDir(KeyPath),
    /// Set a key.
    #[serde(rename_all = "camelCase")]
    Set {
        /// The key to set.
        key: KeyPath,
        /// Its value, never empty.
        value: Arc<str>,
        /// How long it lives; absent for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<Ttl>,
    },
}

impl Restore {
    /// Sums up the texts of all changes, and what stands around each.
    fn sum(&self, size: impl Fn(&str) -> usize) -> usize {
        let changes = self.changes.iter().flat_map(RestoreChange::texts);
        size(self.key.as_str()) + 64 * self.changes.len() + changes.map(size).sum::<usize>()
    }
}

impl RestoreChange {
    /// Returns the key that it changes.
    pub fn key(&self) -> &KeyPath {
        match self {
            Self::Delete(key) | Self::DeleteDir(key) | Self::Set { key, .. } => key,
        }
    }

    fn texts(&self) -> [&str; 2] {
        match self {
            Self::Delete(key) | Self::DeleteDir(key) => [key.as_str(), ""],
            Self::Set { key, value, .. } => [key.as_str(), value],
        }
    }
}

/// A machine of the cluster, as the others and the clients know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Its name, unique in the cluster: one part of a key.
    pub name: Arc<str>,
    /// Who it is.
    pub node: NodeId,
    /// Where the other machines reach it, as a URL.
    pub peer_url: Arc<str>,
    /// Where clients reach it, as a URL.
    pub client_url: Arc<str>,
}

impl Machine {
    /// Returns where the other machines reach it: `host:port`.
    pub fn peer_address(&self) -> &str {
        self.peer_url.strip_prefix("http://").unwrap_or(&self.peer_url)
    }
}

/// What one Raft entry carries: the leader's time and the commands that waited.
/// Without commands it is a *tick*, which only moves the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The leader's clock when it proposed the batch.
    pub time: LogTime,
    /// The commands, in the order in which they take their indices.
    pub commands: Vec<Command>,
    /// What the proposer's state was before; absent from most batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// What a machine's state was when it had applied some entry. Whoever has applied the
/// same entry and stands elsewhere, or has another digest there, has another state, and
/// must not go on.
///
/// Checks of earlier versions name no entry, and say something to those only who come by
/// the very position. A version that knows no `entry` refuses a check that has one, as
/// any field that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The last entry that the state contained; absent where none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<RaftIndex>,
    /// The index of the last command.
    pub index: Index,
    /// The number of the last event.
    pub event: EventNumber,
    /// The logged time.
    pub time: LogTime,
    /// The hash over all outcomes up to there.
    pub digest: Digest,
}

impl Batch {
    /// Makes a batch without a check.
    pub fn new(time: LogTime, commands: Vec<Command>) -> Self {
        Self { time, commands, check: None }
    }

    /// Returns the batch with its first commands only: what a replay up to one of
    /// them applies.
    pub fn first(&self, commands: usize) -> Self {
        self.part(0, commands)
    }

    /// Returns so many of the batch's commands behind the first few. What the proposer's
    /// state was before the batch, only a part says that begins with it.
    pub fn part(&self, behind: usize, commands: usize) -> Self {
        let check = self.check.filter(|_| behind == 0);
        let commands = self.commands.iter().skip(behind).take(commands).cloned().collect();
        Self { time: self.time, commands, check }
    }

    /// Returns how many keys the batch changes at most, but for those that expire.
    pub fn changes(&self) -> usize {
        self.commands.iter().map(Command::changes).sum()
    }

    /// Returns the first format of the log that can say all of it.
    pub fn format(&self) -> LogFormat {
        self.commands.iter().map(Command::format).max().unwrap_or(LogFormat::FIRST)
    }

    /// Returns about how many bytes of text the batch holds: what a bound on memory
    /// counts with.
    pub fn size(&self) -> usize {
        64 + self.commands.iter().map(Command::size).sum::<usize>()
    }

    /// Returns about how many bytes the batch takes where it is written or sent, and
    /// hardly ever fewer.
    pub fn written_size(&self) -> usize {
        64 + self.commands.iter().map(Command::written_size).sum::<usize>()
    }
}

impl Command {
    /// Returns the first format of the log that can say it.
    pub fn format(&self) -> LogFormat {
        match self {
            Self::Set { .. }
            | Self::TestAndSet(_)
            | Self::Delete { .. }
            | Self::DeleteDir { .. }
            | Self::Join(_)
            | Self::Leave { .. } => LogFormat::FIRST,
            // The field is unknown to the first.
            Self::Sync { format, .. } => (*format).min(LogFormat(2)),
            Self::Create { .. }
            | Self::TestAndDelete { .. }
            | Self::Restore(_)
            | Self::Upgrade { .. } => LogFormat(2),
            Self::As(asked) => asked.command.format().max(LogFormat(3)),
        }
    }

    /// Returns what is to be done, whoever asked for it.
    pub fn wanted(&self) -> &Self {
        match self {
            Self::As(asked) => &asked.command,
            _ => self,
        }
    }

    /// The same, to change it.
    pub fn wanted_mut(&mut self) -> &mut Self {
        match self {
            Self::As(asked) => &mut asked.command,
            _ => self,
        }
    }

    /// Returns how many keys it changes at most.
    fn changes(&self) -> usize {
        match self.wanted() {
            Self::Restore(restore) => restore.changes.len(),
            _ => 1,
        }
    }

    /// Returns about how many bytes of text the command holds.
    pub fn size(&self) -> usize {
        64 + self.sum(str::len)
    }

    /// Returns about how many bytes the command takes where it is written or sent, and
    /// hardly ever fewer: JSON makes six bytes of a control character. That takes a look
    /// at each byte.
    pub fn written_size(&self) -> usize {
        64 + self.sum(written)
    }

    /// Sums up the texts in the command that may be long.
    fn sum(&self, size: impl Fn(&str) -> usize) -> usize {
        let texts: [&str; 3] = match self {
            Self::Set { key, value, .. } | Self::Create { key, value, .. } => {
                [key.as_str(), value, ""]
            }
            Self::TestAndSet(TestAndSet { key, prev_value, value, .. }) => {
                [key.as_str(), prev_value, value]
            }
            Self::Delete { key } | Self::DeleteDir { key } => [key.as_str(), "", ""],
            Self::TestAndDelete { key, prev_value } => [key.as_str(), prev_value, ""],
            Self::Sync { .. } | Self::Upgrade { .. } => [""; 3],
            Self::Restore(restore) => return restore.sum(size),
            Self::As(asked) => {
                let id = size(asked.id.as_str());
                return 128 + id + asked.command.sum(size);
            }
            Self::Join(machine) => [&*machine.name, &machine.peer_url, &machine.client_url],
            Self::Leave { name } => [&**name, "", ""],
        };
        texts.into_iter().map(size).sum()
    }
}

/// Returns how many bytes a text takes as JSON, at most.
fn written(text: &str) -> usize {
    // In portions that a byte can count, for then a processor does many bytes at a time.
    let more = text.as_bytes().chunks(PORTION).map(|portion| usize::from(more(portion)));
    text.len() + more.sum::<usize>()
}

/// Of how many bytes [`more`] cannot be too large for a byte.
const PORTION: usize = u8::MAX as usize / 5;

/// Returns how many bytes JSON adds to so few.
fn more(bytes: &[u8]) -> u8 {
    // Five control characters have short forms, but no text is made of those alone.
    let more =
        |byte: u8| 5 * u8::from(byte < b' ') + u8::from(byte == b'"') + u8::from(byte == b'\\');
    bytes.iter().map(|byte| more(*byte)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_survives_its_text() {
        let text = concat!(
            r#"{"time":"2013-07-11T20:31:12.156146039Z","commands":["#,
            r#"{"sync":{"cluster":"00000000000000c1"}},"#,
            r#"{"join":{"name":"node1","node":"0000000000000001","peerUrl":"http://h:1","clientUrl":"http://h:2"}},"#,
            r#"{"set":{"key":"/foo","value":"bar"}},"#,
            r#"{"set":{"key":"/foo","value":"\u0000\"","ttl":5}},"#,
            r#"{"testAndSet":{"key":"/foo","prevValue":"bar","value":"baz"}},"#,
            r#"{"delete":{"key":"/foo"}},"#,
            r#"{"deleteDir":{"key":"/foo"}},"#,
            r#"{"leave":{"name":"node1"}},"#,
            r#"{"sync":{"cluster":"00000000000000c1","format":2}},"#,
            r#"{"create":{"key":"/lock","value":"me","ttl":5}},"#,
            r#"{"testAndDelete":{"key":"/lock","prevValue":"me"}},"#,
            r#"{"restore":{"key":"/a","at":3,"base":9,"changes":[{"delete":"/a/b"},"#,
            r#"{"deleteDir":"/a/c"},{"set":{"key":"/a/d","value":"x","ttl":7}}]}},"#,
            r#"{"upgrade":{"format":2}},"#,
            r#"{"as":{"id":"x-1","hash":"00000000000000ff","since":41,"do":{"delete":{"key":"/foo"}}}}],"#,
            r#""check":{"entry":7,"index":5,"event":4,"time":"2013-07-11T20:31:12.156146039Z","#,
            r#""digest":"0000000000000000000000000000000f"}}"#,
        );
        let batch: Batch = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&batch).unwrap(), text);
    }

    /// Whoever counts fewer bytes than are written makes messages that no link carries
    /// in time.
    #[test]
    fn size_is_that_of_what_is_written() {
        let control = "\u{1}".repeat(10_000);
        for value in ["bar", "", "\"\\\"", "\n\t\u{0}\u{1f}", "\u{7f}\u{2028}é", &control] {
            let command = TestAndSet {
                key: KeyPath::clean("/foo").unwrap(),
                prev_value: value.into(),
                value: value.into(),
                ttl: None,
            };
            let batch = Batch::new(LogTime(1), vec![Command::TestAndSet(command)]);
            let written = serde_json::to_vec(&batch).unwrap().len();
            let size = batch.written_size();
            assert!(size + 64 >= written, "{value:?}: {size} of {written}");
            assert!(size <= 2 * written + 128, "{value:?}: {size} of {written}");
        }
    }

    #[test]
    fn check_of_an_earlier_version_names_no_entry() {
        let text = concat!(
            r#"{"index":5,"event":4,"time":"2013-07-11T20:31:12.156146039Z","#,
            r#""digest":"0000000000000000000000000000000f"}"#,
        );
        let check: Check = serde_json::from_str(text).unwrap();
        assert_eq!(check.entry, None);
        assert_eq!(serde_json::to_string(&check).unwrap(), text);
    }

    /// What a word needs is a part of the format: it may not change.
    #[test]
    fn each_word_names_the_format_that_it_came_with() {
        for (text, format) in [
            (r#"{"sync":{"cluster":"00000000000000c1"}}"#, 1),
            (r#"{"sync":{"cluster":"00000000000000c1","format":2}}"#, 2),
            (r#"{"sync":{"cluster":"00000000000000c1","format":9}}"#, 2),
            (r#"{"set":{"key":"/a","value":"b","ttl":5}}"#, 1),
            (r#"{"testAndSet":{"key":"/a","prevValue":"b","value":"c"}}"#, 1),
            (r#"{"delete":{"key":"/a"}}"#, 1),
            (r#"{"deleteDir":{"key":"/a"}}"#, 1),
            (r#"{"leave":{"name":"node1"}}"#, 1),
            (r#"{"create":{"key":"/a","value":"b"}}"#, 2),
            (r#"{"testAndDelete":{"key":"/a","prevValue":"b"}}"#, 2),
            (r#"{"restore":{"key":"/a","at":3,"base":9,"changes":[]}}"#, 2),
            (r#"{"upgrade":{"format":9}}"#, 2),
            (r#"{"as":{"id":"x","hash":"1","since":0,"do":{"delete":{"key":"/a"}}}}"#, 3),
        ] {
            let command: Command = serde_json::from_str(text).unwrap();
            assert_eq!(command.format(), LogFormat(format), "{text}");
        }
        let tick = Batch::new(LogTime(1), Vec::new());
        assert_eq!(tick.format(), LogFormat::FIRST);
    }

    #[test]
    fn field_that_is_not_known_is_refused() {
        for text in [
            r#"{"set":{"key":"/foo","value":"bar","color":"red"}}"#,
            r#"{"delete":{"key":"/foo","recursive":true}}"#,
            r#"{"set":{"key":"/foo/","value":"bar"}}"#,
            r#"{"set":{"key":"/foo","value":"bar","ttl":0}}"#,
            r#"{"paint":{"key":"/foo"}}"#,
            r#"{"create":{"key":"/foo","value":"bar","prevExist":false}}"#,
            r#"{"restore":{"key":"/a","at":3,"base":9,"changes":[{"paint":"/a/b"}]}}"#,
            r#"{"upgrade":{"format":0}}"#,
            r#"{"upgrade":{}}"#,
            r#"{"as":{"id":"x","hash":"1","since":0,"do":{"paint":{"key":"/a"}}}}"#,
            r#"{"as":{"id":"x","hash":"1","since":0,"do":{"delete":{"key":"/a"}},"by":"bob"}}"#,
            r#"{"as":{"id":"x y","hash":"1","since":0,"do":{"delete":{"key":"/a"}}}}"#,
            r#"{"as":{"id":"","hash":"1","since":0,"do":{"delete":{"key":"/a"}}}}"#,
            r#"{"as":{"id":"x","since":0,"do":{"delete":{"key":"/a"}}}}"#,
            r#"{"as":{"id":"x","hash":"1","do":{"delete":{"key":"/a"}}}}"#,
            r#"{"as":{"id":"x","hash":"1","since":0,"do":{"leave":{"name":"node1"}}}}"#,
            r#"{"as":{"id":"x","hash":"1","since":0,"do":{"as":{"id":"y","hash":"1","since":0,"do":{"delete":{"key":"/a"}}}}}}"#,
        ] {
            assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
        }
    }
}
