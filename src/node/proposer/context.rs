//! What the proposer works with, and its measures.

use crate::consensus::Consensus;
use crate::peers::Peers;
use crate::state::log_clock::LogClock;
use crate::state::published::StateReader;
use crate::state::recent_outcomes::RecentOutcomes;

/// How many commands go into a batch at most: so many that an fsync costs each
/// of them nothing, and so few that applying them holds nobody up.
pub(super) const BATCH_COMMANDS: usize = 2048;

/// What the proposer works with.
#[derive(Clone, Debug)]
pub(in crate::node) struct ProposerContext {
    pub(in crate::node) consensus: Consensus,
    pub(in crate::node) peers: Peers,
    pub(in crate::node) published: StateReader,
    pub(in crate::node) outcomes: RecentOutcomes,
    pub(in crate::node) clock: LogClock,
}
