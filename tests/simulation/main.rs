//! Simulation: many machines in one thread, on a clock, a network and disks that are
//! all driven by one seed.
//!
//! ```text
//! seed ─▶ dice ─▶ crashes that lose what was not synced, pauses, cut and one-way links,
//!                 lost messages, slow disks, clocks that jump, machines that move,
//!                 join, leave and die, a liar, a state that loses a key, a second
//!                 process of a machine; and one fault that stays for long
//!                       │
//!  clients, watches ─▶ the real machine: proposer, barrier, consensus, peers
//!                       │
//!  every millisecond: one leader a term, one state a position, one entry an index
//!  every 5 seconds:   a majority that is well writes, while the fault stays
//!  at the end:        all agree, every log leads to that state, every watch saw all,
//!                     the history is linearizable, what is older fits its order,
//!                     the past is told as a replay of the log tells it
//! ```
//!
//! Two leaders may have the same number of a term, one after the other: a term's name is
//! its number and its leader. The log is the one in memory, behind a disk that loses
//! what was not synced. In some runs the first machines are of a version that reads the
//! first format of the log alone, until they are started again. In a few runs, and with `SIM_LOG=wal` in all, it is the real one
//! on a disk that tears and loses what was not synced; that has threads of its own, so no
//! such run is quite like another.
//!
//! The same seed gives the same run. `SIM_SEEDS=1000 cargo test --release --test
//! simulation` tries more of them, `SIM_SEED=17 cargo test --test simulation one_seed`
//! one again. What `directed` has is one kind of trouble each.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a failure says how to repeat it")]

mod client;
mod dice;
mod directed;
mod faults;
mod health;
mod liar;
#[path = "../support/limit.rs"]
mod limit;
#[path = "../support/linearizability/mod.rs"]
mod linearizability;
mod links;
mod log;
mod machine;
mod members;
mod past;
mod probe;
mod reads;
mod real_log;
mod scripts;
mod twins;
mod world;

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use faults::Fault;
use health::Patient;
use turmoil::{Builder, Sim};
use twins::Twin;
use world::{HEALING, LOG, World};

/// For how long there are faults: longer, if one that lasts does.
const TROUBLE: Duration = Duration::from_secs(12);

/// When a fault that lasts begins, in milliseconds.
const LASTING_FROM: (u64, u64) = (2_000, 11_000);

/// How many seeds are tried unless somebody wants more.
const SEEDS: u64 = 24;

/// How many of them are tried with the real log.
const REAL_LOG_SEEDS: u64 = 4;

/// How often it is asked whether a majority is well and writes nothing.
const EXAMINED: Duration = Duration::from_millis(50);

struct Simulation {
    world: World,
    sim: Sim<'static>,
    names: Vec<String>,
    twins: Vec<Twin>,
    faults: Vec<(Duration, Fault)>,
    /// When the next fault comes.
    next: Duration,
    /// When one comes that lasts.
    lasting_from: Option<Duration>,
    trouble_until: Duration,
    others: u32,
    /// Who was up when all were examined last, and what each knew of the others.
    known: Vec<Patient>,
    examined: Duration,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        limit::begin();
        let world = World::new(seed, 2);
        let sim = Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH))
            .simulation_duration(Duration::from_mins(10))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(8))
            .tcp_capacity(4096)
            .build();
        let (least, most) = LASTING_FROM;
        let lasting_from = Some(world.dice().millis(least, most));
        let mut simulation = Self {
            world,
            sim,
            names: Vec::new(),
            twins: Vec::new(),
            faults: Vec::new(),
            next: Duration::from_secs(1),
            lasting_from,
            trouble_until: TROUBLE,
            others: 0,
            known: Vec::new(),
            examined: Duration::ZERO,
        };
        for (name, through) in [("m1", &[][..]), ("m2", &["m1"]), ("m3", &["m2", "m1"])] {
            let address = |name: &&str| simulation.world.stored(name).address(name);
            let through = through.iter().map(address).collect();
            simulation.add(name, through);
        }
        let world = simulation.world.clone();
        simulation.sim.host(liar::NAME, move || liar::run(world.clone()));
        simulation
    }

    /// Runs with faults, then without, until all agree.
    fn run(mut self) -> Result<World, String> {
        while self.sim.elapsed() < self.trouble_until {
            self.trouble();
            self.step()?;
        }
        self.finish()
    }

    /// Ends all faults, and runs until all agree.
    fn finish(mut self) -> Result<World, String> {
        self.heal();
        let healed = self.sim.elapsed();
        // Long enough for all that could expire to have expired.
        while self.sim.elapsed() < healed + Duration::from_secs(6) || !self.has_healed() {
            let is_enough = self.sim.elapsed() > healed + Duration::from_secs(2);
            if is_enough && !self.world.somebody_has_lost_a_key() {
                self.world.quiet();
            }
            if self.sim.elapsed() > healed + HEALING {
                return Err(format!("they do not agree; {}", self.world.told_of_all()));
            }
            self.step()?;
        }
        self.world.check_history()?;
        self.world.check_logs()?;
        self.world.check_that_nobody_keeps_a_state()?;
        Ok(self.world.clone())
    }

    fn has_healed(&self) -> bool {
        self.there().count() == self.world.machines_up().len()
            && self.world.has_converged()
            && self.world.watches_are_done()
            && self.world.past_is_compared()
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        let now = self.sim.elapsed();
        self.world.check(now)?;
        self.replace_who_stopped();
        if now < self.examined + EXAMINED || self.world.is_quiet() {
            return Ok(());
        }
        self.examined = now;
        self.examine()
    }

    /// Checks that every majority that is well writes.
    fn examine(&mut self) -> Result<(), String> {
        let probes = self.world.probes().clone();
        let known = self.world.patients();
        if known != self.known {
            probes.disturbed();
            self.known = known;
        }
        if !probes.is_long() {
            return Ok(());
        }
        let faults = || self.faults.iter().map(|(_, fault)| fault);
        let works = |name: &str| {
            !faults().any(|fault| fault.stops(name)) && !self.world.has_lost_a_key(name)
        };
        let can_talk = |one: &str, other: &str| {
            !faults().any(|fault| fault.blocks(one, other) || fault.blocks(other, one))
        };
        let well: Vec<_> = self.known.iter().filter(|known| works(&known.name)).collect();
        let told = |what| format!("{what}, under {:?}", faults().collect::<Vec<_>>());
        health::majorities(&well, can_talk)
            .iter()
            .try_for_each(|majority| probes.check(majority))
            .map_err(told)
    }
}

/// When simulations begin, in seconds since 1970: the time is the same in each run.
const EPOCH: u64 = 1_373_500_000;

/// All that happened in a world, a line each.
fn told(world: &World) -> String {
    world.trace().join("\n") + "\n"
}

/// Runs the simulation of a seed, and says how to repeat it if it fails.
fn simulate(seed: u64) -> World {
    let simulation = Simulation::new(seed);
    let world = simulation.world.clone();
    if seed % 4 == 3 {
        world.play_an_old_version(&["m1", "m2", "m3"]);
    }
    simulation.run().unwrap_or_else(|what| {
        let log = std::env::var(LOG).map_or_else(|_| String::new(), |log| format!("{LOG}={log} "));
        eprintln!("to repeat it: {log}SIM_SEED={seed} cargo test --test simulation one_seed");
        eprint!("{}", told(&world));
        panic!("seed {seed}: {what}");
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed, `SIM_SEED` if it is set, and tells all that happened.
#[test]
fn one_seed() {
    alone("one_seed", || {
        let world = simulate(number("SIM_SEED").unwrap_or(1));
        eprint!("{}", told(&world));
        world.history().iter().for_each(|operation| eprintln!("{operation:?}"));
        let (operations, events, terms) = world.summary();
        eprintln!("summary: {operations} {events} {terms} {}", world.sealed());
        // A simulation in which nothing happens proves nothing.
        assert!(operations > 200 && events > 100, "{operations} operations, {events} events");
    });
}

/// Tells a process which test it is there for.
const ALONE: &str = "SIM_ALONE";

/// Runs a test in a process of its own: what ran before in the same one would show in
/// the order of tasks.
fn alone(test: &str, run: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|alone| alone == test) {
        return run();
    }
    in_a_process(test, number("SIM_SEED").unwrap_or(1));
}

/// Runs a test with a seed in a process of its own, and returns what it tells.
fn in_a_process(test: &str, seed: u64) -> Vec<String> {
    told_by(test, seed, &mut process(test, seed))
}

/// The process in which a test runs with a seed.
fn process(test: &str, seed: u64) -> Command {
    let mut one = Command::new(std::env::current_exe().unwrap());
    one.args([test, "--exact", "--nocapture"]);
    one.env(ALONE, test).env("SIM_SEED", seed.to_string());
    one
}

fn told_by(test: &str, seed: u64, process: &mut Command) -> Vec<String> {
    let output = process.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}, seed {seed}, failed:\n{said}");
    said.lines().map(str::to_owned).collect()
}

/// Runs something with each seed, on all cores.
fn with_each_seed(seeds: u64, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(1);
    let run_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return;
            }
            run(seed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(run_some)));
    });
}

/// What a run has told in the end.
fn summary(told: &[String]) -> Vec<u64> {
    let summary = told.iter().find_map(|line| line.strip_prefix("summary: ")).unwrap();
    summary.split(' ').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn many_seeds() {
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let terms = AtomicU64::new(0);
    with_each_seed(seeds, |seed| {
        let told = in_a_process("one_seed", seed);
        terms.fetch_add(summary(&told)[2], Ordering::Relaxed);
    });
    let terms = terms.into_inner();
    assert!(terms > 2 * seeds, "leaders changed {terms} times in {seeds} runs");
}

#[test]
fn real_log_on_a_disk_that_crashes() {
    let sealed = AtomicU64::new(0);
    with_each_seed(number("SIM_SEEDS").unwrap_or(REAL_LOG_SEEDS), |seed| {
        let mut process = process("one_seed", seed);
        let told = told_by("one_seed", seed, process.env(LOG, "wal"));
        sealed.fetch_add(summary(&told)[3], Ordering::Relaxed);
    });
    assert!(sealed.into_inner() > 0, "nothing was sealed");
}

#[test]
fn same_seed_gives_the_same_run() {
    let (first, second) = (in_a_process("one_seed", 7), in_a_process("one_seed", 7));
    let run = |lines: Vec<String>| {
        let is_told = |line: &String| !line.contains("test ") && !line.is_empty();
        lines.into_iter().filter(is_told).collect::<Vec<_>>()
    };
    let (first, second) = (run(first), run(second));
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one, other);
    }
    assert_eq!(first.len(), second.len());
}

/// What is said, in a thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn leader_whose_clock_is_ahead_is_reported_by_name() {
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _said = tracing::subscriber::set_default(subscriber);
    let mut simulation = Simulation::new(1);
    for (name, ahead) in [("m1", 2000), ("m2", 0), ("m3", 100)] {
        simulation.world.store(name, Duration::from_millis(ahead));
    }
    simulation.world.quiet();
    // Longer than a minute: it is said again, but not all the time.
    while simulation.sim.elapsed() < Duration::from_secs(70) {
        simulation.step().unwrap();
    }
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let told =
        said.lines().filter(|line| line.contains("the clock of machine m1, which leads, is"));
    let ahead: Vec<u32> = told
        .map(|line| line.split(" is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ahead.len(), 4, "{said}");
    assert!(ahead.iter().all(|ahead| (1800..=2000).contains(ahead)), "{said}");
}
