//! What is done to a log, by chance: all that Raft, a checkpoint, or a crash may do.

use proptest::prelude::*;

use crate::testing::crash_image::Crash;

/// Something that is done to the logs. Numbers count backwards from the last entry that
/// it can be done to, as far as there are entries.
#[derive(Clone, Debug)]
pub(crate) enum LogOp {
    /// Entries with so many commands each, of values of so many bytes.
    Append(Vec<usize>, usize),
    /// A vote in a new term.
    Vote,
    /// Another leader overrules the last entries, with so many of its own.
    Overrule(u64, usize),
    /// An entry is known to be committed.
    Commit(u64),
    /// What is committed is not here yet.
    CommitAhead(u64),
    /// Raft may forget what is committed.
    Purge(u64),
    /// The newest checkpoint, and the oldest of the last few.
    Checkpoint(u64, u64),
    /// A checkpoint of entries that this log does not have.
    Install(u64),
    /// A checkpoint of entries that it has.
    InstallHeld(u64),
    /// The first so many are kept nowhere; and what comes of the others.
    Backfill(u64, Rest),
    /// Opened again, with so many bytes of cache.
    Close(usize),
    /// As after a power failure, and opened again.
    Crash(Crash, usize),
}

/// What comes of history that is missing.
#[derive(Clone, Debug)]
pub(crate) enum Rest {
    /// All of it comes.
    Comes,
    /// So many entries come, and nothing behind them.
    ComesInPart(u64),
    /// Nobody has it.
    IsKeptNowhere,
}

/// How many bytes of entries are kept in memory: none, some, all.
pub(crate) fn cache() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0_usize), Just(1000), Just(1 << 20)]
}

/// Steps, and after which the disk is waited for.
pub(crate) fn steps() -> impl Strategy<Value = Vec<(LogOp, bool)>> {
    let commands = prop_oneof![1 => Just(0_usize), 4 => Just(1), 1 => 2..4_usize];
    let append = (prop::collection::vec(commands, 1..5), 0..400_usize);
    let rest = prop_oneof![
        3 => Just(Rest::Comes),
        1 => (1..8_u64).prop_map(Rest::ComesInPart),
        1 => Just(Rest::IsKeptNowhere),
    ];
    let skip = prop_oneof![Just(0_u64), 1..4_u64];
    let crash = prop_oneof![
        Just(Crash::KeepsAll),
        Just(Crash::LosesAll),
        any::<u64>().prop_map(Crash::KeepsSome)
    ];
    let step = prop_oneof![
        12 => append.prop_map(|(commands, bytes)| LogOp::Append(commands, bytes)),
        1 => Just(LogOp::Vote),
        3 => (0..6_u64, 0..4_usize).prop_map(|(back, count)| LogOp::Overrule(back, count)),
        5 => (0..4_u64).prop_map(LogOp::Commit),
        1 => (1..4_u64).prop_map(LogOp::CommitAhead),
        4 => (0..4_u64).prop_map(LogOp::Purge),
        5 => (0..4_u64, 0..4_u64).prop_map(|(newest, all)| LogOp::Checkpoint(newest, all)),
        2 => (0..12_u64).prop_map(LogOp::Install),
        1 => (0..6_u64).prop_map(LogOp::InstallHeld),
        2 => (skip, rest).prop_map(|(skip, rest)| LogOp::Backfill(skip, rest)),
        1 => cache().prop_map(LogOp::Close),
        2 => (crash, cache()).prop_map(|(crash, cache)| LogOp::Crash(crash, cache)),
    ];
    prop::collection::vec((step, prop::bool::weighted(0.5)), 1..80)
}
