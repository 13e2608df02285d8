//! `etcd log show`: the commands, and what came of each.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::Path;

use etcd_log::{
    Batch, Command, Entry, Index, KeyPath, LogTime, Machine, NodeId, Payload, Restore, TestAndSet,
    Ttl,
};
use etcd_projections::{Change, Outcome, Position, What, machine_key};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::ToolError;
use super::opened::Opened;
use crate::state::replay::ReplayedEntry;
use crate::util::printable::{Printable, is_printable};

/// What to show, and how.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The first command.
    pub from: Index,
    /// The last command.
    pub to: Index,
    /// Only this key, and those below it.
    pub key: Option<KeyPath>,
    /// Only this: a command by its name in a recorded log, or `expire`.
    pub action: Option<String>,
    /// Only what was logged at this time or later.
    pub since: Option<LogTime>,
    /// Only what was logged at this time or earlier.
    pub until: Option<LogTime>,
    /// Only what this machine has written as the leader.
    pub leader: Option<NodeId>,
    /// Lines of JSON instead of text.
    pub json: bool,
}

impl Selection {
    fn takes(&self, leader: NodeId, outcome: &Outcome, what: Option<&Command>) -> bool {
        let Position { index, time, .. } = outcome.position;
        let key = what.map_or_else(|| key_of_event(outcome), key_of_command);
        let wanted = self.key.as_ref();
        (self.from..=self.to).contains(&index)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time <= until)
            && self.leader.is_none_or(|wanted| wanted == leader)
            && self
                .action
                .as_ref()
                .is_none_or(|action| action == what.map_or("expire", action_of_command))
            && wanted.is_none_or(|wanted| key.is_some_and(|key| wanted.covers(&key)))
    }

    /// Whether entries without commands are of interest.
    fn takes_all(&self) -> bool {
        let whole = self.from == Index(0) && self.to == Index(u64::MAX) && !self.json;
        let times = self.since.is_none() && self.until.is_none();
        whole && times && self.key.is_none() && self.action.is_none() && self.leader.is_none()
    }
}

/// Shows what a log says.
///
/// # Errors
///
/// If the log cannot be read, or the output not be written.
pub async fn show(dir: &Path, selection: &Selection, out: &mut dyn Write) -> Result<(), ToolError> {
    let opened = Opened::open(dir)?;
    let mut replay = opened.replay(1)?;
    while let Some(ReplayedEntry { entry, outcomes }) = replay.next().await? {
        match entry.batch() {
            Some(batch) => show_batch(&entry, batch, &outcomes, selection, out)?,
            None if selection.takes_all() => show_other(&entry, out)?,
            None => {}
        }
    }
    Ok(())
}

fn show_batch(
    entry: &Entry,
    batch: &Batch,
    outcomes: &[Outcome],
    selection: &Selection,
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let mut commands = batch.commands.iter();
    // An expiry has the index of the command before it, as has each further event of one.
    let end = outcomes.last().map_or(0, |outcome| outcome.position.index.0);
    let mut last = Index(end - batch.commands.len() as u64);
    for outcome in outcomes {
        let is_answer = std::mem::replace(&mut last, outcome.position.index) < last;
        let command = if is_answer { commands.next() } else { None };
        if !selection.takes(entry.id.node, outcome, command) {
            continue;
        }
        if selection.json {
            let line = EntryLine::new(entry, command, outcome);
            write_json(&line, out)?;
        } else if let Some(command) = command {
            let (index, time, what) =
                (outcome.position.index.0, outcome.position.time, Came(outcome));
            writeln!(out, "{index:>8}  {time}  {}{what}", CommandText(command))?;
        } else if let What::Event(event) = &outcome.what {
            let (time, what) = (outcome.position.time, Came(outcome));
            writeln!(out, "{:>8}  {time}  {}{what}", "", EventText(event))?;
        }
    }
    Ok(())
}

fn show_other(entry: &Entry, out: &mut dyn Write) -> Result<(), ToolError> {
    let id = entry.id;
    match &entry.payload {
        Payload::Membership(membership) => {
            let names = |voters: &BTreeSet<NodeId>| {
                voters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            // Two sets, while the group changes from the one to the other.
            let voters: Vec<_> = membership.voters.iter().map(names).collect();
            writeln!(
                out,
                "{:>8}  term {}, entry {}: voters {}",
                "-",
                id.term.0,
                id.index.0,
                voters.join(" to ")
            )?;
        }
        Payload::Blank | Payload::Batch(_) => {
            writeln!(
                out,
                "{:>8}  term {}, entry {}: {} leads",
                "-", id.term.0, id.index.0, id.node
            )?;
        }
    }
    Ok(())
}

/// A line of JSON.
#[derive(Serialize)]
struct EntryLine<'a> {
    raft: u64,
    term: u64,
    index: u64,
    time: LogTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a Command>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a etcd_projections::Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl<'a> EntryLine<'a> {
    fn new(entry: &Entry, command: Option<&'a Command>, outcome: &'a Outcome) -> Self {
        let (event, refused) = match &outcome.what {
            What::Event(event) => (Some(&**event), None),
            What::Rejection(rejection) => (None, Some(rejection.to_string())),
            What::Tick => (None, None),
        };
        let position = outcome.position;
        let (raft, term) = (entry.id.index.0, entry.id.term.0);
        Self { raft, term, index: position.index.0, time: position.time, command, event, refused }
    }
}

pub(super) fn key_of_command(command: &Command) -> Option<KeyPath> {
    match command {
        Command::Set { key, .. }
        | Command::Delete { key }
        | Command::DeleteDir { key }
        | Command::Create { key, .. }
        | Command::TestAndDelete { key, .. }
        | Command::Restore(Restore { key, .. })
        | Command::TestAndSet(TestAndSet { key, .. }) => Some(key.clone()),
        Command::Sync { .. } | Command::Upgrade { .. } => {
            KeyPath::clean(etcd_projections::CLUSTER_KEY).ok()
        }
        Command::Join(Machine { name, .. }) | Command::Leave { name } => machine_key(name),
    }
}

/// Returns what a command is called in a recorded log.
pub(super) fn action_of_command(command: &Command) -> &'static str {
    match command {
        Command::Set { .. } => "set",
        Command::TestAndSet(_) => "testAndSet",
        Command::Delete { .. } => "delete",
        Command::DeleteDir { .. } => "deleteDir",
        Command::Create { .. } => "create",
        Command::TestAndDelete { .. } => "testAndDelete",
        Command::Restore(_) => "restore",
        Command::Upgrade { .. } => "upgrade",
        Command::Sync { .. } => "sync",
        Command::Join(_) => "join",
        Command::Leave { .. } => "leave",
    }
}

pub(super) fn key_of_event(outcome: &Outcome) -> Option<KeyPath> {
    match &outcome.what {
        What::Event(event) => Some(event.key.clone()),
        What::Rejection(_) | What::Tick => None,
    }
}

/// Writes a line of JSON.
pub(super) fn write_json(line: &impl Serialize, out: &mut dyn Write) -> Result<(), ToolError> {
    let mut json = Serializer::with_formatter(&mut *out, PrintableJson);
    line.serialize(&mut json).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// JSON without what a terminal would act on: JSON itself asks for less.
struct PrintableJson;

impl Formatter for PrintableJson {
    fn write_string_fragment<W>(&mut self, out: &mut W, fragment: &str) -> std::io::Result<()>
    where
        W: ?Sized + Write,
    {
        let mut rest = fragment;
        while let Some((at, found)) = rest.char_indices().find(|(_, found)| !is_printable(*found)) {
            out.write_all(&rest.as_bytes()[..at])?;
            for unit in found.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + found.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

/// A command, for people.
struct CommandText<'a>(&'a Command);

impl fmt::Display for CommandText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = |f: &mut fmt::Formatter<'_>, ttl: &Option<Ttl>| match ttl {
            Some(ttl) => write!(f, " for {ttl} s"),
            None => Ok(()),
        };
        match self.0 {
            Command::Set { key, value, ttl: seconds } => {
                write!(f, "set {} = {value:?}", Printable(key))?;
                ttl(f, seconds)
            }
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl: seconds }) => {
                write!(f, "testAndSet {} = {value:?} if it is {prev_value:?}", Printable(key))?;
                ttl(f, seconds)
            }
            Command::Create { key, value, ttl: seconds } => {
                write!(f, "set {} = {value:?} if it is not there", Printable(key))?;
                ttl(f, seconds)
            }
            Command::TestAndDelete { key, prev_value } => {
                write!(f, "delete {} if it is {prev_value:?}", Printable(key))
            }
            Command::Restore(Restore { key, at, changes, .. }) => {
                write!(f, "restore {} to {at}, {} changes", Printable(key), changes.len())
            }
            Command::Upgrade { format } => write!(f, "upgrade to log format {format}"),
            Command::Delete { key } => write!(f, "delete {}", Printable(key)),
            Command::DeleteDir { key } => write!(f, "delete directory {}", Printable(key)),
            Command::Sync { cluster, format } => {
                write!(f, "sync cluster {cluster}, log format {format}")
            }
            Command::Join(Machine { name, node, peer_url, client_url }) => {
                let [name, peers, clients] = [name, peer_url, client_url].map(Printable);
                write!(f, "join {name} ({node}) at {peers} and {clients}")
            }
            Command::Leave { name } => write!(f, "leave {}", Printable(name)),
        }
    }
}

/// An event that is not told with a command of its own, for people.
struct EventText<'a>(&'a etcd_projections::Event);

impl fmt::Display for EventText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Printable(&self.0.key);
        match &self.0.change {
            Change::Set { value, .. } => write!(f, "set {key} = {value:?}"),
            Change::Delete { .. } => write!(f, "delete {key}"),
            Change::DeleteDir => write!(f, "delete directory {key}"),
            Change::Expire { .. } => write!(f, "expire {key}"),
        }
    }
}

/// What came of a command, for people.
struct Came<'a>(&'a Outcome);

impl fmt::Display for Came<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            What::Event(event) => match &event.change {
                Change::Set { prev: None, .. } => f.write_str(", new"),
                Change::DeleteDir => Ok(()),
                Change::Set { prev: Some(prev), .. }
                | Change::Delete { prev, .. }
                | Change::Expire { prev, .. } => write!(f, ", was {prev:?}"),
            },
            What::Rejection(rejection) => write!(f, ", refused: {}", Printable(rejection)),
            What::Tick => Ok(()),
        }
    }
}
