//! What others may say to a machine that has a log of five entries, three of them
//! committed; and what they may not.

use std::collections::{BTreeMap, BTreeSet};

use etcd_log::{Batch, LogStorage as _, LogTime, MemoryLog, Write};

use super::*;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn id(index: u64, term: u64) -> LogId {
    LogId { term: Term(term), node: OTHER, index: RaftIndex(index) }
}

fn entry(index: u64, term: u64) -> Entry {
    let batch = Batch::new(LogTime(index), Vec::new());
    Entry { id: id(index, term), payload: Payload::Batch(Arc::new(batch)) }
}

fn vote(term: u64, node: NodeId, committed: bool) -> Vote {
    Vote { term: Term(term), node, committed }
}

/// Entries 0 to 4, the last two of them of term 4; up to 2 they are committed.
fn log() -> MemoryLog {
    let log = MemoryLog::new();
    let entries = [(0, 1), (1, 1), (2, 3), (3, 4), (4, 4)].map(|(at, term)| entry(at, term));
    log.write(Write::Append(entries.map(Arc::new).to_vec()), Box::new(drop));
    log.write(Write::Vote(vote(4, OTHER, true)), Box::new(drop));
    log.note_committed(id(2, 3));
    log
}

fn judge(log: &MemoryLog) -> (Judge, Known) {
    let (read, state) = (log.clone(), log.state());
    let judge = Judge::new(move |range, most| read.entries(range, most).unwrap_or_default());
    let vote = state.vote.unwrap_or_default();
    (judge, Known { me: ME, vote, log: state, committed: state.committed })
}

/// What comes of an append in term 5, behind an entry and with the leader's mark.
fn append(
    previous: Option<LogId>,
    entries: &[Entry],
    committed: Option<LogId>,
) -> Result<Option<LogId>, Refusal> {
    let (judge, known) = judge(&log());
    let vote = vote(5, OTHER, true);
    judge.append(&known, &Append { from: OTHER, vote, previous, committed, entries })
}

fn differs_at<T: std::fmt::Debug>(result: Result<T, Refusal>, at: LogId) {
    let here = |index: u64| id(index, [1, 1, 3, 4, 4][usize::try_from(index).unwrap()]);
    let expected = Refusal::Differs { from: OTHER, found: at, here: here(at.index.0) };
    assert_eq!(result.unwrap_err(), expected);
}

fn not_believed<T: std::fmt::Debug>(result: Result<T, Refusal>) {
    let refusal = result.unwrap_err();
    assert!(matches!(refusal, Refusal::NotBelieved(_)), "{refusal:?}");
}

#[test]
fn entries_that_follow_are_believed() {
    assert_eq!(append(Some(id(4, 4)), &[entry(5, 4), entry(6, 5)], None), Ok(None));
    // They come again, from the first on.
    let again = [entry(0, 1), entry(1, 1), entry(2, 3), entry(3, 4), entry(4, 4), entry(5, 5)];
    assert_eq!(append(None, &again, None), Ok(None));
    // What is not committed may give way.
    assert_eq!(append(Some(id(2, 3)), &[entry(3, 5)], None), Ok(None));
    // The entry before is not here; openraft says so.
    assert_eq!(append(Some(id(9, 5)), &[entry(10, 5)], None), Ok(None));
}

#[test]
fn entry_that_differs_from_a_committed_one_is_refused_and_named() {
    differs_at(append(None, &[entry(0, 1), entry(1, 2)], None), id(1, 2));
    differs_at(append(Some(id(1, 1)), &[entry(2, 5)], None), id(2, 5));
    differs_at(append(Some(id(2, 4)), &[entry(3, 4)], None), id(2, 4));
    differs_at(append(Some(id(1, 4)), &[], None), id(1, 4));
}

#[test]
fn entry_with_the_same_id_and_another_content_is_refused() {
    for index in [1, 3] {
        let previous = entry(index - 1, 1).id;
        let before = if index == 1 { Some(previous) } else { Some(id(2, 3)) };
        let term = if index == 1 { 1 } else { 4 };
        let other = Entry { payload: Payload::Blank, ..entry(index, term) };
        differs_at(append(before, &[other], None), id(index, term));
    }
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    for entries in [&[entry(6, 5)][..], &[entry(5, 5), entry(7, 5)]] {
        let refused = append(Some(id(4, 4)), entries, None);
        assert!(matches!(refused, Err(Refusal::NotUnderstood(_))), "{refused:?}");
    }
    // Terms that go back, or are later than the leader's.
    not_believed(append(Some(id(4, 4)), &[entry(5, 3)], None));
    not_believed(append(Some(id(4, 4)), &[entry(5, 5), entry(6, 4)], None));
    not_believed(append(Some(id(4, 4)), &[entry(5, 6)], None));
    not_believed(append(Some(id(4, 6)), &[], None));
    not_believed(append(Some(id(u64::MAX, 4)), &[entry(5, 5)], None));
    not_believed(append(Some(id(4, 4)), &[], Some(id(u64::MAX, 5))));
    not_believed(append(Some(id(4, 4)), &[], Some(id(5, 6))));
}

/// openraft would take what is committed from the term alone.
#[test]
fn nothing_is_committed_that_is_not_here() {
    let commits =
        |previous, entries: &[Entry], committed| append(previous, entries, Some(committed));
    // As far as what comes, or what is known to be the leader's.
    assert_eq!(commits(Some(id(3, 4)), &[], id(3, 4)), Ok(Some(id(3, 4))));
    assert_eq!(commits(Some(id(2, 3)), &[], id(4, 4)), Ok(Some(id(4, 4))));
    assert_eq!(commits(Some(id(4, 4)), &[], id(3, 4)), Ok(Some(id(3, 4))));
    assert_eq!(commits(Some(id(4, 4)), &[entry(5, 5)], id(9, 5)), Ok(Some(id(5, 5))));
    assert_eq!(commits(Some(id(2, 3)), &[], id(4, 5)), Ok(Some(id(2, 3))));
    assert_eq!(commits(None, &[], id(9, 5)), Ok(None));
    // What is committed here is nothing new, and may not be another entry.
    assert_eq!(commits(Some(id(4, 4)), &[], id(1, 1)), Ok(None));
    differs_at(commits(Some(id(4, 4)), &[], id(1, 4)), id(1, 4));
    // A mark of an early term, far behind.
    let early = commits(Some(id(4, 4)), &[], id(1000, 1));
    assert!(matches!(early, Err(Refusal::Differs { .. })), "{early:?}");
    let other = commits(Some(id(4, 4)), &[entry(5, 5)], id(5, 4));
    assert!(matches!(other, Err(Refusal::Differs { .. })), "{other:?}");
}

/// What is no longer kept cannot be compared; its term still can.
#[test]
fn what_is_not_kept_is_judged_by_its_term() {
    let log = MemoryLog::new();
    log.write(Write::Install { upto: id(9, 3), index: etcd_log::Index(5) }, Box::new(drop));
    let (judge, mut known) = judge(&log);
    known.committed = Some(id(9, 3));
    let append = |previous, entries: &[Entry]| {
        let vote = vote(5, OTHER, true);
        let append = Append { from: OTHER, vote, previous, committed: None, entries };
        judge.append(&known, &append)
    };
    assert_eq!(append(Some(id(5, 2)), &[entry(6, 3), entry(7, 3)]), Ok(None));
    assert_eq!(append(Some(id(9, 3)), &[entry(10, 4)]), Ok(None));
    for (previous, entries) in
        [(id(5, 4), &[entry(6, 4)][..]), (id(7, 2), &[entry(8, 2), entry(9, 2)]), (id(9, 2), &[])]
    {
        let refused = append(Some(previous), entries);
        assert!(matches!(refused, Err(Refusal::Differs { .. })), "{refused:?}");
    }
}

#[test]
fn group_that_can_decide_nothing_is_refused() {
    let set = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let group = |voters: &[&[u64]], nodes: &[u64]| {
        let nodes = nodes.iter().map(|node| (NodeId(*node), Arc::from("h:1")));
        let voters = voters.iter().map(|voters| set(voters)).collect();
        let payload =
            Payload::Membership(Membership { voters, nodes: nodes.collect::<BTreeMap<_, _>>() });
        append(Some(id(4, 4)), &[Entry { id: id(5, 5), payload }], None)
    };
    assert!(group(&[&[1, 2]], &[1, 2, 3]).is_ok());
    assert!(group(&[&[1, 2], &[2, 3]], &[1, 2, 3]).is_ok());
    for voters in [&[][..], &[&[][..]], &[&[1], &[]], &[&[4]], &[&[1], &[2], &[3]]] {
        not_believed(group(voters, &[1, 2, 3]));
    }
}

#[test]
fn vote_is_for_who_sends_it_and_of_a_term_in_reach() {
    let (_, known) = judge(&log());
    let judge = |vote: Vote, leads| known.judge_vote(OTHER, vote, leads);
    assert_eq!(judge(vote(5, OTHER, true), true), Ok(()));
    assert_eq!(judge(vote(5, OTHER, false), false), Ok(()));
    assert_eq!(judge(vote(1, OTHER, true), true), Ok(()));
    assert_eq!(judge(vote(4 + TERMS_AHEAD, OTHER, true), true), Ok(()));
    not_believed(judge(vote(5 + TERMS_AHEAD, OTHER, true), true));
    not_believed(judge(vote(u64::MAX, OTHER, false), false));
    // A leader that was not elected, and one that was and stands.
    for (leads, one) in [(false, "stands"), (true, "leads")] {
        let refusal = judge(vote(5, OTHER, leads), !leads).unwrap_err();
        let text = format!("machine {OTHER} cannot ask this as one that {one}");
        assert_eq!(refusal, Refusal::NotBelieved(text));
    }
    // openraft would lead, unelected.
    not_believed(judge(vote(5, ME, true), true));
    not_believed(known.judge_vote(ME, vote(5, ME, true), true));
    not_believed(judge(vote(5, NodeId(3), true), true));
    not_believed(judge_last(vote(5, OTHER, false), Some(id(4, 6))));
    assert_eq!(judge_last(vote(5, OTHER, false), Some(id(4, 4))), Ok(()));
}

/// Its cluster may be old.
#[test]
fn machine_that_knows_nothing_takes_any_term_in_reason() {
    let (_, new) = judge(&MemoryLog::new());
    assert_eq!(new.judge_vote(OTHER, vote(TERMS_AHEAD + 1, OTHER, true), true), Ok(()));
    not_believed(new.judge_vote(OTHER, vote(u64::MAX, OTHER, true), true));
}

#[test]
fn checkpoint_that_goes_back_or_differs_is_refused() {
    let log = log();
    let (judge, known) = judge(&log);
    let offer = |applied| known.judge_offer(&judge, OTHER, vote(5, OTHER, true), applied);
    assert_eq!(offer(id(9, 4)), Ok(false));
    // It is here, whoever offers it.
    assert_eq!(offer(id(1, 1)), Ok(true));
    // By its term it would be newer.
    differs_at(offer(id(1, 5)), id(1, 5));
    not_believed(offer(id(9, 6)));
    let early = offer(id(9, 1));
    assert!(matches!(early, Err(Refusal::Differs { .. })), "{early:?}");
}

#[test]
fn answers_are_judged_by_what_was_asked() {
    let asked = vote(5, ME, true);
    assert_eq!(judge_answer(asked, asked), Ok(()));
    assert_eq!(judge_answer(asked, vote(6, OTHER, true)), Ok(()));
    assert_eq!(judge_answer(asked, vote(4, ME, false)), Ok(()));
    // openraft would lead in that term.
    assert_eq!(judge_answer(asked, vote(6, ME, true)), Err(Unbelievable::NotMine(Term(6))));
    for term in [6 + TERMS_AHEAD, u64::MAX] {
        let refused = judge_answer(asked, vote(term, OTHER, false));
        assert!(matches!(refused, Err(Unbelievable::FarAhead(_))), "{refused:?}");
    }
    let entries = [Arc::new(entry(5, 5)), Arc::new(entry(6, 5))];
    let answered = |previous, answer| judge_appended(asked, previous, &entries, answer);
    assert_eq!(answered(None, Appended::All), Ok(()));
    assert_eq!(answered(Some(id(4, 4)), Appended::Conflict), Ok(()));
    assert_eq!(answered(None, Appended::Conflict), Err(Unbelievable::NoPrevious));
    assert_eq!(answered(None, Appended::UpTo(Some(id(5, 5)))), Ok(()));
    let beyond = id(7, 5);
    assert_eq!(answered(None, Appended::UpTo(Some(beyond))), Err(Unbelievable::NotSent(beyond)));
    let before = Some(id(4, 4));
    assert_eq!(answered(before, Appended::UpTo(before)), Ok(()));
    assert_eq!(answered(before, Appended::UpTo(None)), Err(Unbelievable::NoEntry));
}

#[test]
fn machine_that_voted_in_the_last_term_says_so_at_its_start() {
    let log = log();
    assert_eq!(judge_own_vote(&log.state()), Ok(()));
    log.write(Write::Vote(vote(u64::MAX, OTHER, false)), Box::new(drop));
    let poisoned = judge_own_vote(&log.state()).unwrap_err();
    assert!(poisoned.to_string().contains("start it anew with -i"), "{poisoned}");
}
