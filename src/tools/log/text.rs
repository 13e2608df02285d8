//! Commands, and what came of them, as text for people and as JSON that a terminal can show.

use std::fmt;
use std::io::Write;

use etcd_log::{Asked, Command, Machine, Restore, TestAndSet, Ttl};
use etcd_projections::{Change, Event, Outcome, What};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::ToolError;
use super::look::Look;
use crate::util::printable::{Printable, is_printable};

/// JSON without what a terminal would act on: JSON itself asks for less.
pub(super) struct PrintableJson;

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
pub(super) struct CommandText<'a>(pub(super) &'a Command);

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
            Command::As(Asked { id, command, .. }) => {
                write!(f, "{}, request {id}", CommandText(command))
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
pub(super) struct EventText<'a>(pub(super) &'a Event);

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
pub(super) struct Came<'a>(pub(super) &'a Outcome);

impl fmt::Display for Came<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            What::Event(event) => Before(event).fmt(f),
            What::Rejection(rejection) => write!(f, ", refused: {}", Printable(rejection)),
            What::Tick => Ok(()),
        }
    }
}

/// What there was before an event, for people.
pub(super) struct Before<'a>(pub(super) &'a Event);

impl fmt::Display for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.change {
            Change::Set { prev: None, .. } => f.write_str(", new"),
            Change::DeleteDir => Ok(()),
            Change::Set { prev: Some(prev), .. }
            | Change::Delete { prev, .. }
            | Change::Expire { prev, .. } => write!(f, ", was {prev:?}"),
        }
    }
}

/// Writes something as a line of JSON.
pub(super) fn write_json(out: &mut dyn Write, line: &impl Serialize) -> Result<(), ToolError> {
    let mut json = Serializer::with_formatter(&mut *out, PrintableJson);
    line.serialize(&mut json).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Writes an event whose command is not known, for people: its command's index, unless it is
/// an expiry, which lies between two commands.
pub(super) fn write_event(out: &mut dyn Write, event: &Event, look: Look) -> Result<(), ToolError> {
    let is_expiry = matches!(event.change, Change::Expire { .. });
    let index = (!is_expiry).then_some(event.index);
    let text = format_args!("{}{}", EventText(event), Before(event));
    Ok(look.line(out, index, event.time, &text)?)
}

/// Writes JSON as it is told elsewhere, on lines of its own, without what a terminal would
/// act on: that stands in strings alone.
pub(super) fn write_lines(out: &mut dyn Write, json: &[u8]) -> Result<(), ToolError> {
    let text = String::from_utf8_lossy(json);
    for line in text.lines() {
        PrintableJson.write_string_fragment(out, line)?;
        writeln!(out)?;
    }
    Ok(())
}
