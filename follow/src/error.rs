//! What ends the stream, and what only ends a connection.

use std::io;

use etcd_log::{ClusterId, EventNumber};

/// Why the stream ends. Before that, all machines have been asked; if one of them could not
/// answer, as one that restarts, again and again.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is nobody to ask, or it is no address of a machine.
    #[error("{0:?} is not the address of a machine, as http://host:port is")]
    Address(String),
    /// What comes next is no longer kept by any machine that answers: events have been missed.
    #[error("what follows event {after} is no longer kept; {url} says: {said}")]
    Gone {
        /// The last event that was seen, or that was to be gone on from.
        after: EventNumber,
        /// Who said so last.
        url: String,
        /// In its own words, which name the oldest index that is kept.
        said: String,
    },
    /// The machines belong to another cluster, whose numbers mean something else.
    #[error("{url} belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// Who said so last.
        url: String,
        /// Its cluster.
        found: ClusterId,
        /// The one that was followed so far, or that was to be.
        expected: ClusterId,
    },
    /// The request is refused, and would be again.
    #[error("{url} refuses with status {status}: {said}")]
    Refused {
        /// Who said so last.
        url: String,
        /// The status.
        status: u16,
        /// Why.
        said: String,
    },
    /// What the machines say is not what a machine says, again and again.
    #[error("{url} cannot be believed")]
    Broken {
        /// Who said so last.
        url: String,
        /// What is wrong with it.
        source: Box<Fault>,
    },
}

/// Why a connection came to nothing, or to an end.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The machine cannot be reached.
    #[error("cannot be reached")]
    Io(#[from] io::Error),
    /// The connection broke off.
    #[error("the connection broke off")]
    Http(#[from] hyper::Error),
    /// The stream came to its end: the machine is closing.
    #[error("the stream has ended")]
    Ended,
    /// Nothing came for too long, not even a sign of life.
    #[error("nothing came for {seconds} s")]
    Silent {
        /// For how long.
        seconds: u64,
    },
    /// The machine cannot serve just now.
    #[error("status {status}: {said}")]
    Unavailable {
        /// The status.
        status: u16,
        /// Why.
        said: String,
    },
    /// The machine says that others know more than it.
    #[error("not healthy any more")]
    Unhealthy,
    /// What follows is no longer kept there.
    #[error("no longer kept: {0}")]
    Gone(String),
    /// It belongs to another cluster.
    #[error("belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// Its cluster.
        found: ClusterId,
        /// The one that is followed.
        expected: ClusterId,
    },
    /// The request is refused.
    #[error("refused with status {status}: {said}")]
    Refused {
        /// The status.
        status: u16,
        /// Why.
        said: String,
    },
    /// An event is missing, or was there before.
    #[error("event {found} comes where {expected} should")]
    OutOfOrder {
        /// The number that came.
        found: EventNumber,
        /// The number that should; the lowest of them, where there may be gaps.
        expected: EventNumber,
    },
    /// What came is no event.
    #[error("not an event: {0}")]
    Unreadable(String),
}

/// How many times all machines are asked before one that answers is believed, while another one
/// does not: with the pauses in between, that takes between ten and twenty seconds.
const ROUNDS_WITHOUT_ALL: u32 = 10;

impl Fault {
    /// Returns whether the fault is believed to last: it was there so many times in a row that
    /// all machines were asked; and all of them could answer the last time, or not.
    pub(crate) fn is_believed(&self, rounds: u32, all_answered: bool) -> bool {
        let least = if all_answered { 1 } else { ROUNDS_WITHOUT_ALL };
        self.believed_after().is_some_and(|most| rounds >= most.max(least))
    }

    /// Returns how many times all machines must have been asked before the fault is believed
    /// to last; nothing for what passes by itself.
    pub(crate) fn believed_after(&self) -> Option<u32> {
        match self {
            Self::Gone(_) | Self::OtherCluster { .. } | Self::Refused { .. } => Some(1),
            Self::OutOfOrder { .. } | Self::Unreadable(_) => Some(3),
            Self::Io(_)
            | Self::Http(_)
            | Self::Ended
            | Self::Silent { .. }
            | Self::Unavailable { .. }
            | Self::Unhealthy => None,
        }
    }

    /// Returns the error that a fault comes to that lasts.
    pub(crate) fn into_error(self, url: String, after: EventNumber) -> FollowError {
        match self {
            Self::Gone(said) => FollowError::Gone { after, url, said },
            Self::OtherCluster { found, expected } => {
                FollowError::OtherCluster { url, found, expected }
            }
            Self::Refused { status, said } => FollowError::Refused { url, status, said },
            fault => FollowError::Broken { url, source: Box::new(fault) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_not_believed_for_the_others_until_they_had_their_time() {
        let gone = Fault::Gone(String::new());
        let no_event = Fault::Unreadable(String::new());
        for (fault, all_answered, first) in [
            (&gone, true, Some(1)),
            (&gone, false, Some(10)),
            (&no_event, true, Some(3)),
            (&no_event, false, Some(10)),
            (&Fault::Unhealthy, true, None),
            (&Fault::Ended, false, None),
        ] {
            let believed = (1..100).find(|rounds| fault.is_believed(*rounds, all_answered));
            assert_eq!(believed, first, "{fault} {all_answered}");
        }
    }
}
