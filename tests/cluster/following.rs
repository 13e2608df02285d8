//! A follower of real processes: whatever happens to the machine that it follows, each event
//! comes once, in order.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use etcd_follow::{Events, Follower, Start};
use etcd_log::{EventNumber, KeyPath};
use etcd_projections::{Change, Event};
use tokio_stream::StreamExt as _;

use crate::support::cluster::Cluster;
use crate::support::proxy::Cut;
use crate::support::{PATIENCE, eventually};

/// What a follower on a thread of its own has told so far.
#[derive(Clone, Default)]
struct Told {
    events: Arc<Mutex<Vec<Arc<Event>>>>,
    /// Who was left, one after the other.
    left: Arc<Mutex<Vec<String>>>,
}

impl Told {
    /// Follows on a thread of its own, until the test ends or the stream does.
    fn by(follower: Follower) -> Self {
        let told = Self::default();
        let (events, left) = (Arc::clone(&told.events), Arc::clone(&told.left));
        let follower = follower.on_fault(move |url, _| left.lock().unwrap().push(url.to_owned()));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut following = follower.events();
                while let Some(event) = following.next().await {
                    events.lock().unwrap().push(event.unwrap());
                }
            });
        });
        told
    }

    fn last(&self) -> u64 {
        self.events.lock().unwrap().last().map_or(0, |event| event.number.0)
    }

    fn wait_for(&self, number: u64) {
        eventually("the event is told", || self.last() >= number);
    }

    /// Which machine is followed: the one after the last that was left.
    fn followed(&self, urls: &[String]) -> usize {
        let left = self.left.lock().unwrap();
        let last = left.last().and_then(|left| urls.iter().position(|url| url == left));
        last.map_or(0, |last| (last + 1) % urls.len())
    }

    fn has_left(&self, url: &str) -> bool {
        self.left.lock().unwrap().iter().any(|left| left == url)
    }
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.running().map(|server| server.url.clone()).collect()
}

/// Writes all the while, at whichever machine takes it, and returns what was acknowledged.
fn write_until(is_over: &AtomicBool, urls: &[String]) -> Vec<String> {
    let agent = crate::support::agent(PATIENCE);
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let value = number.to_string();
        let url = format!("{}/v1/keys/k/{}", urls[number % urls.len()], number % 7);
        // No machine is there, or it does not know: the next number goes elsewhere.
        let sent = agent.post(&url).send_form([("value", &*value), ("ttl", "1")]);
        if sent.is_ok_and(|reply| reply.status() == 200) {
            acknowledged.push(value);
        }
    }
    acknowledged
}

/// The whole history, told by one machine in one piece.
fn history(url: &str, last: u64) -> Vec<Arc<Event>> {
    let told = Told::by(Follower::new([url]));
    told.wait_for(last);
    assert!(told.left.lock().unwrap().is_empty());
    let mut events = told.events.lock().unwrap().clone();
    events.truncate(usize::try_from(last).unwrap());
    events
}

/// Each machine is killed while it is followed, the leader among them, and comes back.
#[test]
fn machines_that_are_followed_are_killed() {
    let mut cluster = Cluster::start(3, &["-m", "10"]);
    let urls = addresses(&cluster);
    // Of the others it hears from the first one.
    let told = Told::by(Follower::new([&*urls[0]]));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_until(&is_over, &urls));
        for _ in 0..6 {
            let before = told.last();
            told.wait_for(before + 20);
            let followed = told.followed(&urls);
            let left = told.left.lock().unwrap().len();
            cluster.kill(followed);
            eventually("it is left", || told.left.lock().unwrap().len() > left);
            let before = told.last();
            told.wait_for(before + 20);
            cluster.launch(followed, &[]);
            cluster.wait(followed);
        }
        is_over.store(true, Ordering::Relaxed);
        let acknowledged = writing.join().unwrap();
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        let value = |event: &Arc<Event>| match &event.change {
            Change::Set { value, .. } => Some(value.to_string()),
            _ => None,
        };
        let told_of = |wanted: &String| {
            told.events
                .lock()
                .unwrap()
                .iter()
                .filter(|event| value(event).as_ref() == Some(wanted))
                .count()
        };
        let last = acknowledged.last().unwrap();
        eventually("the last write is told", || told_of(last) == 1);
        assert!(acknowledged.iter().all(|value| told_of(value) == 1));
    });
    assert!(urls.iter().all(|url| told.has_left(url)), "{urls:?}");
    let last = told.last();
    let events = told.events.lock().unwrap()[..usize::try_from(last).unwrap()].to_vec();
    assert!(events.iter().map(|event| event.number.0).eq(1..=last));
    assert_eq!(history(&cluster.server(1).url, last), events);
}

/// A machine that is cut off from the others still answers, and says that it is not healthy.
#[test]
fn machine_that_is_cut_off_is_left() {
    let cluster = Cluster::start_behind_proxies(3, &[]);
    let follower = cluster.leader();
    let follower = (0..3).find(|at| *at != follower).unwrap();
    let mut urls = addresses(&cluster);
    urls.swap(0, follower);
    let prefix = KeyPath::clean("/k").unwrap();
    let told = Told::by(Follower::new(urls.clone()).prefix(prefix));
    let server = cluster.server((follower + 1) % 3);
    assert_eq!(server.post("/v1/keys/k", &[("value", "0")]).status, 200);
    eventually("it is followed", || told.last() > 0);
    cluster.cut(follower, Cut::Closed);
    for value in 1..10 {
        let value = value.to_string();
        eventually("a write is acknowledged", || {
            server.post("/v1/keys/other", &[("value", &value)]).status == 200
                && server.post("/v1/keys/k", &[("value", &value)]).status == 200
        });
    }
    eventually("all is told", || {
        let events = told.events.lock().unwrap();
        let last = events.last().map(|event| event.change.clone());
        matches!(last, Some(Change::Set { value, .. }) if &*value == "9")
    });
    assert!(told.has_left(&urls[0]));
    let numbers: Vec<_> = told.events.lock().unwrap().iter().map(|event| event.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(numbers.len(), 10, "{numbers:?}");
}

/// Takes the next event.
fn next(runtime: &tokio::runtime::Runtime, events: &mut Events) -> Arc<Event> {
    let next = async { tokio::time::timeout(PATIENCE, events.next()).await };
    runtime.block_on(next).expect("it hangs").expect("it goes on").unwrap()
}

#[test]
fn it_begins_where_it_is_told() {
    let cluster = Cluster::start(1, &[]);
    let server = cluster.server(0);
    for value in ["a", "b"] {
        server.post("/v1/keys/k%20k/%C3%A4%25", &[("value", value)]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut after = Follower::new([&*server.url]).start(Start::After(EventNumber(3))).events();
    let second = next(&runtime, &mut after);
    assert!(matches!(&second.change, Change::Set { value, .. } if &**value == "b"));
    let mut below = Follower::new([&*server.url]).prefix(second.key.clone()).events();
    assert_eq!(next(&runtime, &mut below).number, EventNumber(3));
    assert_eq!(next(&runtime, &mut below), second);
    // Whatever comes first behind the question is told, however often waiting is given up.
    let mut now = Follower::new([&*server.url]).start(Start::Now).events();
    let first = loop {
        server.post("/v1/keys/now", &[("value", "c")]);
        let next = async { tokio::time::timeout(Duration::from_millis(50), now.next()).await };
        if let Ok(event) = runtime.block_on(next) {
            break event.unwrap().unwrap();
        }
    };
    assert_eq!(first.key.as_str(), "/now");
    server.post("/v1/keys/now", &[("value", "d")]);
    assert_eq!(next(&runtime, &mut now).number, first.number.next());
}
