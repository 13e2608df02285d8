//! The example is killed at any moment, again and again, and the table is what the fold says
//! each time: from an exported log, a live machine, and its directory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{
    Batch, Command as LogCommand, End, History, KeyPath, LogFormat, LogTime, Machine, NodeId,
    RecordedBatch, RecordedEnd, Ttl,
};
use etcd_projections::{Change, Event, State, What};
use rusqlite::Connection;
use tempfile::TempDir;

/// How many commands the exported log has.
const COMMANDS: u64 = 60_000;

/// What every key holds, and the last event.
#[derive(Debug, Default, PartialEq)]
struct Keys {
    event: u64,
    values: BTreeMap<String, (String, u64)>,
}

impl Keys {
    /// What the table says.
    fn of_table(path: &Path) -> Self {
        let database = Connection::open(path).unwrap();
        let is_made = "SELECT count(*) FROM sqlite_master WHERE name = 'position'";
        if database.query_row(is_made, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
            return Self::default();
        }
        let event = database.query_row("SELECT event FROM position", [], |row| row.get(0));
        // Killed between the two statements that make it.
        let event: i64 = event.unwrap_or_default();
        let mut rows = database.prepare("SELECT key, value, command FROM keys").unwrap();
        let read = |row: &rusqlite::Row<'_>| {
            let command: i64 = row.get(2)?;
            Ok((row.get(0)?, (row.get(1)?, command.cast_unsigned())))
        };
        let values = rows.query_map([], read).unwrap().map(Result::unwrap).collect();
        Self { event: event.cast_unsigned(), values }
    }

    /// Folds in the events up to one.
    fn fold(&mut self, events: &[Arc<Event>], upto: u64) {
        for event in &events[usize::try_from(self.event).unwrap()..usize::try_from(upto).unwrap()] {
            let key = event.key.as_str().to_owned();
            match &event.change {
                Change::Set { value, .. } => {
                    self.values.insert(key, (value.to_string(), event.index.0));
                }
                Change::Delete { .. } | Change::Expire { .. } => {
                    self.values.remove(&key);
                }
                Change::DeleteDir => {}
            }
            self.event = event.number.0;
        }
    }
}

/// The events of a log.
fn events(log: &Path) -> Vec<Arc<Event>> {
    let mut state = State::new(1);
    let outcomes = History::open(log).unwrap().into_iter();
    let outcomes = outcomes.flat_map(|batch| state.replay(&batch.unwrap()).unwrap());
    let event = |what| if let What::Event(event) = what { Some(event) } else { None };
    outcomes.filter_map(|outcome| event(outcome.what)).collect()
}

/// Writes an exported log: keys that are set, deleted, and expire.
fn export(path: &Path) {
    let mut out = BufWriter::new(File::create(path).unwrap());
    let mut state = State::new(1);
    let url = Arc::from("http://127.0.0.1:1");
    let machine = Machine {
        name: "node1".into(),
        node: NodeId(1),
        peer_url: Arc::clone(&url),
        client_url: url,
    };
    let cluster = "00000000000000c1".parse().unwrap();
    // The format stands beside the cluster, in one value.
    let mut commands =
        vec![LogCommand::Sync { cluster, format: LogFormat(2) }, LogCommand::Join(machine)];
    for number in 0..COMMANDS {
        let key = KeyPath::clean(&format!("/{}/{}", number % 7, number * 7919 % 3001)).unwrap();
        commands.push(match number % 5 {
            0 => LogCommand::Delete { key },
            ttl => {
                LogCommand::Set { key, value: number.to_string().into(), ttl: Ttl::new(ttl - 1) }
            }
        });
        if commands.len() >= 100 {
            let batch = Batch::new(LogTime(number * 1_000_000), std::mem::take(&mut commands));
            let index = state.position().index.next();
            state.apply(&batch);
            serde_json::to_writer(&mut out, &RecordedBatch::new(index, &batch)).unwrap();
            writeln!(out).unwrap();
        }
    }
    let (at, digest) = (state.position(), Some(state.digest()));
    let end = End { index: at.index, time: at.time, digest };
    serde_json::to_writer(out, &RecordedEnd { end }).unwrap();
}

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The example, at work.
struct Example(Process);

impl Example {
    fn start(database: &Path, source: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-sqlite"));
        let child = command.arg(database).arg(source).stdout(Stdio::piped()).spawn().unwrap();
        Self(Process(child))
    }

    /// The events that transactions ended with.
    fn positions(&mut self) -> impl Iterator<Item = u64> + use<'_> {
        let lines = BufReader::new(self.0.0.stdout.as_mut().unwrap()).lines();
        lines.map_while(Result::ok).filter_map(|line| line.parse().ok())
    }

    /// Kills it after so many transactions, and some more time.
    fn kill_after(mut self, transactions: u32, and: Duration) {
        if let Some(before) = transactions.checked_sub(1) {
            self.positions().nth(before as usize);
        }
        std::thread::sleep(and);
    }

    /// Waits until it ends by itself, and returns whether all went well.
    fn ends_well(mut self) -> bool {
        self.0.0.wait().unwrap().success()
    }
}

fn by_chance(most: u32) -> u32 {
    getrandom::u32().unwrap() % most
}

#[test]
fn table_is_what_the_fold_says_whenever_it_is_killed() {
    let dir = TempDir::new().unwrap();
    let (log, database) = (dir.path().join("log.jsonl"), dir.path().join("keys.db"));
    export(&log);
    let (events, source) = (events(&log), log.to_str().unwrap());
    let mut folded = Keys::default();
    let mut ended_at = Vec::new();
    for _ in 0..30 {
        let example = Example::start(&database, source);
        example.kill_after(by_chance(4), Duration::from_micros(by_chance(10_000).into()));
        let table = Keys::of_table(&database);
        assert!(table.event >= folded.event, "{} after {}", table.event, folded.event);
        folded.fold(&events, table.event);
        assert!(table == folded, "killed at event {}", table.event);
        ended_at.push(table.event);
    }
    assert!(folded.event > 0, "killed at {ended_at:?}");
    assert!(Example::start(&database, source).ends_well());
    folded.fold(&events, events.len() as u64);
    assert!(Keys::of_table(&database) == folded, "at the end");
    // Another cluster's log is refused, though its numbers would do.
    let other = fs::read_to_string(&log).unwrap().replace("00000000000000c1", "00000000000000c2");
    let (other, _) = other.split_once("{\"end\"").unwrap();
    fs::write(&log, other.to_owned() + "\n").unwrap();
    assert!(!Example::start(&database, source).ends_well());
    assert!(Keys::of_table(&database) == folded);
}

/// The server, which stands beside the example; made, if nobody has yet.
fn server() -> PathBuf {
    let example = Path::new(env!("CARGO_BIN_EXE_etcd-sqlite"));
    let server = example.with_file_name("etcd");
    if !server.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        assert!(cargo.args(["build", "--bin", "etcd"]).status().unwrap().success());
    }
    server
}

#[test]
fn live_machine_and_its_directory_give_the_same() {
    let dir = TempDir::new().unwrap();
    let (data, database) = (dir.path().join("data"), dir.path().join("keys.db"));
    let mut command = Command::new(server());
    command.args(["-c", "0", "-s", "0", "-d"]).arg(&data).stderr(Stdio::piped());
    let mut etcd = Process(command.spawn().unwrap());
    let mut said = BufReader::new(etcd.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let url = said.find_map(|line| {
        let (_, urls) = line.split_once("clients: ")?;
        urls.split_once(' ').map(|(clients, _)| clients.to_owned())
    });
    let url = url.unwrap();
    said.find(|line| line.contains("ready in")).unwrap();
    std::thread::spawn(move || said.for_each(drop));
    let post = |number: u32| {
        let form = [("value", &*number.to_string()), ("ttl", "1000")];
        ureq::post(format!("{url}/v1/keys/k/{}", number % 50)).send_form(form).unwrap();
    };
    for round in 0..10 {
        (0..50).for_each(|number| post(round * 50 + number));
        let example = Example::start(&database, &url);
        example.kill_after(by_chance(2), Duration::from_micros(by_chance(20_000).into()));
    }
    // What comes while it follows: the machine's own two events, and all that were posted.
    let mut example = Example::start(&database, &url);
    post(1000);
    example.positions().find(|position| *position == 503).unwrap();
    example.kill_after(0, Duration::ZERO);
    let pid = etcd.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(etcd.0.wait().unwrap().success());
    // The rest comes from the directory.
    assert!(Example::start(&database, data.to_str().unwrap()).ends_well());
    let (mut folded, events) = (Keys::default(), events(&data));
    folded.fold(&events, events.len() as u64);
    assert!(events.len() >= 503);
    assert_eq!(Keys::of_table(&database), folded);
}
