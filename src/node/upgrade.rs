//! The format gate: nothing is said in the log that a member cannot read.
//!
//! ```text
//! which format do you read? ─▶ every member: n, or a later one ─▶ leader: `upgrade` to n
//!                                └─ one reads less, or does not answer: not yet
//! ```
//!
//! A machine stops at a command that it cannot read. So what needs a later format than the
//! one in force is refused by whoever is asked for it, and he names who is in the way. A
//! member that does not answer is in the way too: it may come back as it was.
//!
//! Nobody joins meanwhile who reads less: a join waits for the same turn (`members`), and is
//! measured by the format in force.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Command, LogFormat, NodeId};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::members::STANDING_LIMIT;
use super::{Node, Unavailable, WriteError};
use crate::peers::{CallError, Refusal, Request, Response};

/// How often a leader looks whether all members read a later format by now.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to write that they do.
const LIMIT: Duration = Duration::from_secs(5);

/// A member that is in the way of an upgrade.
struct InTheWay {
    name: Arc<str>,
    /// The newest format that it reads; none, if it does not answer.
    reads: Option<LogFormat>,
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reads {
            Some(reads) => write!(f, "{} Reads Log Format {reads}", self.name),
            None => write!(f, "{} Does Not Answer", self.name),
        }
    }
}

impl Node {
    /// Raises the format in force to what all members read, while this machine leads.
    pub(super) async fn upgrade(self) {
        let mut closing = self.closing();
        while self.inner.published.format() < self.inner.reads {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            if self.inner.consensus.leads() {
                // What fails is tried again.
                let _tried = self.try_to_upgrade(Instant::now() + LIMIT).await;
            }
        }
    }

    async fn try_to_upgrade(&self, deadline: Instant) -> Result<(), WriteError> {
        let turn = self.turn_to_change(deadline).await?;
        // As long as nobody has been introduced, the log has not begun.
        if turn.machines.iter().next().is_none() {
            return Ok(());
        }
        let members = self.others();
        let asked = join_all(members.iter().map(|node| self.ask_format(*node))).await;
        let Some(others) = asked.into_iter().collect::<Option<Vec<_>>>() else { return Ok(()) };
        let format = others.into_iter().fold(self.inner.reads, LogFormat::min);
        if format <= turn.format {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let command = Command::Upgrade { format };
        self.inner.proposer.propose_in(turn.term, command, left).await?;
        tracing::info!("all machines read log format {format}, which is in force from here on");
        Ok(())
    }

    /// Returns the newest format that another machine reads; none, if it does not answer.
    async fn ask_format(&self, node: NodeId) -> Option<LogFormat> {
        let asking = self.inner.peers.ask(node, &Request::LogFormat, &[], STANDING_LIMIT);
        match asking.await {
            Ok(Response::LogFormat(reads)) => Some(reads),
            // It is of a version from before there was a second one.
            Err(CallError::Refused { refusal: Refusal::NotUnderstood(_), .. }) => {
                Some(LogFormat::FIRST)
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Waits until the log may say what is of this format.
    ///
    /// # Errors
    ///
    /// If a member is in the way of that, or nobody leads who could write it down.
    pub(super) async fn until_it_may_say(
        &self,
        format: LogFormat,
        deadline: Instant,
    ) -> Result<(), WriteError> {
        if format == LogFormat::FIRST || format <= self.inner.published.format() {
            return Ok(());
        }
        // On the heap: whatever is written would have room for it.
        if let Some(member) = Box::pin(self.in_the_way_of(format)).await {
            return Err(WriteError::UpgradeNotFinished(Arc::from(member.to_string())));
        }
        // The leader is about to write it.
        let in_force = self.inner.published.wait_for(|now| now.state.format() >= format);
        let in_time = tokio::time::timeout_at(deadline, in_force).await;
        in_time.ok().flatten().map(drop).ok_or(Unavailable::NoLeader.into())
    }

    /// Returns a member that does not read a format, or does not say whether it does.
    async fn in_the_way_of(&self, format: LogFormat) -> Option<InTheWay> {
        let me = &self.inner.machine;
        if self.inner.reads < format {
            return Some(InTheWay { name: Arc::clone(&me.name), reads: Some(self.inner.reads) });
        }
        let machines = self.inner.published.machines();
        let others = machines.iter().filter(|machine| machine.node != me.node);
        let asking = others.map(|machine| async {
            let reads = self.ask_format(machine.node).await;
            InTheWay { name: Arc::clone(&machine.name), reads }
        });
        let asked = join_all(asking).await;
        // Who reads less is worth more words than who is silent.
        let (read, silent): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|member| member.reads.is_some());
        let lags = |member: &InTheWay| member.reads < Some(format);
        read.into_iter().find(lags).or_else(|| silent.into_iter().next())
    }
}
