//! Simulation: many machines in one thread, on a clock, a network and disks that are
//! all driven by one seed.
//!
//! ```text
//! seed ─▶ dice ─▶ crashes that lose what was not synced, pauses, cut and one-way links,
//!                 lost messages, slow disks, clocks that differ, joins and leaves
//!                       │
//!  clients, watches ─▶ the real machine: proposer, barrier, consensus, peers
//!                       │
//!  every millisecond: one leader a term, one state a position, one entry an index
//!  at the end:        all agree, every log leads to that state, every watch saw all,
//!                     the history is linearizable
//! ```
//!
//! Two leaders may have the same number of a term, one after the other: a term's name is
//! its number and its leader. The log is the one in memory, behind a disk that loses
//! what was not synced; what becomes of files is proved elsewhere.
//!
//! The same seed gives the same run. `SIM_SEEDS=1000 cargo test --release --test
//! simulation` tries more of them, `SIM_SEED=17 cargo test --test simulation one_seed`
//! one again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a failure says how to repeat it")]

mod client;
mod dice;
#[path = "../linearizability/mod.rs"]
mod linearizability;
mod log;
mod machine;
mod world;

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use turmoil::{Builder, Sim};
use world::{HEALING, World};

/// For how long there are faults.
const TROUBLE: Duration = Duration::from_secs(12);

/// How many seeds are tried unless somebody wants more.
const SEEDS: u64 = 24;

/// A fault that lasts for a while.
#[derive(Clone, Debug)]
enum Fault {
    Crash(Vec<String>),
    Cut(String, String),
    CutOneWay(String, String),
    Isolate(String),
    SlowDisk(String),
    /// Nothing gets out of a machine or in, and its disk stands still. Then all of it
    /// comes at once.
    Pause(String),
    LoseMessages,
}

impl Fault {
    /// Whether it is on the links between machines.
    fn is_of_links(&self) -> bool {
        matches!(self, Self::Cut(..) | Self::CutOneWay(..) | Self::Isolate(_) | Self::Pause(_))
    }
}

struct Simulation {
    world: World,
    sim: Sim<'static>,
    names: Vec<String>,
    faults: Vec<(Duration, Fault)>,
    /// When the next fault comes.
    next: Duration,
    others: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, 2);
        let sim = Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_mins(10))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(8))
            .tcp_capacity(4096)
            .build();
        let names = Vec::new();
        let next = Duration::from_secs(1);
        let mut simulation = Self { world, sim, names, faults: Vec::new(), next, others: 0 };
        simulation.add("m1", &[]);
        simulation.add("m2", &["m1:7001"]);
        simulation.add("m3", &["m2:7001", "m1:7001"]);
        simulation
    }

    /// Adds a machine that joins through others.
    fn add(&mut self, name: &str, through: &[&str]) {
        let through: Vec<_> = through.iter().map(|&address| address.to_owned()).collect();
        let (world, owned) = (self.world.clone(), name.to_owned());
        self.sim.host(name, move || machine::run(world.clone(), owned.clone(), through.clone()));
        self.names.push(name.to_owned());
    }

    /// Runs with faults, then without, until all agree.
    fn run(mut self) -> Result<World, String> {
        while self.sim.elapsed() < TROUBLE {
            self.trouble();
            self.step()?;
        }
        self.heal();
        let healed = self.sim.elapsed();
        // Long enough for all that could expire to have expired.
        while self.sim.elapsed() < healed + Duration::from_secs(6) || !self.has_healed() {
            if self.sim.elapsed() > healed + Duration::from_secs(2) {
                self.world.quiet();
            }
            if self.sim.elapsed() > healed + HEALING {
                let up = self.world.machines_up();
                let states = up.iter().map(|(name, node, consensus)| {
                    format!("{name}: {:?} {:?}", node.now().applied, consensus.role())
                });
                return Err(format!("they do not agree: {:?}", states.collect::<Vec<_>>()));
            }
            self.step()?;
        }
        linearizability::check(&self.world.history())?;
        self.world.check_logs()?;
        self.world.check_that_nobody_keeps_a_state()?;
        Ok(self.world.clone())
    }

    fn has_healed(&self) -> bool {
        self.names.iter().filter(|name| !self.world.is_removed(name)).count()
            == self.world.machines_up().len()
            && self.world.has_converged()
            && self.world.watches_are_done()
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        self.world.check(self.sim.elapsed())
    }

    /// Ends the faults whose time is over, and begins another one when it is time.
    fn trouble(&mut self) {
        let now = self.sim.elapsed();
        let (over, faults) =
            std::mem::take(&mut self.faults).into_iter().partition(|(until, _)| *until <= now);
        self.faults = faults;
        let over: Vec<(Duration, Fault)> = over;
        for (_, fault) in over {
            self.end(&fault);
        }
        if now < self.next {
            return;
        }
        let dice = self.world.dice();
        self.next = now + dice.millis(200, 1500);
        if dice.one_in(8) {
            return self.change_members();
        }
        let fault = self.choose();
        let is_paused = |(_, fault): &(Duration, Fault)| matches!(fault, Fault::Pause(_));
        let has_links = self.faults.iter().any(|(_, fault)| fault.is_of_links());
        if (fault.is_of_links() && self.faults.iter().any(is_paused))
            || (matches!(fault, Fault::Pause(_)) && has_links)
        {
            // The simulated network cannot tell what was held back from what was cut.
            return;
        }
        self.world.note(format_args!("{fault:?}"));
        self.begin(&fault);
        self.faults.push((now + dice.millis(100, 3000), fault));
    }

    fn choose(&self) -> Fault {
        let dice = self.world.dice();
        let name = || dice.pick(&self.names).clone();
        match dice.below(14) {
            0..=3 => Fault::Crash(vec![name()]),
            4 => Fault::Crash(self.names.clone()),
            5 | 6 => Fault::Cut(name(), name()),
            7 => Fault::CutOneWay(name(), name()),
            8 | 9 => Fault::Isolate(name()),
            10 => Fault::SlowDisk(name()),
            11 | 12 => Fault::Pause(name()),
            _ => Fault::LoseMessages,
        }
    }

    fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::Crash(names) => {
                for name in names {
                    self.world.down(name);
                    self.sim.crash(&**name);
                }
            }
            Fault::Cut(from, to) if from != to => self.sim.partition(&**from, &**to),
            Fault::CutOneWay(from, to) if from != to => self.sim.partition_oneway(&**from, &**to),
            Fault::Cut(..) | Fault::CutOneWay(..) => {}
            Fault::Isolate(name) => {
                for other in self.names.iter().filter(|other| *other != name) {
                    self.sim.partition(&**name, &**other);
                }
            }
            Fault::SlowDisk(name) => self.world.stored(name).disk.lock().unwrap().slow = true,
            Fault::Pause(name) => {
                for other in self.names.iter().filter(|other| *other != name) {
                    self.sim.hold(&**name, &**other);
                }
                self.world.stored(name).disk.lock().unwrap().stands_still = true;
            }
            Fault::LoseMessages => self.sim.set_fail_rate(0.02),
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Crash(names) => {
                for name in names.iter().filter(|name| !self.world.is_removed(name)) {
                    if !self.sim.is_host_running(&**name) {
                        self.sim.bounce(&**name);
                    }
                }
            }
            Fault::Cut(from, to) if from != to => self.sim.repair(&**from, &**to),
            Fault::CutOneWay(from, to) if from != to => self.sim.repair_oneway(&**from, &**to),
            Fault::Cut(..) | Fault::CutOneWay(..) => {}
            Fault::Isolate(name) => {
                for other in self.names.iter().filter(|other| *other != name) {
                    self.sim.repair(&**name, &**other);
                }
            }
            Fault::SlowDisk(name) => self.world.stored(name).disk.lock().unwrap().slow = false,
            Fault::Pause(name) => {
                for other in self.names.iter().filter(|other| *other != name) {
                    self.sim.release(&**name, &**other);
                }
                self.world.stored(name).disk.lock().unwrap().stands_still = false;
            }
            Fault::LoseMessages => self.sim.set_fail_rate(0.0),
        }
    }

    /// Lets another machine join, or one leave.
    fn change_members(&mut self) {
        let there = self.names.iter().filter(|name| !self.world.is_removed(name)).count();
        if there < 5 && self.others < 3 {
            self.others += 1;
            let name = format!("x{}", self.others);
            self.world.note(format_args!("{name} wants to join"));
            return self.add(&name, &["m1:7001", "m2:7001", "m3:7001"]);
        }
        let name = self.names.last().cloned().unwrap_or_default();
        if there > 3 && name.starts_with('x') && !self.world.is_removed(&name) {
            self.world.note(format_args!("{name} is to leave"));
            self.world.wish_to_leave(&name);
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        for (_, fault) in std::mem::take(&mut self.faults) {
            self.end(&fault);
        }
        self.sim.set_fail_rate(0.0);
        let names = self.names.clone();
        for name in names.iter().filter(|name| !self.world.is_removed(name)) {
            if !self.sim.is_host_running(&**name) {
                self.sim.bounce(&**name);
            }
        }
        self.world.note(format_args!("all is well again"));
    }
}

/// Runs the simulation of a seed, and says how to repeat it if it fails.
fn simulate(seed: u64) -> World {
    let simulation = Simulation::new(seed);
    let world = simulation.world.clone();
    match simulation.run() {
        Ok(world) => world,
        Err(what) => {
            eprintln!("to repeat it: SIM_SEED={seed} cargo test --test simulation one_seed");
            world.trace().iter().for_each(|line| eprintln!("{line}"));
            panic!("seed {seed}: {what}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed, `SIM_SEED` if it is set, and tells all that happened.
#[test]
fn one_seed() {
    let world = simulate(number("SIM_SEED").unwrap_or(1));
    world.trace().iter().for_each(|line| eprintln!("{line}"));
    world.history().iter().for_each(|operation| eprintln!("{operation:?}"));
    let (operations, events, terms) = world.summary();
    eprintln!("summary: {operations} {events} {terms}");
    // A simulation in which nothing happens proves nothing.
    assert!(operations > 200 && events > 100, "{operations} operations, {events} events");
}

/// Runs a seed in a process of its own: what ran before in the same one would show in
/// the order of tasks.
fn in_a_process(seed: u64) -> Vec<String> {
    let this = std::env::current_exe().unwrap();
    let mut one = Command::new(this);
    let output = one.args(["one_seed", "--exact", "--nocapture"]).env("SIM_SEED", seed.to_string());
    let output = output.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "seed {seed} failed:\n{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn many_seeds() {
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(1);
    let terms = AtomicU64::new(0);
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return;
            }
            let told = in_a_process(seed);
            let summary = told.iter().find(|line| line.starts_with("summary: ")).unwrap();
            let led: u64 = summary.rsplit(' ').next().unwrap().parse().unwrap();
            terms.fetch_add(led, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(run)));
    });
    let terms = terms.into_inner();
    assert!(terms > 2 * seeds, "leaders changed {terms} times in {seeds} runs");
}

#[test]
fn same_seed_gives_the_same_run() {
    let (first, second) = (in_a_process(7), in_a_process(7));
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
