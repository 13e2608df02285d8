//! How a script shows what it sees.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use etcd_log::{Command, Entry, LogTime, Payload, TestAndSet, Ttl};
use etcd_projections::{Change, Event, Outcome, What};

use crate::consensus::{Consensus, Role};
use crate::node::WriteError;

/// Up to how many commands of a batch are named.
const NAMED: usize = 6;

/// What was answered to a write.
pub(super) fn answer(answer: &Result<Outcome, WriteError>) -> String {
    match answer {
        Ok(outcome) => match &outcome.what {
            What::Rejection(why) => format!("refused at {}: {why}", outcome.position.index),
            What::Event(_) | What::Tick => format!("done at {}", outcome.position.index),
        },
        Err(error) => error.to_string(),
    }
}

/// What was answered to many writes: those in a row that went alike in one line.
pub(super) fn answers(answers: &[Result<Outcome, WriteError>]) -> Vec<String> {
    let alike =
        |one: &Result<Outcome, WriteError>, other: &Result<Outcome, WriteError>| match (one, other)
        {
            (Ok(one), Ok(other)) => one.position.index.0 + 1 == other.position.index.0,
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
    let line = |alike: &[Result<Outcome, WriteError>]| {
        let (first, last) = (&alike[0], &alike[alike.len() - 1]);
        let upto = last.as_ref().ok().filter(|_| alike.len() > 1);
        let upto = upto.map_or(String::new(), |last| format!(" to {}", last.position.index));
        format!("{} of them {}{upto}", alike.len(), answer(first))
    };
    answers.chunk_by(alike).map(line).collect()
}

/// An entry of the log.
pub(super) fn entry(entry: &Entry) -> String {
    let what = match &entry.payload {
        Payload::Blank => "blank".to_owned(),
        Payload::Membership(_) => "members".to_owned(),
        Payload::Batch(batch) if batch.commands.is_empty() => {
            format!("tick at {}", seconds(batch.time))
        }
        Payload::Batch(batch) => {
            let commands = &batch.commands;
            let mut shown = format!("at {}: ", seconds(batch.time));
            if let ([first, .., last], true) = (&commands[..], commands.len() > NAMED) {
                let _infallible = write!(
                    shown,
                    "{} commands, {} to {}",
                    commands.len(),
                    command(first),
                    command(last)
                );
            } else {
                shown += &commands.iter().map(command).collect::<Vec<_>>().join(", ");
            }
            shown
        }
    };
    format!("{} of {} {what}", entry.id.index, entry.id.term)
}

fn command(command: &Command) -> String {
    let ttl = |ttl: &Option<Ttl>| ttl.map_or(String::new(), |ttl| format!(" ttl={}", ttl.get()));
    match command {
        Command::Set { key, ttl: lives, .. } => format!("set {key}{}", ttl(lives)),
        Command::TestAndSet(TestAndSet { key, ttl: lives, .. }) => {
            format!("testandset {key}{}", ttl(lives))
        }
        Command::Create { key, ttl: lives, .. } => format!("create {key}{}", ttl(lives)),
        Command::TestAndDelete { key, .. } => format!("testanddelete {key}"),
        Command::Restore(restore) => format!("restore {}", restore.key),
        Command::As(asked) => format!("{} as {}", self::command(&asked.command), asked.id),
        Command::Upgrade { format } => format!("upgrade {format}"),
        Command::Delete { key } => format!("delete {key}"),
        Command::DeleteDir { key } => format!("delete directory {key}"),
        Command::Sync { .. } => "sync".to_owned(),
        Command::Join(machine) => format!("join {}", machine.name),
        Command::Leave { name } => format!("leave {name}"),
    }
}

/// An event: its number, its index, and what happened.
pub(super) fn event(event: &Event) -> String {
    let Event { number, index, key, change, .. } = event;
    let change = match change {
        Change::Set { value, .. } => format!("set {key}={value}"),
        Change::Delete { .. } => format!("delete {key}"),
        Change::DeleteDir => format!("delete directory {key}"),
        Change::Expire { .. } => format!("expire {key}"),
    };
    format!("{number} {index} {change}")
}

/// How many keys have expired at which time.
pub(super) fn expired<'e>(
    events: impl Iterator<Item = &'e Arc<Event>>,
) -> impl Iterator<Item = String> {
    let mut at = BTreeMap::<LogTime, usize>::new();
    for event in events.filter(|event| matches!(event.change, Change::Expire { .. })) {
        *at.entry(event.time).or_default() += 1;
    }
    at.into_iter().map(|(time, count)| format!("{count} at {}", seconds(time)))
}

/// Where a machine stands.
pub(super) fn role(consensus: &Consensus) -> String {
    match consensus.role() {
        Role::Leader => format!("leads in {}", consensus.term()),
        Role::LeaderWithoutQuorum => "leads without a quorum".to_owned(),
        Role::Follower(leader) => format!("follows n{}", leader.0),
        Role::NoLeader => "knows no leader".to_owned(),
    }
}

fn seconds(time: LogTime) -> String {
    format!("{}.{:03}s", time.0 / 1_000_000_000, time.0 / 1_000_000 % 1000)
}
