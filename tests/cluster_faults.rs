//! Three real processes under faults: killed, paused, cut off, all at once, while
//! clients write, test and set, read and watch. What they were answered must be
//! linearizable, and the watch complete.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod linearizability;
mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use linearizability::{Answer, Call, Operation};
use support::proxy::Proxy;
use support::{Server, etcd, eventually};
use tempfile::TempDir;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// A machine behind a proxy.
struct Machine {
    server: Option<Server>,
    proxy: Proxy,
    /// Its ports, for clients and for the others.
    ports: (u16, u16),
    dir: std::path::PathBuf,
    through: Option<String>,
}

impl Machine {
    fn new(dir: std::path::PathBuf, through: Option<String>) -> Self {
        let ports = (free_port(), free_port());
        let proxy = Proxy::start(format!("127.0.0.1:{}", ports.1));
        Self { server: None, proxy, ports, dir, through }
    }

    fn start(&mut self) {
        let (clients, peers) = (self.ports.0.to_string(), self.ports.1.to_string());
        let mut command = etcd(&["-c", &clients, "-s", &peers]);
        command.arg("-d").arg(&self.dir).args(["--advertise-peer", &self.proxy.address]);
        command.args(["--checkpoint-bytes", "200kB", "--segment-bytes", "128KiB", "-m", "50"]);
        if let Some(through) = &self.through {
            command.arg("-C").arg(through);
        }
        self.server = Some(Server::launch(&mut command));
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.0)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What all clients share.
struct Shared {
    urls: Vec<String>,
    clock: AtomicU64,
    values: AtomicU64,
    history: Mutex<Vec<Operation>>,
    is_over: AtomicBool,
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(8))).build().new_agent()
}

/// Writes and reads, at one machine after the other.
fn client(shared: &Shared, number: usize) {
    let agent = agent();
    let mut last = BTreeMap::<&str, String>::new();
    let mut turn = number;
    while !shared.is_over.load(Ordering::SeqCst) {
        turn += 1;
        let key = KEYS[turn % KEYS.len()];
        let url = &shared.urls[(turn / 7) % shared.urls.len()];
        let value = format!("v{}", shared.values.fetch_add(1, Ordering::SeqCst));
        let call = match turn % 8 {
            0..=2 => Call::Get,
            3 | 4 => Call::Set(value),
            5 => Call::Delete,
            _ => Call::TestAndSet { prev: last.get(key).cloned().unwrap_or_default(), value },
        };
        if matches!(&call, Call::TestAndSet { prev, .. } if prev.is_empty()) {
            continue;
        }
        let called = shared.tick();
        let answer = ask(&agent, url, key, &call);
        let answered = shared.tick();
        if let (Some(Answer::Value(value)), _) | (_, Call::Set(value)) = (&answer, &call) {
            last.insert(key, value.clone());
        }
        if let Some(answer) = answer {
            let key = key.to_owned();
            let operation = Operation { key, call, answer, called, answered };
            shared.history.lock().unwrap().push(operation);
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// Asks, and returns the answer; nothing, if it is certain that nothing was done.
fn ask(agent: &ureq::Agent, url: &str, key: &str, call: &Call) -> Option<Answer> {
    let path = format!("{url}/v1/keys/{key}?timeout=3");
    let reply = match call {
        Call::Get => agent.get(path).call(),
        Call::Delete => agent.delete(path).call(),
        Call::Set(value) => agent.post(path).send_form([("value", &**value)]),
        Call::TestAndSet { prev, value } => {
            agent.post(path).send_form([("prevValue", &**prev), ("value", &**value)])
        }
    };
    let mut reply = match reply {
        Ok(reply) => reply,
        Err(error) if is_refused(&error) => {
            thread::sleep(Duration::from_millis(20));
            return None;
        }
        Err(_) => return Some(Answer::Unknown),
    };
    let status = reply.status().as_u16();
    let Ok(body) = reply.body_mut().read_to_string() else { return Some(Answer::Unknown) };
    Some(match status {
        200 => {
            let line: serde_json::Value = serde_json::from_str(&body).unwrap();
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            match call {
                Call::Get => Answer::Value(text("value").unwrap()),
                _ => Answer::Done(text("prevValue")),
            }
        }
        404 => Answer::NotFound,
        400 => {
            let found = body.strip_prefix("Test ").and_then(|rest| rest.split_once("=="));
            Answer::Found(found.unwrap_or_else(|| panic!("{body}")).0.to_owned())
        }
        503 => return None,
        504 => Answer::Unknown,
        other => panic!("{other}: {body}"),
    })
}

/// Whether nobody has heard the question.
fn is_refused(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::ConnectionFailed)
        || matches!(error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Watches all keys, at one machine after the other, from where it was; returns the
/// events by number.
fn watch(shared: &Shared) -> BTreeMap<u64, String> {
    let agent = agent();
    let (mut seen, mut turn) = (BTreeMap::new(), 0);
    while !shared.is_over.load(Ordering::SeqCst) {
        turn += 1;
        let after = seen.keys().next_back().copied().unwrap_or(0);
        let url = &shared.urls[turn % shared.urls.len()];
        let path = format!("{url}/v1/watch/?stream=true&timeout=1&after={after}");
        let Ok(reply) = agent.get(path).call() else { continue };
        let Ok(body) = reply.into_body().read_to_string() else { continue };
        for line in body.lines() {
            // The last one may have been cut off with its machine.
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { break };
            let number = event["event"].as_u64().unwrap();
            let next = seen.keys().next_back().map_or(number, |last| last + 1);
            assert_eq!(number, next, "no event is missed or told twice");
            seen.insert(number, line.to_owned());
        }
    }
    seen
}

#[test]
fn history_under_faults_is_linearizable() {
    let dir = TempDir::new().unwrap();
    let mut machines: Vec<Machine> = Vec::new();
    for at in 0..3 {
        let through = machines.first().map(|first| first.proxy.address.clone());
        let mut machine = Machine::new(dir.path().join(format!("node{}", at + 1)), through);
        machine.start();
        machine.server.as_mut().unwrap().wait_until_ready();
        machines.push(machine);
    }
    let shared = Arc::new(Shared {
        urls: machines.iter().map(Machine::url).collect(),
        clock: AtomicU64::new(0),
        values: AtomicU64::new(0),
        history: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || client(&shared, number * 5))
        })
        .collect();
    let watching = Arc::clone(&shared);
    let watching = thread::spawn(move || watch(&watching));

    for round in 0..6 {
        trouble(&mut machines, round);
    }
    eventually("all are well again", || {
        machines.iter().all(|machine| {
            let health = machine.server.as_ref().unwrap().try_get("/health?timeout=1");
            health.is_some_and(|health| health.status == 200)
        })
    });
    thread::sleep(Duration::from_millis(500));
    shared.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    let events = watching.join().unwrap();

    let history = shared.history.lock().unwrap();
    let done = history.iter().filter(|operation| operation.answer != Answer::Unknown).count();
    assert!(done > 300 && events.len() > 100, "{done} operations, {} events", events.len());
    linearizability::check(&history).unwrap();
}

/// How long a fault lasts. Longer than an election takes.
const FAULT: Duration = Duration::from_secs(2);

/// Which machine leads, as far as any of them says.
fn leader(machines: &[Machine]) -> usize {
    let mut leader = None;
    eventually("somebody leads", || {
        let reply = machines.iter().find_map(|machine| {
            let reply = machine.server.as_ref()?.try_get("/leader")?;
            (reply.status == 200).then_some(reply.body)
        });
        leader = reply.and_then(|url| {
            let address = url.trim_end().trim_start_matches("http://").to_owned();
            machines.iter().position(|machine| machine.proxy.address == address)
        });
        leader.is_some()
    });
    leader.unwrap()
}

fn trouble(machines: &mut [Machine], round: usize) {
    let leader = leader(machines);
    let follower = (leader + 1) % machines.len();
    match round {
        0 => restart(machines, &[leader]),
        1 => pause(&machines[leader]),
        2 => cut(&machines[leader]),
        3 => pause(&machines[follower]),
        4 => cut(&machines[follower]),
        _ => restart(machines, &[0, 1, 2]),
    }
}

fn restart(machines: &mut [Machine], which: &[usize]) {
    for &at in which {
        machines[at].server.take().unwrap().kill();
    }
    thread::sleep(FAULT);
    for &at in which {
        machines[at].start();
    }
    for &at in which {
        machines[at].server.as_mut().unwrap().wait_until_ready();
    }
}

fn pause(machine: &Machine) {
    let server = machine.server.as_ref().unwrap();
    server.signal("-STOP");
    thread::sleep(FAULT);
    server.signal("-CONT");
    thread::sleep(FAULT / 2);
}

fn cut(machine: &Machine) {
    machine.proxy.cut(true);
    thread::sleep(FAULT);
    machine.proxy.cut(false);
    thread::sleep(FAULT / 2);
}
