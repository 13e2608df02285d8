//! Clients that write while something happens to a cluster, and what they were told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use crate::support::{PATIENCE, Server, agent};

/// What each client was told that it has written, by key.
pub(crate) type Acknowledged = Vec<BTreeMap<String, String>>;

/// How many clients write.
const WRITERS: usize = 3;

/// Has clients write to the machines at these URLs while something else is done.
pub(crate) fn while_writing(urls: &[String], work: impl FnOnce()) -> Acknowledged {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = Ends(&ends);
        let writers: Vec<ScopedJoinHandle<'_, _>> = (0..WRITERS)
            .map(|writer| {
                let ends = &ends;
                scope.spawn(move || write(urls, writer, ends))
            })
            .collect();
        work();
        drop(writing);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

/// Asserts that a machine has what was acknowledged, and that it was something.
pub(crate) fn assert_kept(server: &Server, acknowledged: &Acknowledged) {
    for (key, value) in acknowledged.iter().flatten() {
        let read = server.get(&format!("/v1/keys{key}"));
        assert!(read.body.contains(&format!("\"value\":\"{value}\"")), "{key}: {}", read.body);
    }
    assert!(acknowledged.iter().all(|written| written.len() > 2), "{acknowledged:?}");
}

/// Writes to the machines in turn, each value once; returns what was acknowledged, by key.
fn write(urls: &[String], writer: usize, ends: &AtomicBool) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("/w{writer}/{}", number % 50), format!("{writer}-{number}"));
        let url = format!("{}/v1/keys{key}", urls[number % urls.len()]);
        let form = [("value", value.as_str()), ("timeout", "60")];
        match agent(PATIENCE).post(&url).send_form(form) {
            Ok(reply) if reply.status() == 200 => {
                acknowledged.insert(key, value);
            }
            // It may have been written, and then is what counts; or one that comes is.
            Ok(_) | Err(_) => {
                acknowledged.remove(&key);
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    acknowledged
}

/// Ends the writers, also if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
