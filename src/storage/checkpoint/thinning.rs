//! Thinning: which checkpoints are kept as they grow old.
//!
//! ```text
//! │      │      │   │  │ │││     the newest few, and ever fewer before them
//! └──────┴──────┴───┴──┴─┴┴┴──▶ commands
//!  never more than MOST_REPLAY apart
//! ```
//!
//! An index that is kept can be rebuilt from the checkpoint before it, by applying
//! no more than so many commands; or a few more, where a checkpoint could not be
//! written when it was due.

use etcd_log::RaftIndex;

use super::name::CheckpointFile;

/// How many of the newest checkpoints are kept: the next start needs one, and the
/// others are there in case it is damaged.
pub const NEWEST: usize = 3;

/// How many commands lie between two old checkpoints at most: about ten seconds of
/// replay.
const MOST_REPLAY: u64 = 5_000_000;

/// Returns the checkpoints that need not be kept, given all of them, oldest first,
/// and the first entry of the log.
pub(super) fn superfluous(files: &[CheckpointFile], first: RaftIndex) -> Vec<&CheckpointFile> {
    let useful = files.partition_point(|file| !leads_into(file, first));
    let (useless, files) = files.split_at(useful);
    let (old, newest) = files.split_at(files.len().saturating_sub(NEWEST));
    let mut gone: Vec<_> = useless.iter().collect();
    let Some(mut next) = newest.first() else { return gone };
    let end = newest.last().map_or(0, |file| file.index.0);
    for (at, file) in old.iter().enumerate().rev() {
        let age = end - next.index.0.min(end);
        // Without the oldest, the commands before the next could not be rebuilt.
        let fits = at.checked_sub(1).is_some_and(|before| {
            next.index.0 - old[before].index.0.min(next.index.0) <= (age / 2).min(MOST_REPLAY)
        });
        if fits {
            gone.push(file);
        } else {
            next = file;
        }
    }
    gone
}

/// Returns whether the log goes on where a checkpoint ends.
pub fn leads_into(file: &CheckpointFile, first: RaftIndex) -> bool {
    file.raft_index.next() >= first
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use etcd_log::{EventNumber, Index};
    use proptest::prelude::*;

    use super::*;

    fn file(index: u64) -> CheckpointFile {
        CheckpointFile {
            raft_index: RaftIndex(index),
            index: Index(index),
            event: EventNumber(index),
            path: PathBuf::new(),
        }
    }

    /// Writes a checkpoint after so many commands each, thinning after each.
    fn kept(distances: &[u64]) -> Vec<CheckpointFile> {
        let mut files = Vec::new();
        let mut index = 0;
        for distance in distances {
            index += distance;
            files.push(file(index));
            let gone: Vec<_> = superfluous(&files, RaftIndex(0)).into_iter().cloned().collect();
            files.retain(|file| !gone.contains(file));
        }
        files
    }

    #[test]
    fn old_ones_are_few() {
        let kept = kept(&[1_000; 1_000]);
        assert!(kept.len() < 30, "{}", kept.len());
        assert_eq!(kept[0].index, Index(1_000));
    }

    #[test]
    fn those_that_lead_nowhere_go() {
        let files: Vec<_> = (1..=6).map(|number| file(number * 10)).collect();
        let gone = superfluous(&files, RaftIndex(31));
        assert_eq!(gone.iter().map(|file| file.index.0).collect::<Vec<_>>(), [10, 20]);
    }

    proptest! {
        /// Whatever the distances, the newest few stay, and no gap is wider than
        /// the bound, unless none was written in between.
        #[test]
        fn gaps_are_bounded(distances in proptest::collection::vec(1..4_000_000_u64, 1..200)) {
            let kept = kept(&distances);
            let written: Vec<u64> = distances
                .iter()
                .scan(0, |sum, distance| { *sum += distance; Some(*sum) })
                .collect();
            let newest = &written[written.len().saturating_sub(NEWEST)..];
            prop_assert!(newest.iter().all(|index| kept.contains(&file(*index))));
            prop_assert_eq!(kept[0].index.0, written[0]);
            for pair in kept.windows(2) {
                let gap = pair[1].index.0 - pair[0].index.0;
                prop_assert!(gap <= MOST_REPLAY, "{gap}");
            }
        }
    }
}
