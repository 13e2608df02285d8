//! What a store does with files that are not as they were written: it never shows an
//! outcome that did not come.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_log::{ClusterId, Index, KeyPath};
use etcd_projections::Position;

use super::files::Mend;
use super::fixtures::{CLUSTER, open, push, read_all, record, recorder, some_history, stored};
use super::store::mend;
use super::{EventStore, Interest, Stored};
use crate::storage::disk_space::DiskRoom;

/// Makes a small file of a few blocks, closed or not. Returns what it holds.
fn small_file(dir: &Path, is_closed: bool) -> (PathBuf, Vec<Stored>) {
    let history = some_history(12);
    let store = open(dir, &history);
    let mut recorder = recorder(&store);
    for entries in history.chunks(4) {
        push(&store, entries);
        store.pending().urge(Index(0));
        recorder.run();
    }
    if is_closed {
        recorder.finish();
    }
    let (file, _) = store.files().following(Position::default()).unwrap();
    (file.path().to_owned(), stored(&history))
}

/// Reads what is in a directory, for a machine that stands at the end.
fn read(dir: &Path, all: &[Stored]) -> Vec<Stored> {
    let newest = all[all.len() - 1].position;
    let store = EventStore::open(dir, CLUSTER, newest).unwrap();
    let (found, gap) = read_all(store.after(Position::default(), Interest::All), 300);
    let (mut backward, _) = read_all(store.before(newest, Interest::All), 300);
    backward.reverse();
    assert!(all.ends_with(&backward));
    assert_eq!(gap.is_none(), found.len() == all.len());
    // What was found wrong is a gap for good, and nothing else is.
    let (again, _) = read_all(store.after(Position::default(), Interest::All), 300);
    assert_eq!(found, again);
    found
}

#[test]
fn no_flipped_byte_is_believed() {
    for is_closed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, all) = small_file(dir.path(), is_closed);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            let found = read(dir.path(), &all);
            assert!(all.starts_with(&found), "byte {at}");
            // A table that is damaged costs nothing.
            let is_in_table = is_closed && at > bytes.len() - 200;
            assert!(!is_in_table || found.len() == all.len(), "byte {at} of {}", bytes.len());
        }
    }
}

#[test]
fn torn_tail_is_cut_off() {
    for is_closed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, all) = small_file(dir.path(), is_closed);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            for rest in [0, bytes.len() - length] {
                let torn = [&bytes[..length], &vec![0; rest]].concat();
                fs::write(&path, &torn).unwrap();
                let found = read(dir.path(), &all);
                assert!(all.starts_with(&found), "{length} bytes");
            }
        }
    }
}

/// The machine goes on from its checkpoint, and what is missing comes again.
#[test]
fn what_was_torn_off_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, all) = small_file(dir.path(), false);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    assert!(read(dir.path(), &all).len() < all.len());
    record(dir.path(), &some_history(12));
    assert_eq!(read(dir.path(), &all), all);
}

/// What the filter says is not there is not read: here it could not be.
#[test]
fn blocks_without_the_key_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(30);
    let store = open(dir.path(), &history);
    let mut recorder = recorder(&store);
    for entry in history.chunks(1) {
        push(&store, entry);
        store.pending().urge(Index(0));
        recorder.run();
    }
    let interest = Interest::Below(KeyPath::clean("/2/4").unwrap());
    let wanted = stored(&history).into_iter().filter(|stored| interest.wants(stored));
    let wanted: Vec<_> = wanted.collect();
    let (file, blocks) = {
        let files = store.files();
        let (file, _) = files.following(Position::default()).unwrap();
        (file, files.blocks(Position::default()).to_vec())
    };
    let others = blocks.iter().filter(|block| {
        wanted.iter().all(|it| it.position <= block.before || it.position > block.after)
    });
    for block in others {
        file.write(b"?", block.offset + u64::from(block.length) - 1).unwrap();
    }
    let (found, gap) = read_all(store.after(Position::default(), interest), 300);
    assert_eq!((found, gap), (wanted, None));
    assert!(read_all(store.after(Position::default(), Interest::All), 300).1.is_some());
}

#[test]
fn files_of_another_cluster_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, all) = small_file(dir.path(), true);
    let newest = all[all.len() - 1].position;
    let store = EventStore::open(dir.path(), ClusterId(8), newest).unwrap();
    assert!(store.ranges().is_empty() && !path.exists());
}

#[test]
fn what_does_not_fit_into_memory_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(100);
    let store = open(dir.path(), &history);
    store.pending().bound(10_000);
    push(&store, &history[..60]);
    let mut recorder = recorder(&store);
    recorder.finish();
    push(&store, &history[60..]);
    recorder.finish();
    let ranges = store.ranges();
    assert!(ranges.len() > 1 && ranges[0].start == Position::default(), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
    // Nobody is told that there is more than there is.
    let all = stored(&history);
    let (found, gap) = read_all(store.after(Position::default(), Interest::All), 300);
    assert!(all.starts_with(&found));
    assert_eq!(gap.unwrap().at, ranges[0].end);
}

/// A block of a state that was wrong is under way when that is noticed.
#[test]
fn what_was_begun_before_something_was_forgotten_is_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(12);
    let store = record(dir.path(), &history);
    let (file, block) = store.files().following(Position::default()).unwrap();
    let (epoch, start) = (store.files().epoch(), block.before);
    store.forget_behind(Index(0));
    assert!(!store.files().add_block(epoch, start, &file, block));
    let epoch = store.files().epoch();
    assert!(store.files().add_block(epoch, start, &file, block));
}

/// What is in files from before, and was left out now, nobody has compared with the log.
#[test]
fn what_was_left_out_is_not_believed_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(100);
    record(dir.path(), &history);
    let store = open(dir.path(), &history);
    store.pending().bound(10_000);
    let mut recorder = recorder(&store);
    push(&store, &history[..90]);
    recorder.finish();
    push(&store, &history[90..]);
    recorder.finish();
    let ranges = store.ranges();
    assert!(ranges.len() > 1 && ranges[0].end < ranges[1].start, "{ranges:?}");
}

/// A replay that fills a gap may have begun before it, with a wrong state.
#[test]
fn what_is_there_already_is_let_alone_by_who_fills_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(60);
    let store = open(dir.path(), &history);
    push(&store, &history[..20]);
    push(&store, &history[40..]);
    recorder(&store).finish();
    let ranges = || store.ranges();
    let before = ranges();
    let mut filler = store.fill(history[20].0, DiskRoom::default()).unwrap();
    for (at, outcomes) in &history[20..30] {
        filler.push(*at, outcomes.clone());
    }
    filler.finish(history[20].0);
    assert_eq!(ranges(), before, "it is as it was");
    let mut filler = store.fill(history[20].0, DiskRoom::default()).unwrap();
    for (at, outcomes) in &history[20..40] {
        filler.push(*at, outcomes.clone());
    }
    filler.finish(history[40].0);
    let (found, gap) = read_all(store.after(Position::default(), Interest::All), 300);
    assert_eq!((found, gap), (stored(&history), None));
}

/// Two files may begin at one position, one after the other: the first is removed late.
#[test]
fn file_that_is_removed_late_is_not_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(12);
    let store = record(dir.path(), &history);
    store.forget_behind(Index(0));
    push(&store, &history);
    let late = store.files().take_owed();
    assert!(matches!(late[..], [Mend::Remove(_)]), "{late:?}");
    recorder(&store).finish();
    late.into_iter().for_each(mend);
    let store = open(dir.path(), &history[11..]);
    let (found, _) = read_all(store.after(Position::default(), Interest::All), 300);
    assert_eq!(found, stored(&history[..11]));
}

/// Who asks for no more than there is, is not told of a gap behind it.
#[test]
fn what_was_passed_over_is_told_before_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(40);
    let store = open(dir.path(), &history);
    push(&store, &history[..20]);
    push(&store, &history[30..]);
    let nothing = Interest::Below(KeyPath::clean("/nothing").unwrap());
    let mut reader = store.after(Position::default(), nothing);
    let passed = reader.next(300).unwrap().unwrap();
    assert_eq!((passed.stored, passed.reached), (Vec::new(), history[20].0));
    assert_eq!(reader.next(300).unwrap_err().at, history[20].0);
}

#[test]
fn what_lies_before_a_command_is_forgotten_a_file_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let history = some_history(100);
    let store = open(dir.path(), &history);
    let mut recorder = recorder(&store);
    recorder.close_at(1);
    for entries in history.chunks(10) {
        push(&store, entries);
        store.pending().urge(Index(0));
        recorder.run();
    }
    let index = history[35].0.index;
    let bytes = store.bytes();
    store.forget_before(index);
    assert_eq!(store.ranges()[0].start, history[30].0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 7);
    assert!(store.bytes() < bytes);
    assert!(!store.covers(history[29].0.event.next()));
    assert!(store.covers(history[30].0.event.next()));
}
