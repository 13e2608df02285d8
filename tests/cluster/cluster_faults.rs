//! Three real processes under faults: killed, paused, cut off, all at once, while
//! clients write, test and set, read and watch. What they were answered must be
//! linearizable, and the watches complete.
//!
//! A fault lasts until it shows: until the others follow a machine that it has not hit,
//! and the one that it has hit knows that it is alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a figure, for people")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::linearizability::{self, Answer, Call, Operation};
use crate::support::cluster::Cluster;
use crate::support::proxy::Cut;
use crate::support::{PATIENCE, agent, eventually};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// How many clients each machine has.
const CLIENTS: usize = 2;

/// How many seconds a client gives a machine.
const LIMIT: u64 = 3;

/// How many seconds are given to a machine that cannot answer.
const SHORT_LIMIT: u64 = 1;

/// How long a machine that is back may acknowledge no write: far longer than it needs.
const BACK_LIMIT: Duration = Duration::from_secs(15);

/// How many seconds are longer than anything takes.
const LONG_LIMIT: u64 = 60;

/// How often writes are asked for, and how often nobody could say what came of them.
#[derive(Debug, Default)]
struct Told {
    asked: AtomicU64,
    unknown: AtomicU64,
}

/// Checkpoints, segments and a ring that are small, so that all of them are used up.
pub(crate) const SMALL: [&str; 6] =
    ["--checkpoint-bytes", "200kB", "--segment-bytes", "128KiB", "-m", "50"];

/// What all clients share.
pub(crate) struct Shared {
    urls: Vec<String>,
    clock: AtomicU64,
    values: AtomicU64,
    /// What was told of writes: without an id, and under one.
    told: [Told; 2],
    history: Mutex<Vec<Operation>>,
    /// The writes that were acknowledged, as they were answered.
    acknowledged: Mutex<Vec<String>>,
    is_over: AtomicBool,
    /// The number of the last event that there will be; zero until it is known.
    last_event: AtomicU64,
}

impl Shared {
    fn of(cluster: &Cluster) -> Arc<Self> {
        Arc::new(Self {
            urls: cluster.running().map(|server| server.url.clone()).collect(),
            clock: AtomicU64::new(0),
            values: AtomicU64::new(0),
            told: Default::default(),
            history: Mutex::default(),
            acknowledged: Mutex::default(),
            is_over: AtomicBool::new(false),
            last_event: AtomicU64::new(0),
        })
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A value that nobody else writes.
    fn value(&self) -> String {
        format!("v{}", self.values.fetch_add(1, Ordering::SeqCst))
    }

    /// Asks a machine, and notes what it answers; nothing, if it is certain that nothing
    /// was done.
    fn ask(&self, at: usize, key: &str, call: Call, seconds: u64) -> Option<Answer> {
        let called = self.tick();
        let heard = self.send(at, key, &call, (seconds, None));
        self.note(key, call, heard, called)
    }

    /// The same, under an id: whoever is not told what came of it asks again, anywhere, until
    /// he is.
    fn ask_once(&self, at: usize, key: &str, call: Call) -> Option<Answer> {
        let (called, id, begun) = (self.tick(), self.value(), Instant::now());
        let mut machines = (at..).map(|at| at % self.urls.len());
        let mut may_be_done = false;
        let heard = loop {
            let at = machines.next()?;
            let heard = self.send(at, key, &call, (LIMIT, Some(&id)));
            may_be_done |= heard.is_unknown();
            if !may_be_done || matches!(heard, Heard::Reply(200 | 400 | 404, _)) {
                break heard;
            }
            assert!(begun.elapsed() < PATIENCE, "{call:?} under {id} is not told");
            thread::sleep(Duration::from_millis(20));
        };
        self.note(key, call, heard, called)
    }

    fn send(&self, at: usize, key: &str, call: &Call, how: (u64, Option<&str>)) -> Heard {
        let heard = send(&self.urls[at], key, call, how);
        if *call != Call::Get {
            let told = &self.told[usize::from(how.1.is_some())];
            told.asked.fetch_add(1, Ordering::SeqCst);
            told.unknown.fetch_add(u64::from(heard.is_unknown()), Ordering::SeqCst);
        }
        heard
    }

    /// Notes what was heard; nothing, if it is certain that nothing was done.
    fn note(&self, key: &str, call: Call, heard: Heard, called: u64) -> Option<Answer> {
        let answered = self.tick();
        let answer = match heard {
            Heard::Nobody => None,
            Heard::Unknown => Some(Answer::Unknown),
            Heard::Reply(status, body) => {
                let answer = answer(&call, status, &body);
                if matches!(answer, Some(Answer::Done(_))) {
                    self.acknowledged.lock().unwrap().push(body);
                }
                answer
            }
        }?;
        let (key, told) = (key.to_owned(), answer.clone());
        let operation = Operation { key, call, answer, called, answered };
        self.history.lock().unwrap().push(operation);
        Some(told)
    }

    /// Writes a new value through a machine. Returns whether that was acknowledged.
    fn write(&self, at: usize, seconds: u64) -> bool {
        let answer = self.ask(at, KEYS[0], Call::Set(self.value()), seconds);
        matches!(answer, Some(Answer::Done(_)))
    }

    /// Reads through a machine. Returns whether that was answered.
    fn read(&self, at: usize, seconds: u64) -> bool {
        let answer = self.ask(at, KEYS[0], Call::Get, seconds);
        answer.is_some_and(|answer| answer != Answer::Unknown)
    }
}

/// What comes of a question.
enum Heard {
    Reply(u16, String),
    /// It was not answered, and may have been heard.
    Unknown,
    /// Nobody has heard it.
    Nobody,
}

impl Heard {
    /// Whether it may have been done, or not.
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown | Self::Reply(504, _))
    }
}

fn send(url: &str, key: &str, call: &Call, (seconds, id): (u64, Option<&str>)) -> Heard {
    // Whoever is paused says nothing in time.
    let agent = agent(Duration::from_secs(seconds + 1));
    let path = format!("{url}/v1/keys/{key}?timeout={seconds}");
    let (method, path) = match call {
        Call::Get => ("GET", path),
        Call::Delete => ("DELETE", path),
        Call::TestAndDelete { prev } => ("DELETE", format!("{path}&prevValue={prev}")),
        Call::Set(value) => ("PUT", format!("{path}&value={value}")),
        Call::Create(value) => ("PUT", format!("{path}&value={value}&prevExist=false")),
        Call::TestAndSet { prev, value } => {
            ("PUT", format!("{path}&value={value}&prevValue={prev}"))
        }
    };
    let request = ureq::http::Request::builder().method(method).uri(path);
    let request = id.into_iter().fold(request, |request, id| request.header("x-request-id", id));
    let reply = agent.run(request.body(()).unwrap());
    match reply {
        Ok(mut reply) => match reply.body_mut().read_to_string() {
            Ok(body) => Heard::Reply(reply.status().as_u16(), body),
            Err(_) => Heard::Unknown,
        },
        Err(error) if is_refused(&error) => Heard::Nobody,
        Err(_) => Heard::Unknown,
    }
}

/// Whether nobody has heard the question.
fn is_refused(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::ConnectionFailed)
        || matches!(error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What an answer says; nothing, if nothing was done.
fn answer(call: &Call, status: u16, body: &str) -> Option<Answer> {
    Some(match status {
        200 => {
            let line: serde_json::Value = serde_json::from_str(body).unwrap();
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            match call {
                Call::Get => Answer::Value(text("value").unwrap()),
                _ => Answer::Done(text("prevValue")),
            }
        }
        404 => Answer::NotFound,
        400 if body.starts_with("Key Already Exists: ") => Answer::Exists,
        400 => {
            let found = body.strip_prefix("Test ").and_then(|rest| rest.split_once("=="));
            Answer::Found(found.unwrap_or_else(|| panic!("{body}")).0.to_owned())
        }
        503 => return None,
        504 => Answer::Unknown,
        other => panic!("{other}: {body}"),
    })
}

/// Writes and reads, at one machine. Every other client writes under an id.
fn client(shared: &Shared, number: usize) {
    let at = number % shared.urls.len();
    let mut last = BTreeMap::<&str, String>::new();
    let mut turn = number * 5;
    while !shared.is_over.load(Ordering::SeqCst) {
        turn += 1;
        // Of each key, all kinds of calls.
        let key = KEYS[(turn / 10) % KEYS.len()];
        let call = match (turn % 10, last.get(key)) {
            (0..=2, _) => Call::Get,
            (3 | 4, _) => Call::Set(shared.value()),
            (5, _) => Call::Delete,
            (6, _) => Call::Create(shared.value()),
            (7, Some(prev)) => Call::TestAndDelete { prev: prev.clone() },
            (_, Some(prev)) => Call::TestAndSet { prev: prev.clone(), value: shared.value() },
            (_, None) => continue,
        };
        let is_once = (number / shared.urls.len()) % 2 == 1 && call != Call::Get;
        let answer = if is_once {
            shared.ask_once(at, key, call.clone())
        } else {
            shared.ask(at, key, call.clone(), LIMIT)
        };
        match (&answer, call) {
            (Some(Answer::Value(value) | Answer::Found(value)), _) => {
                last.insert(key, value.clone());
            }
            (Some(_), Call::Set(value)) | (Some(Answer::Done(_)), Call::Create(value)) => {
                last.insert(key, value);
            }
            // Nobody is there, or nobody leads.
            (None, _) => thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Watches all keys, at one machine after the other, from where it was, until the last
/// event; returns the events by number.
fn watch(shared: &Shared) -> BTreeMap<u64, String> {
    let agent = agent(Duration::from_secs(LIMIT));
    let (mut seen, mut turn) = (BTreeMap::new(), 0);
    loop {
        let after = seen.keys().next_back().copied().unwrap_or(0);
        if after > 0 && after == shared.last_event.load(Ordering::SeqCst) {
            return seen;
        }
        turn += 1;
        let url = &shared.urls[turn % shared.urls.len()];
        let path = format!("{url}/v1/watch/?stream=true&timeout=1&after={after}");
        let Ok(reply) = agent.get(path).call() else { continue };
        let Ok(body) = reply.into_body().read_to_string() else { continue };
        for line in body.lines() {
            // The last one may have been cut off with its machine.
            let Some(number) = event_number(line) else { break };
            let next = seen.keys().next_back().map_or(1, |last| last + 1);
            assert_eq!(number, next, "no event is missed or told twice");
            seen.insert(number, line.to_owned());
        }
    }
}

fn event_number(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?["event"].as_u64()
}

#[test]
fn history_under_faults_is_linearizable() {
    let mut cluster = Cluster::start_behind_proxies(3, &SMALL);
    assert_linearizable_while(&mut cluster, |cluster, shared| {
        suffer_all(cluster, shared, FAULTS);
    });
}

/// Has clients write, read and watch while something happens to a cluster of three, and
/// asserts that they were told what is linearizable, and all of it.
pub(crate) fn assert_linearizable_while(
    cluster: &mut Cluster,
    happens: impl FnOnce(&mut Cluster, &Shared),
) {
    let shared = Shared::of(cluster);
    let start = |run: fn(&Shared, usize), number| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || run(&shared, number))
    };
    let clients: Vec<_> = (0..3 * CLIENTS).map(|number| start(client, number)).collect();
    let watching = Arc::clone(&shared);
    let watching = thread::spawn(move || watch(&watching));

    happens(cluster, &shared);
    eventually("the clients have done a lot", || {
        let history = shared.history.lock().unwrap();
        history.iter().filter(|operation| operation.answer != Answer::Unknown).count() > 500
    });
    shared.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }

    let path = format!("/v1/keys/end?timeout={LONG_LIMIT}");
    let last = cluster.server(0).post(&path, &[("value", "end")]).number("x-etcd-event");
    shared.last_event.store(last, Ordering::SeqCst);
    let seen: Vec<_> = watching.join().unwrap().into_values().collect();
    check_events(cluster, &seen);
    check_writes(&shared, &seen);
    // For people: how seldom a machine cannot say what came of a write under an id.
    eprintln!("without an id, and under one: {:?}", shared.told);
    linearizability::check(&shared.history.lock().unwrap()).unwrap();
}

/// All machines tell the same events, from the first to the last, and so did the watch.
fn check_events(cluster: &Cluster, seen: &[String]) {
    let numbers = seen.iter().map(|line| event_number(line).unwrap());
    assert!(numbers.eq(1..=seen.len() as u64), "the numbers go on without a gap");
    for at in 0..3 {
        let path = format!("/v1/watch/?stream=true&after=0&timeout={LONG_LIMIT}");
        let told: Vec<_> = cluster.server(at).lines(&path, &[]).take(seen.len()).collect();
        let odd = told.iter().zip(seen).find(|(told, seen)| told != seen);
        assert_eq!(odd, None, "machine {at} tells what the watch has seen");
        assert_eq!(told.len(), seen.len(), "machine {at} tells all of it");
    }
}

/// Every write that was acknowledged is an event, once and as it was answered; and no
/// other event is there but of writes that nobody knows about.
fn check_writes(shared: &Shared, seen: &[String]) {
    let mut events = BTreeMap::<String, usize>::new();
    for line in seen {
        // An event is the answer, with its number and its time at the end.
        let (answer, _) = line.split_once(",\"event\":").unwrap();
        *events.entry(format!("{answer}}}\n")).or_default() += 1;
    }
    for answer in shared.acknowledged.lock().unwrap().iter() {
        assert_eq!(events.get(answer), Some(&1), "{answer}");
    }
    let history = shared.history.lock().unwrap();
    let written: BTreeSet<_> = history.iter().filter_map(written).collect();
    let mut values = BTreeSet::new();
    for line in seen.iter().filter(|line| is_clients(line)) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(value) = line["value"].as_str() else { continue };
        assert!(values.insert(value.to_owned()), "{value} was written twice");
        assert!(written.contains(value), "{value} was not written, it was said");
    }
}

/// Whether an event is of a key that the clients write.
fn is_clients(line: &str) -> bool {
    KEYS.iter().any(|key| line.contains(&format!("\"key\":\"/{key}\"")))
}

/// The value that an operation has written, or may have.
fn written(operation: &Operation) -> Option<&str> {
    match (&operation.call, &operation.answer) {
        (
            Call::Set(value) | Call::Create(value) | Call::TestAndSet { value, .. },
            Answer::Done(_) | Answer::Unknown,
        ) => Some(value),
        _ => None,
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Leader,
    Follower,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Pause,
    Cut(Cut),
    /// A cut that nobody gets to know of but who is asking.
    BriefCut(Cut),
}

pub(crate) const FAULTS: [(Fault, Whom); 12] = [
    (Fault::Kill, Whom::Leader),
    (Fault::Pause, Whom::Leader),
    (Fault::Cut(Cut::Closed), Whom::Leader),
    (Fault::Cut(Cut::Late), Whom::Leader),
    (Fault::Cut(Cut::Silent), Whom::Leader),
    (Fault::Pause, Whom::Follower),
    (Fault::Cut(Cut::Closed), Whom::Follower),
    (Fault::Cut(Cut::Late), Whom::Follower),
    (Fault::Cut(Cut::Silent), Whom::Follower),
    (Fault::BriefCut(Cut::Silent), Whom::Leader),
    (Fault::BriefCut(Cut::Silent), Whom::Follower),
    (Fault::Kill, Whom::All),
];

fn wait_until_well(cluster: &Cluster) {
    eventually("all are well", || {
        let health = cluster.running().map(|server| server.try_get("/health?timeout=1"));
        health.flatten().filter(|health| health.status == 200).count() == 3
    });
}

/// Lets a cluster suffer one fault after the other, until it is well again.
pub(crate) fn suffer_all(
    cluster: &mut Cluster,
    shared: &Shared,
    faults: impl IntoIterator<Item = (Fault, Whom)>,
) {
    for fault in faults {
        suffer(cluster, shared, fault);
    }
    wait_until_well(cluster);
}

fn suffer(cluster: &mut Cluster, shared: &Shared, (fault, whom): (Fault, Whom)) {
    wait_until_well(cluster);
    let leader = cluster.leader();
    let at = if whom == Whom::Follower { (leader + 1) % 3 } else { leader };
    match fault {
        Fault::Kill if whom == Whom::All => restart_all(cluster),
        Fault::Kill => restart(cluster, at),
        Fault::Pause => pause(cluster, at),
        Fault::Cut(cut) => isolate(cluster, shared, at, cut),
        Fault::BriefCut(cut) => {
            cluster.cut(at, cut);
            shared.write(at, SHORT_LIMIT);
            cluster.heal(at);
        }
    }
    works_again(shared, at, (fault, whom));
}

/// Whatever has happened to a machine, it soon acknowledges a write. What it had begun
/// before may be lost.
fn works_again(shared: &Shared, at: usize, after: (Fault, Whom)) {
    let begun = Instant::now();
    while !shared.write(at, LIMIT) {
        assert!(begun.elapsed() < BACK_LIMIT, "no write through machine {at} after {after:?}");
    }
}

fn restart_all(cluster: &mut Cluster) {
    (0..3).for_each(|at| cluster.kill(at));
    (0..3).for_each(|at| cluster.launch(at, &[]));
    (0..3).for_each(|at| cluster.wait(at));
}

fn restart(cluster: &mut Cluster, at: usize) {
    cluster.kill(at);
    cluster.leader_without(at);
    cluster.launch(at, &[]);
    cluster.wait(at);
}

fn pause(cluster: &Cluster, at: usize) {
    cluster.server(at).signal("-STOP");
    let leader = cluster.leader_without(at);
    eventually("the others miss it", || {
        let list = cluster.server(leader).get("/v1/machines?detail=true").body;
        list.contains("\"role\":\"unreachable\"")
    });
    cluster.server(at).signal("-CONT");
}

/// Cuts a machine off until another one leads, if it did, and it knows that it is alone.
/// Whatever it is asked meanwhile, it neither reads nor writes; the others do.
fn isolate(cluster: &Cluster, shared: &Shared, at: usize, cut: Cut) {
    let answers_nothing = || {
        assert!(!shared.write(at, SHORT_LIMIT), "machine {at}, cut off, acknowledges a write");
        assert!(!shared.read(at, SHORT_LIMIT), "machine {at}, cut off, answers a read");
    };
    cluster.cut(at, cut);
    answers_nothing();
    let leader = cluster.leader_without(at);
    eventually("it knows that it is alone", || {
        cluster.server(at).try_get("/leader").is_some_and(|reply| reply.status == 503)
    });
    assert!(shared.write(leader, LONG_LIMIT), "the others go on");
    answers_nothing();
    cluster.heal(at);
}
