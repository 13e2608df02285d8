//! Why a request was not answered.

use std::io;
use std::sync::Arc;

use super::frame::FrameError;
use super::message::{ProposalError, Refusal};

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody has it: it did not leave this machine whole.
    #[error("cannot reach {to}")]
    NotSent {
        /// Whom it was for.
        to: Arc<str>,
        /// Why not.
        source: io::Error,
    },
    /// It may have been heard, but there was no answer.
    #[error("no answer from {to}")]
    Lost {
        /// Whom it was for.
        to: Arc<str>,
        /// Why not.
        source: FrameError,
    },
    /// It was heard, and refused.
    #[error("{to} refuses: {refusal}")]
    Refused {
        /// Whom it was for.
        to: Arc<str>,
        /// Why.
        refusal: Refusal,
    },
}

impl CallError {
    /// Returns whether it is certain that nothing was done.
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::NotSent { .. } => true,
            Self::Refused { refusal, .. } => {
                !matches!(refusal, Refusal::Proposal(ProposalError::Unknown))
            }
            Self::Lost { .. } => false,
        }
    }

    /// Returns whether it was sent, and there was no answer in time.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Lost { source: FrameError::Io(source), .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            Self::NotSent { .. } | Self::Lost { .. } | Self::Refused { .. } => false,
        }
    }
}
