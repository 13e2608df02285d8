//! Messages: the requests that machines ask each other, and the answers.
//!
//! A message is JSON; behind that of an append stand the entries as they lie in
//! the log, so that nothing is lost or added on the way:
//!
//! ```text
//!  │ length of the JSON │ JSON … │ length │ entry … │ length │ entry … │
//! ```

use std::sync::Arc;

use etcd_log::{
    ClusterId, Command, Entry, EventNumber, Index, KeyPath, LogFormat, LogId, LogTime, Machine,
    NodeId, RaftIndex, Vote, WRITE_ENTRIES,
};
use serde::{Deserialize, Serialize};

/// What one machine asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Append the entries that come with it (Raft, section 5.3).
    Append {
        /// Who leads, and in which term.
        vote: Vote,
        /// The entry before the first one.
        previous: Option<LogId>,
        /// The last entry that is on a majority.
        committed: Option<LogId>,
        /// The leader's clock.
        time: LogTime,
    },
    /// A leader is there, and will say more: its entries may be long on their way.
    Pulse {
        /// Who leads, and in which term.
        vote: Vote,
        /// The leader's clock.
        time: LogTime,
    },
    /// Vote for the sender (Raft, section 5.2).
    Vote {
        /// Who stands, and in which term.
        vote: Vote,
        /// Its last entry.
        last: Option<LogId>,
    },
    /// Would you vote for the sender? (Raft dissertation, section 9.6.) And who
    /// leads?
    #[serde(rename = "wouldVote")]
    PreVote {
        /// Its last entry.
        last: Option<LogId>,
        /// Where it is reached by now.
        address: Arc<str>,
    },
    /// Take this checkpoint, which comes in pieces: the first piece of the answer says
    /// that it is wanted.
    Checkpoint {
        /// Who leads, and in which term.
        vote: Vote,
        /// The last entry that the checkpoint contains.
        applied: LogId,
        /// The last command.
        index: Index,
        /// The last event.
        event: EventNumber,
        /// How long it is.
        bytes: u64,
    },
    /// Propose these commands, as the leader.
    Propose {
        /// The commands that waited.
        commands: Vec<Command>,
    },
    /// Up to where must be applied what is to be read now?
    Barrier,
    /// Let this machine join.
    Join {
        /// The machine.
        machine: Machine,
        /// The newest format of a log that it can read.
        log_format: LogFormat,
    },
    /// Remove a machine from the cluster.
    Leave {
        /// Its name.
        name: Arc<str>,
    },
    /// This member is reached somewhere else by now.
    Move {
        /// The machine, as it is known from here on.
        machine: Machine,
    },
    /// You have been removed.
    #[serde(rename = "farewell")]
    Removed,
    /// Do you know this machine as a member of the cluster?
    Knows {
        /// The machine.
        node: NodeId,
    },
    /// Which process are you?
    Process,
    /// Which is the newest format of a log that you can read? A version that reads the
    /// first one alone does not understand it.
    LogFormat,
    /// How do you stand?
    #[serde(rename = "standing")]
    Status,
    /// What happened? The answer is a stream of events.
    History(HistoryRequest),
    /// Which entries are there? The answer is a stream of entries.
    Entries {
        /// The first one wanted; the oldest there is, if that comes later.
        from: RaftIndex,
        /// The last one wanted.
        upto: RaftIndex,
    },
}

/// Which events somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRequest {
    /// The prefix that they lie below.
    pub prefix: KeyPath,
    /// The first event wanted, by number.
    pub number: Option<EventNumber>,
    /// The first index wanted.
    pub index: Index,
    /// The last event wanted.
    pub upto: EventNumber,
}

/// What one machine answers another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Response {
    /// What came of an append.
    Appended(Appended),
    /// A sign of life was heard.
    Pulse {
        /// The sender's vote by now.
        vote: Vote,
    },
    /// A vote, given or not.
    Voted {
        /// The sender's vote by now.
        vote: Vote,
        /// Its last entry.
        last: Option<LogId>,
        /// Whether the vote is for who asked.
        granted: bool,
    },
    /// Whether the sender would vote for who asked.
    #[serde(rename = "wouldVote")]
    PreVote {
        /// Whether it would.
        granted: bool,
        /// The leader that it hears.
        following: Option<LeaderHint>,
    },
    /// A checkpoint was taken, or overruled by a later vote.
    Installed {
        /// The sender's vote by now.
        vote: Vote,
    },
    /// Where the commands stand by now, applied.
    Placed(LogPosition),
    /// Up to where the state must be applied.
    Barrier {
        /// The entry.
        upto: Option<RaftIndex>,
    },
    /// The machine may join: this is the cluster.
    Joined {
        /// Its identity.
        cluster: ClusterId,
    },
    /// How the sender stands.
    #[serde(rename = "standing")]
    Status(Status),
    /// Whether a machine is a member of the cluster.
    Knows {
        /// Whether the sender knows it as one.
        is_member: bool,
        /// Whether the sender hears a leader, or leads: it knows who the members are.
        is_led: bool,
        /// Where it is reached, as the log has it; only a leader says so, and only to the
        /// machine itself.
        address: Option<Arc<str>>,
    },
    /// Which process this is.
    Process {
        /// A number that no other one has.
        number: u64,
    },
    /// The newest format of a log that the sender can read.
    LogFormat(LogFormat),
    /// All that was asked for is told, in pieces: each an event, as JSON. An empty
    /// piece says that the sender is still looking.
    History {
        /// All events up to here have been told.
        reached: EventNumber,
    },
    /// What there is, is told. Or: it has been heard.
    Done,
}

/// What came of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Appended {
    /// All entries are there, durably.
    All,
    /// The entries up to this one are.
    UpTo(Option<LogId>),
    /// The entry before the first one is not there.
    Conflict,
    /// Somebody else has been voted for since.
    Overruled(Vote),
}

/// Whom a machine follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaderHint {
    /// The leader.
    pub node: NodeId,
    /// Where it is reached: `host:port`.
    pub address: Arc<str>,
}

/// Where proposed commands stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogPosition {
    /// The entry that carries them.
    pub entry: RaftIndex,
    /// How many commands stand before them in it.
    pub skip: usize,
}

/// How a machine stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Status {
    /// Whether it leads.
    pub leads: bool,
    /// The last command that it has applied.
    pub applied: Index,
    /// The last entry that it has applied.
    pub entry: RaftIndex,
}

/// Why commands were not proposed, or may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ProposalError {
    /// They were not, and will not be: the machine does not lead.
    #[error("it does not lead")]
    NotLeader,
    /// They were not, and will not be: the leader has lost its majority.
    #[error("it has lost its majority")]
    NoMajority,
    /// They were not, and will not be: the leader's disk is nearly full.
    #[error("its disk is nearly full")]
    DiskFull,
    /// They may become part of the log.
    #[error("whether it proposed it is not known")]
    Unknown,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Refusal {
    /// It is for a machine of another cluster.
    #[error("it belongs to cluster {0}")]
    OtherCluster(ClusterId),
    /// It is for another machine.
    #[error("it is machine {0}")]
    OtherMachine(NodeId),
    /// It cannot be read, or not now.
    #[error("it does not understand: {0}")]
    NotUnderstood(String),
    /// It cannot be true.
    #[error("it does not believe that: {0}")]
    NotBelieved(String),
    /// An entry is not the one that is committed here, or has another content.
    #[error("machine {from} has {}", differing(*found, *here))]
    Differs {
        /// The machine that sent it.
        from: NodeId,
        /// The entry that came.
        found: LogId,
        /// The entry that is here.
        here: LogId,
    },
    /// It knows nothing of the asking machine, or nothing yet.
    #[error("it does not know this machine")]
    Stranger,
    /// It is not ready to answer yet.
    #[error("it is not ready")]
    NotReady,
    /// The commands were not proposed, or may have been.
    #[error("{0}")]
    #[serde(rename = "notProposed")]
    Proposal(ProposalError),
    /// It does not lead: ask this one, if one is known.
    #[error("it does not lead")]
    NotLeader(Option<LeaderHint>),
    /// Another process of the asking machine runs there: one is on a copy of its directory.
    #[error("another process of this machine runs at {0}")]
    RunsElsewhere(Arc<str>),
    /// The asking machine has been removed from the cluster.
    #[error("this machine was removed from the cluster")]
    Removed,
    /// What was asked for is kept nowhere any more.
    #[error("it is no longer kept; the oldest command is {oldest}")]
    NoLongerKept {
        /// The oldest command that is kept.
        oldest: Index,
    },
    /// It has not got the history either.
    #[error("it has not got that history either")]
    Lacking,
    /// There is no such machine.
    #[error("there is no such machine")]
    NotFound,
    /// What was asked for cannot be.
    #[error("{0}")]
    Impossible(String),
}

/// Says in what an entry differs from the one that is here.
fn differing(found: LogId, here: LogId) -> String {
    if found == here {
        return format!("another content for {}", identified(found));
    }
    format!("{}, where {} is committed or logged", identified(found), identified(here))
}

/// Names an entry, and who wrote it.
fn identified(id: LogId) -> String {
    format!("entry {id} by machine {}", id.node)
}

impl Request {
    /// Returns whether a machine that does not know the cluster may ask.
    pub(super) fn is_for_strangers(&self) -> bool {
        matches!(self, Self::Join { .. })
    }

    /// Returns whether a machine may ask that is no member: one that wants to join, that
    /// may have been removed, or that says so; or another process of this one.
    pub fn is_for_non_members(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::PreVote { .. } | Self::Removed | Self::Process)
    }

    /// Returns whether whoever stands at an address may answer.
    pub(super) fn is_for_anyone(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::PreVote { .. } | Self::Process)
    }
}

/// How much room a message is given at first: enough for most, so that it need not grow.
const FIRST_BYTES: usize = 512;

/// Writes a message, with what stands behind it.
pub(super) fn encode(message: &impl Serialize, behind: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(FIRST_BYTES + behind.len());
    body.extend([0; 4]);
    serde_json::to_writer(&mut body, message).expect("messages are plain data");
    let length = u32::try_from(body.len() - 4).expect("messages are bounded");
    body[..4].copy_from_slice(&length.to_le_bytes());
    body.extend_from_slice(behind);
    body
}

/// Reads a message, and returns what stands behind it.
pub(super) fn decode<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<(T, &'b [u8]), String> {
    let (length, rest) = split_length(body)?;
    let (json, behind) = rest.split_at(length);
    let message = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((message, behind))
}

/// Writes entries behind each other.
///
/// # Panics
///
/// Never: the log bounds an entry.
pub fn encode_entries<'e>(entries: impl IntoIterator<Item = &'e Arc<Entry>>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIRST_BYTES);
    for entry in entries {
        let start = bytes.len();
        bytes.extend([0; 4]);
        entry.encode(&mut bytes);
        let length = u32::try_from(bytes.len() - start - 4).expect("entries are bounded");
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

/// Reads entries that stand behind each other.
///
/// # Errors
///
/// With what is wrong, in words.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    split_entries(bytes)?.into_iter().map(Entry::decode).collect()
}

/// Splits entries that stand behind each other, without reading them.
///
/// # Errors
///
/// With what is wrong, in words.
pub fn split_entries(mut bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = split_length(bytes)?;
        let (entry, rest) = rest.split_at(length);
        if entries.len() == WRITE_ENTRIES {
            return Err(format!("there are more than {WRITE_ENTRIES} entries"));
        }
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

/// Returns a length that fits, and what stands behind it.
fn split_length(bytes: &[u8]) -> Result<(usize, &[u8]), String> {
    let (length, rest) = bytes.split_first_chunk().ok_or("it has no length")?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > rest.len() {
        return Err(format!("it should have {length} bytes, and has {}", rest.len()));
    }
    Ok((length, rest))
}

#[cfg(test)]
mod tests {
    use etcd_log::{Asked, Batch, Payload, Term};

    use super::*;
    use crate::util::fuzz::fuzz;

    fn entry(index: u64) -> Arc<Entry> {
        let id = LogId { term: Term(1), node: NodeId(1), index: RaftIndex(index) };
        let command = Command::Delete { key: KeyPath::clean("/k").unwrap() };
        let batch = Batch::new(LogTime(index), vec![command]);
        Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
    }

    #[test]
    fn entries_are_read_back_as_written() {
        let entries = [entry(1), entry(2), entry(3)];
        let read = decode_entries(&encode_entries(&entries)).unwrap();
        assert!(read.iter().eq(entries.iter().map(|entry| &**entry)));
    }

    #[test]
    fn message_is_read_back_with_what_stands_behind() {
        let request = Request::Leave { name: Arc::from("node1") };
        let body = encode(&request, b"behind");
        assert_eq!(decode(&body), Ok((request, &b"behind"[..])));
    }

    #[test]
    fn entry_that_differs_is_told_from_the_one_that_is_here() {
        let id = |node| LogId { term: Term(4), node: NodeId(node), index: RaftIndex(7) };
        let text = |found, here| Refusal::Differs { from: NodeId(3), found, here }.to_string();
        let (three, same) = (NodeId(3), identified(id(1)));
        assert_eq!(text(id(1), id(1)), format!("machine {three} has another content for {same}"));
        let other = format!(
            "machine {three} has {}, where {same} is committed or logged",
            identified(id(2))
        );
        assert_eq!(text(id(2), id(1)), other);
    }

    #[test]
    fn entries_in_a_message_are_bounded() {
        let empty = 0_u32.to_le_bytes();
        assert!(split_entries(&empty.repeat(WRITE_ENTRIES)).is_ok());
        assert!(split_entries(&empty.repeat(WRITE_ENTRIES + 1)).is_err());
    }

    /// What a message says is read, or refused; and what was read is written as it is read.
    #[test]
    fn fuzzed_messages_are_read_or_refused() {
        let (vote, time) = (Vote { term: Term(3), node: NodeId(1), committed: true }, LogTime(1));
        let id = LogId { term: Term(2), node: NodeId(1), index: RaftIndex(7) };
        let delete = Command::Delete { key: KeyPath::clean("/k").unwrap() };
        let once = Command::As(Asked::new("x".parse().unwrap(), Index(4), delete.clone()));
        let machine = Machine {
            name: Arc::from("node1"),
            node: NodeId(1),
            peer_url: Arc::from("http://h:1"),
            client_url: Arc::from("http://h:2"),
        };
        let (previous, committed) = (Some(id), None);
        let requests = [
            Request::Append { vote, previous, committed, time },
            Request::Vote { vote, last: None },
            Request::PreVote { last: Some(id), address: Arc::from("h:1") },
            Request::Propose { commands: vec![delete, once] },
            Request::Join { machine, log_format: LogFormat::NEWEST },
            Request::Entries { from: RaftIndex(1), upto: RaftIndex(9) },
        ];
        let good: Vec<_> = requests
            .iter()
            .map(|request| encode(request, &encode_entries(&[entry(8), entry(9)])))
            .collect();
        let words =
            ["{", "}", "[", "]", "\"", ":", ",", "null", "-1", "1e999", "\\u0000", "\"as\""];
        fuzz(&good, &words, |bytes| {
            if let Ok((request, behind)) = decode::<Request>(bytes) {
                let again = encode(&request, behind);
                assert_eq!(decode::<Request>(&again), Ok((request, behind)));
                if let Ok(entries) = decode_entries(behind) {
                    let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
                    let again = decode_entries(&encode_entries(&entries)).unwrap();
                    assert!(again.into_iter().map(Arc::new).eq(entries));
                }
            }
            let _answer = decode::<Response>(bytes);
            let _refusal = decode::<Refusal>(bytes);
        });
    }
}
