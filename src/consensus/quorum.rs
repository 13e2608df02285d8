//! Majorities: whether enough of those that have a vote agree (Raft, section 6).

use std::collections::BTreeSet;

/// Returns whether those that count are a majority: of each set of voters, for while a
/// group changes there are two (a *joint configuration*). One machine may be left out: then
/// the others need a majority of themselves.
///
/// Without any voter there is none.
pub(super) fn has_majority<N: Copy + PartialEq>(
    voters: &[BTreeSet<N>],
    without: Option<N>,
    counts: impl Fn(N) -> bool,
) -> bool {
    let has_majority = |voters: &BTreeSet<N>| {
        let left = || voters.iter().copied().filter(|node| Some(*node) != without);
        left().filter(|node| counts(*node)).count() > left().count() / 2
    };
    !voters.is_empty() && voters.iter().all(has_majority)
}

/// Returns whether a machine has a vote.
pub(super) fn is_voter<N: Ord>(voters: &[BTreeSet<N>], node: &N) -> bool {
    voters.iter().any(|voters| voters.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether these are a majority.
    fn is_majority(voters: &[&[u64]], counted: &[u64], without: Option<u64>) -> bool {
        let voters: Vec<_> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        has_majority(&voters, without, |node| counted.contains(&node))
    }

    #[test]
    fn majority_is_of_those_that_have_a_vote() {
        assert!(is_majority(&[&[1]], &[1], None));
        assert!(!is_majority(&[&[1]], &[], None));
        assert!(!is_majority(&[&[1, 2, 3]], &[1], None));
        assert!(is_majority(&[&[1, 2, 3]], &[1, 3], None));
        // A learner has no vote.
        assert!(!is_majority(&[&[1, 2, 3]], &[1, 4], None));
        assert!(!is_majority(&[&[1, 2, 3, 4]], &[1, 2], None));
        // A leader that has no vote any longer does not count.
        assert!(!is_majority(&[&[2, 3, 4]], &[1, 2], None));
        assert!(is_majority(&[&[2, 3, 4]], &[1, 2, 3], None));
    }

    #[test]
    fn both_sets_of_a_joint_configuration_need_a_majority() {
        assert!(!is_majority(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2], None));
        assert!(!is_majority(&[&[1, 2, 3], &[3, 4, 5]], &[1, 4, 5], None));
        assert!(is_majority(&[&[1, 2, 3], &[3, 4, 5]], &[1, 3, 4], None));
    }

    #[test]
    fn others_may_be_a_majority_of_themselves() {
        assert!(is_majority(&[&[1, 2, 3]], &[1, 2], Some(3)));
        assert!(!is_majority(&[&[1, 2, 3]], &[1, 2], Some(2)));
        assert!(is_majority(&[&[1, 2]], &[1], Some(2)));
        assert!(is_majority(&[&[1, 2, 3]], &[1, 2, 3], Some(1)));
        assert!(!is_majority(&[&[1, 2, 3]], &[1, 2], Some(1)));
    }

    #[test]
    fn nobody_is_no_majority() {
        assert!(!is_majority(&[], &[1], None));
        assert!(!is_majority(&[&[]], &[1], None));
        assert!(!is_majority(&[&[1]], &[1], Some(1)));
    }
}
