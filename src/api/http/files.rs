//! Files: what those are for that this process may open.
//!
//! ```text
//! log: a quarter │ machines: a sixteenth │ spare places, twice │ clients: all others
//! ```
//!
//! A machine needs files that are not to fail because of its clients: its log has one
//! open for each segment, and ends the process if it cannot; and the other machines are
//! heard whatever its clients do.

/// The fewest files that are kept for the log: a few segments, and what every process
/// has open.
const LEAST_LOG: u64 = 48;

/// The most files that are kept for the log: 32 GiB of segments, where nothing can be
/// sealed for long.
const MOST_LOG: u64 = 4096;

/// The most connections of other machines: each needs a few.
const MOST_PEERS: u64 = 256;

/// The most spare places.
const MOST_SPARE: u64 = 16;

/// The most connections of clients, whatever the operating system allows: each
/// takes some 13 KiB.
const MOST_CLIENTS: u64 = 50_000;

/// How many files this process may open where the system does not say.
const UNKNOWN: u64 = 1024;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Files {
    /// Of other machines.
    pub(in crate::api) peers: usize,
    /// Of clients that have a place of their own.
    pub(in crate::api) own: usize,
    /// Of clients on a spare place.
    pub(in crate::api) spare: usize,
}

impl Files {
    /// Divides the files that this process may open.
    pub(in crate::api) fn divide() -> Self {
        Self::of(rlimit::Resource::NOFILE.get_soft().unwrap_or(UNKNOWN))
    }

    fn of(files: u64) -> Self {
        let log = (files / 4).clamp(LEAST_LOG, MOST_LOG);
        let peers = (files / 16).min(MOST_PEERS);
        let spare = (files / 32).clamp(2, MOST_SPARE);
        // Who is sent away from a spare place still has it for a moment.
        let kept = log + peers + 2 * spare;
        let own = files.saturating_sub(kept).clamp(1, MOST_CLIENTS);
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self { peers: count(peers), own: count(own), spare: count(spare) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_files_are_for_clients() {
        for (files, own) in [(128, 64), (1024, 672), (4096, 2784), (1 << 20, 50_000)] {
            assert_eq!(Files::of(files).own, own, "{files}");
        }
    }

    #[test]
    fn what_the_machine_needs_is_never_given_away() {
        for files in (128..70_000).step_by(61) {
            let Files { peers, own, spare } = Files::of(files);
            let given = (peers + own + 2 * spare) as u64;
            assert!(spare > 1 && given + LEAST_LOG <= files, "{files}: {own}, {spare}");
        }
    }
}
