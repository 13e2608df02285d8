//! Laws that hold for any history: what is read is what came, whatever lies in files,
//! and however it is divided.

use std::fs;

use etcd_log::{EventNumber, Index, LogTime};
use etcd_projections::{Outcome, Position};
use proptest::prelude::*;
use proptest::sample::Index as Any;

use super::fixtures::{history, log, open, prefix, push, read_all, record, recorder, stored};
use super::{EventStore, Interest, Stored};
use crate::storage::disk_space::DiskRoom;

fn interest() -> impl Strategy<Value = Interest> {
    prop_oneof![1 => Just(Interest::All), 4 => prefix().prop_map(Interest::Below)]
}

fn wanted(all: &[Stored], interest: &Interest, fits: impl Fn(Position) -> bool) -> Vec<Stored> {
    let wanted = all.iter().filter(|stored| interest.wants(stored) && fits(stored.position));
    wanted.cloned().collect()
}

/// Brings a history into files, in blocks that end where it says, and files that are
/// soon closed. What comes behind the last one stays in memory.
fn divided(
    dir: &std::path::Path,
    history: &[(Position, Vec<Outcome>)],
    ends: &[bool],
) -> EventStore {
    let store = open(dir, history);
    let mut recorder = recorder(&store);
    recorder.close_at(500);
    for (entry, ends) in history.iter().zip(ends.iter().cycle()) {
        push(&store, std::slice::from_ref(entry));
        if *ends {
            store.pending().urge(Index(0));
        }
        recorder.run();
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Forward from any position, and backward from it, comes all of interest, in order.
    #[test]
    fn what_is_read_is_what_came(
        log in log(),
        ends in proptest::collection::vec(any::<bool>(), 1..8),
        interest in interest(),
        from in any::<Any>(),
        bytes in 1..2000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&log);
        let all = stored(&history);
        let store = divided(dir.path(), &history, &ends);
        let at = from.index(all.len() + 1).checked_sub(1);
        let at = at.map_or(Position::default(), |at| all[at].position);
        let (forward, gap) = read_all(store.after(at, interest.clone()), bytes);
        prop_assert_eq!(gap, None);
        prop_assert_eq!(forward, wanted(&all, &interest, |position| position > at));
        let (mut backward, gap) = read_all(store.before(at, interest.clone()), bytes);
        prop_assert_eq!(gap, None);
        backward.reverse();
        prop_assert_eq!(backward, wanted(&all, &interest, |position| position <= at));
        prop_assert!(store.covers(EventNumber(1)));
    }

    /// A chunk says up to where all has been read, and down to where.
    #[test]
    fn readers_say_how_far_they_are(
        log in log(),
        ends in proptest::collection::vec(any::<bool>(), 1..8),
        interest in interest(),
        bytes in 1..500_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&log);
        let all = stored(&history);
        let store = divided(dir.path(), &history, &ends);
        let newest = all.last().map_or(Position::default(), |last| last.position);
        let (mut found, mut reader) = (Vec::new(), store.after(Position::default(), interest.clone()));
        while let Some(chunk) = reader.next(bytes).unwrap() {
            found.extend(chunk.stored);
            prop_assert_eq!(&found, &wanted(&all, &interest, |at| at <= chunk.reached));
        }
        let (mut found, mut reader) = (Vec::new(), store.before(newest, interest.clone()));
        while let Some(chunk) = reader.next(bytes).unwrap() {
            found.splice(0..0, chunk.stored.into_iter().rev());
            prop_assert_eq!(&found, &wanted(&all, &interest, |at| at > chunk.reached));
        }
    }

    /// Every command and every time is found where it is.
    #[test]
    fn commands_and_times_are_found(
        log in log(),
        ends in proptest::collection::vec(any::<bool>(), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&log);
        let all = stored(&history);
        let store = divided(dir.path(), &history, &ends);
        let newest = all.last().map_or(Position::default(), |last| last.position);
        for index in 0..=newest.index.0 + 1 {
            let index = Index(index);
            let mut positions = std::iter::once(Position::default()).chain(all.iter().map(|it| it.position));
            prop_assert_eq!(store.position_at_index(index), positions.find(|at| at.index == index));
        }
        for number in 1..=newest.event.0 + 1 {
            let mut before = Position::default();
            let found = all.iter().find(|it| {
                let is_it = it.position.event.0 == number;
                before = if is_it { before } else { it.position };
                is_it
            });
            let before = if found.is_some() { before } else { newest };
            prop_assert_eq!(store.position_before_event(EventNumber(number)), Some(before));
        }
        for time in (0..=newest.time.0 + 500_000_000).step_by(250_000_000).map(LogTime) {
            let positions = all.iter().map(|it| it.position).take_while(|at| at.time <= time);
            let last = positions.last().unwrap_or_default();
            prop_assert_eq!(store.position_at_time(time), Some(last), "{:?}", time);
        }
    }

    /// A machine that starts again, and applies again what it has, writes nothing twice;
    /// and reads the same.
    #[test]
    fn what_is_there_is_not_written_again(
        log in log(),
        ends in proptest::collection::vec(any::<bool>(), 1..8),
        from in any::<Any>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&log);
        drop(divided(dir.path(), &history, &ends));
        let before = record(dir.path(), &history).bytes();
        let again = &history[from.index(history.len())..];
        let store = record(dir.path(), again);
        prop_assert_eq!(store.bytes(), before);
        let (found, gap) = read_all(store.after(Position::default(), Interest::All), 1000);
        prop_assert_eq!((found, gap), (stored(&history), None));
        prop_assert!(store.pending().next_block(Position::default()).0.is_empty());
    }

    /// If the log leads elsewhere than the files say, it is the log that is believed.
    #[test]
    fn log_is_believed(one in log(), other in log(), common in any::<Any>()) {
        let dir = tempfile::tempdir().unwrap();
        let common = &one[..common.index(one.len())];
        let other: Vec<_> = common.iter().chain(&other).cloned().collect();
        let other = history(&other);
        record(dir.path(), &history(&one));
        // Nothing of the old end is shown before it was compared.
        let store = open(dir.path(), &other[common.len()..]);
        let at = other.get(common.len()).map_or(Position::default(), |(before, _)| *before);
        let (found, _) = read_all(store.after(Position::default(), Interest::All), 1000);
        prop_assert!(found.iter().all(|stored| stored.position <= at));
        let store = record(dir.path(), &other);
        let (found, gap) = read_all(store.after(Position::default(), Interest::All), 1000);
        prop_assert_eq!((found, gap), (stored(&other), None));
    }

    /// What was left out is a gap for readers of either direction, until somebody who
    /// applies the log fills it in.
    #[test]
    fn gaps_are_told_and_filled(log in log(), first in any::<Any>(), second in any::<Any>()) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&log);
        let (first, second) = (first.index(history.len()), second.index(history.len()));
        let (from, to) = (first.min(second), first.max(second));
        let store = open(dir.path(), &history);
        push(&store, &history[..from]);
        push(&store, &history[to..]);
        recorder(&store).finish();
        let left_out = stored(&history[from..to]);
        let (mut found, gap) = read_all(store.after(Position::default(), Interest::All), 1000);
        let newest = store.pending().newest();
        let is_open = !left_out.is_empty() && newest > history[from].0;
        prop_assert_eq!(gap.map(|gap| gap.at), is_open.then_some(history[from].0));
        let (mut behind, _) = read_all(store.before(newest, Interest::All), 1000);
        behind.reverse();
        if is_open {
            found.extend(left_out);
            found.extend(behind);
            prop_assert_eq!(found, stored(&history));
        }
        // Whoever applies that part of the log again fills it in.
        let mut filler = store.fill(history[from].0, DiskRoom::default()).unwrap();
        for (before, outcomes) in &history[from..] {
            filler.push(*before, outcomes.clone());
        }
        filler.finish(newest);
        let (found, gap) = read_all(store.after(Position::default(), Interest::All), 1000);
        let applied = wanted(&stored(&history), &Interest::All, |position| position <= newest);
        prop_assert_eq!((found, gap), (applied, None));
        // The one that is there still begins where it did, so nothing is written twice.
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let before = files();
        let store = record(dir.path(), &history);
        prop_assert!(files() <= before + 2);
        let (found, gap) = read_all(store.after(Position::default(), Interest::All), 1000);
        prop_assert_eq!((found, gap), (stored(&history), None));
        prop_assert!(store.ranges().len() <= 1);
    }
}
