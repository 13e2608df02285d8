//! `etcd log show`: the commands, and what came of each.

use std::collections::BTreeSet;
use std::io::Write;

use etcd_log::{
    Batch, Command, KeyPath, LogId, LogTime, Machine, NodeId, Payload, Restore, TestAndSet,
};
use etcd_projections::{Outcome, Position, What, machine_key};
use serde::Serialize;

use super::ToolError;
use super::action::Action;
use super::look::Look;
use super::proposers::Proposers;
use super::source::{LogPath, Source};
use super::span::Span;
use super::text::{Came, CommandText, EventText, write_json};
use super::walk::Step;
use crate::util::moment::Moment;

/// What to show, and how.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// From when on.
    pub from: Option<Moment>,
    /// Up to when; up to a command, with what expired behind it.
    pub to: Option<Moment>,
    /// Only this key, and those below it.
    pub key: Option<KeyPath>,
    /// Only these actions; all, if there are none.
    pub actions: Vec<Action>,
    /// Only what this machine proposed, by its name or its id.
    pub machine: Option<String>,
    /// Only what the machine with this id proposed.
    pub leader: Option<NodeId>,
    /// Lines of JSON instead of text.
    pub json: bool,
    /// How text looks.
    pub look: Look,
}

impl Selection {
    fn takes(&self, key: Option<&KeyPath>, action: Option<Action>) -> bool {
        let is_below = |wanted: &KeyPath| key.is_some_and(|key| wanted.covers(key));
        let is_of = |action| self.actions.contains(&action);
        self.key.as_ref().is_none_or(is_below)
            && (self.actions.is_empty() || action.is_some_and(is_of))
    }

    /// Whether entries without commands are of interest.
    fn takes_all(&self) -> bool {
        let is_narrowed = self.from.is_some() || self.to.is_some() || self.key.is_some();
        !is_narrowed && self.actions.is_empty() && !self.asks_who() && !self.json
    }

    fn asks_who(&self) -> bool {
        self.machine.is_some() || self.leader.is_some()
    }
}

/// Shows what a log says.
///
/// # Errors
///
/// If the log cannot be read, does not come by the moments in their order, or does not say
/// who proposed where that is asked; or if the output cannot be written.
pub fn show(from: &LogPath, selection: &Selection, out: &mut dyn Write) -> Result<(), ToolError> {
    let source = Source::open(from)?;
    let span = Span::of(&source, selection.from, selection.to)?;
    if selection.asks_who() && source.directory().is_none() {
        return Err(ToolError::NoProposers(from.path.clone()));
    }
    let mut walk = span.walk(source.walk(1)?)?;
    let called = selection.machine.as_deref();
    let proposers = called.map(|_| Proposers::of(&source, walk.state())).transpose()?;
    let mut before = walk.reached();
    while let Some(step) = walk.next()? {
        let node = step.id.map(|id| id.node);
        let is_called = |proposers: &Proposers| proposers.is(node, called.unwrap_or_default());
        if proposers.as_ref().is_none_or(is_called)
            && selection.leader.is_none_or(|leader| Some(leader) == node)
        {
            show_step(&step, before, (selection, &span), out)?;
        }
        before = walk.reached();
    }
    walk.check_end()
}

fn show_step(
    step: &Step,
    before: Position,
    (selection, span): (&Selection, &Span),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    match (&step.payload, step.id) {
        (Payload::Batch(batch), _) => {
            for shown in told(batch, before, &step.outcomes) {
                if span.has_begun(shown.outcome.position)
                    && selection.takes(shown.key.as_ref(), shown.action)
                {
                    shown.write(step.id, selection, out)?;
                }
            }
            Ok(())
        }
        (payload, Some(id)) if selection.takes_all() => show_other(id, payload, out),
        _ => Ok(()),
    }
}

/// What came of a batch: with its command, if it is the first that came of one.
pub(super) struct Told<'a> {
    pub(super) command: Option<&'a Command>,
    pub(super) outcome: &'a Outcome,
    pub(super) key: Option<KeyPath>,
    /// None, where nothing but time passed.
    pub(super) action: Option<Action>,
}

/// Tells what came of a batch behind a position.
pub(super) fn told<'a>(
    batch: &'a Batch,
    before: Position,
    outcomes: &'a [Outcome],
) -> impl Iterator<Item = Told<'a>> {
    let mut commands = batch.commands.iter();
    // An expiry has the index of the command before it, as has each further event of one.
    let mut last = before.index;
    outcomes.iter().map(move |outcome| {
        let is_answer = std::mem::replace(&mut last, outcome.position.index) < last;
        let command = if is_answer { commands.next() } else { None };
        let key = command.map_or_else(|| key_of_event(outcome), key_of_command);
        let action = command.map(Action::of_command).or_else(|| Action::of_outcome(outcome));
        Told { command, outcome, key, action }
    })
}

impl Told<'_> {
    fn write(
        &self,
        id: Option<LogId>,
        selection: &Selection,
        out: &mut dyn Write,
    ) -> Result<(), ToolError> {
        if selection.json {
            return write_json(out, &EntryLine::new(id, self.command, self.outcome));
        }
        self.write_text(selection.look, out)
    }

    /// Writes it for people; nothing, where nothing but time passed.
    pub(super) fn write_text(&self, look: Look, out: &mut dyn Write) -> Result<(), ToolError> {
        let Position { index, time, .. } = self.outcome.position;
        let came = Came(self.outcome);
        if let Some(command) = self.command {
            let text = format_args!("{}{came}", CommandText(command));
            look.line(out, Some(index), time, &text)?;
        } else if let What::Event(event) = &self.outcome.what {
            look.line(out, None, time, &format_args!("{}{came}", EventText(event)))?;
        }
        Ok(())
    }
}

fn show_other(id: LogId, payload: &Payload, out: &mut dyn Write) -> Result<(), ToolError> {
    match payload {
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

/// A line of JSON. An exported log does not say which entry it was, and whose.
#[derive(Serialize)]
struct EntryLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    raft: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
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
    fn new(id: Option<LogId>, command: Option<&'a Command>, outcome: &'a Outcome) -> Self {
        let (event, refused) = match &outcome.what {
            What::Event(event) => (Some(&**event), None),
            What::Rejection(rejection) => (None, Some(rejection.to_string())),
            What::Tick => (None, None),
        };
        let Position { index, time, .. } = outcome.position;
        let (raft, term) = (id.map(|id| id.index.0), id.map(|id| id.term.0));
        let node = id.map(|id| id.node);
        Self { raft, term, node, index: index.0, time, command, event, refused }
    }
}

fn key_of_command(command: &Command) -> Option<KeyPath> {
    match command {
        Command::Set { key, .. }
        | Command::Delete { key }
        | Command::DeleteDir { key }
        | Command::Create { key, .. }
        | Command::TestAndDelete { key, .. }
        | Command::Restore(Restore { key, .. })
        | Command::TestAndSet(TestAndSet { key, .. }) => Some(key.clone()),
        Command::As(asked) => key_of_command(&asked.command),
        Command::Sync { .. } | Command::Upgrade { .. } => {
            KeyPath::clean(etcd_projections::CLUSTER_KEY).ok()
        }
        Command::Join(Machine { name, .. }) | Command::Leave { name } => machine_key(name),
    }
}

fn key_of_event(outcome: &Outcome) -> Option<KeyPath> {
    match &outcome.what {
        What::Event(event) => Some(event.key.clone()),
        What::Rejection(_) | What::Tick => None,
    }
}
