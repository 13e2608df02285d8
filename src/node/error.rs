//! Why there is no answer, or none yet.

use std::sync::Arc;

use crate::consensus::{Consensus, Role};
use crate::peers::ProposalError;

/// Why there is no answer to a request that itself is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No machine leads, as far as this one knows.
    #[error("no leader")]
    NoLeader,
    /// The leader could not reach a majority in time.
    #[error("no majority")]
    NoMajority,
    /// This machine has not applied the command that a read wants to see.
    #[error("index not reached")]
    NotReached,
    /// As many take long to read as may do so at a time.
    #[error("too many large answers are under way")]
    Busy,
    /// The past took longer to read than somebody waits.
    #[error("the past was not read in time")]
    Late,
}

/// Why a write was not answered with an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not proposed, and will not be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The disk is short of room: it was not proposed, and will not be.
    #[error("the disk is nearly full")]
    DiskFull,
    /// Not all machines can read such a command yet: it was not proposed, and will not be.
    #[error("upgrade not finished: {0}")]
    UpgradeNotFinished(Arc<str>),
    /// It was proposed, and what came of it is not known.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Says what is missing, after a time limit has passed.
pub(super) fn unavailable(consensus: &Consensus) -> Unavailable {
    match consensus.role() {
        Role::Leader | Role::LeaderWithoutQuorum | Role::Follower(_) => Unavailable::NoMajority,
        Role::NoLeader => Unavailable::NoLeader,
    }
}

impl From<ProposalError> for WriteError {
    fn from(why: ProposalError) -> Self {
        match why {
            ProposalError::NotLeader => Unavailable::NoLeader.into(),
            ProposalError::NoMajority => Unavailable::NoMajority.into(),
            ProposalError::DiskFull => Self::DiskFull,
            ProposalError::Unknown => Self::Unknown,
        }
    }
}
