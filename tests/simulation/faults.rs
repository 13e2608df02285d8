//! What goes wrong: faults that come and go, and those that stay for long.

use std::time::Duration;

use etcd_log::Vote;

use super::Simulation;
use super::links::Lost;
use super::world::Besides;

/// For how long most faults stay, in milliseconds.
const SHORT: (u64, u64) = (100, 3000);

/// For how long a lasting one does.
const LONG: (u64, u64) = (10_000, 30_000);

/// How long a sync takes at most on a disk that is slow, and on one that is slow for
/// long: then it is as good as none.
const SLOW: Duration = Duration::from_millis(400);
pub(crate) const VERY_SLOW: Duration = Duration::from_secs(3);

/// How many bytes a second go over a narrow link.
const NARROW: (u64, u64) = (1_000_000, 10_000_000);

const MINUTE: i64 = 60;
pub(crate) const YEAR: i64 = 365 * 24 * 60 * MINUTE;

/// A fault that lasts for a while.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash(Vec<String>),
    /// A machine stops, and starts again at another address.
    Move(String),
    Cut(String, String),
    CutOneWay(String, String),
    Isolate(String),
    /// Nothing gets out of a machine.
    IsNotHeard(String),
    /// Nothing gets into a machine.
    HearsNothing(String),
    /// Requests of a machine are lost, or answers to them, on connections that are there.
    Loses(Lost, String),
    /// All links carry so many bytes a second.
    NarrowLinks(u32),
    /// A sync takes up to so long.
    SlowDisk(String, Duration),
    DiskHangs(String),
    /// A wall clock is so many seconds ahead, or behind.
    ClockJumps(String, i64),
    /// Nothing gets out of a machine or in, and its disk stands still. Then all of it
    /// comes at once.
    Pause(String),
    LoseMessages,
    /// Somebody lies to all.
    Liar,
    /// The machine that leads by this vote stops, and somebody lies in its name alone.
    Usurped(String, Vote),
    /// A machine stops, its state loses a key, and it starts again.
    LosesKey(String),
    /// A second process of a machine starts on a copy of its disk, at another place.
    Twin(String),
}

impl Fault {
    /// Whether it is made by the simulated network on the links between machines.
    fn is_of_links(&self) -> bool {
        matches!(
            self,
            Self::Cut(..)
                | Self::CutOneWay(..)
                | Self::Isolate(_)
                | Self::IsNotHeard(_)
                | Self::HearsNothing(_)
                | Self::Pause(_)
        )
    }

    /// Whether it keeps what one machine says from another.
    pub(crate) fn blocks(&self, from: &str, to: &str) -> bool {
        match self {
            Self::Cut(one, other) => (one == from && other == to) || (one == to && other == from),
            Self::CutOneWay(one, other) => one == from && other == to,
            Self::Isolate(name) | Self::Pause(name) | Self::Loses(_, name) => {
                name == from || name == to
            }
            Self::IsNotHeard(name) => name == from,
            Self::HearsNothing(name) => name == to,
            Self::LoseMessages => true,
            Self::Crash(_)
            | Self::Move(_)
            | Self::NarrowLinks(_)
            | Self::SlowDisk(..)
            | Self::DiskHangs(_)
            | Self::ClockJumps(..)
            | Self::Liar
            | Self::Usurped(..)
            | Self::LosesKey(_)
            | Self::Twin(_) => false,
        }
    }

    /// Whether a machine does not work for it.
    pub(crate) fn stops(&self, machine: &str) -> bool {
        match self {
            Self::SlowDisk(name, _)
            | Self::DiskHangs(name)
            | Self::Pause(name)
            | Self::Twin(name) => name == machine,
            _ => false,
        }
    }
}

impl Simulation {
    /// Ends the faults whose time is over, and begins another one when it is time.
    pub(crate) fn trouble(&mut self) {
        let now = self.sim.elapsed();
        let (over, faults): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults).into_iter().partition(|(until, _)| *until <= now);
        self.faults = faults;
        for (_, fault) in over {
            self.end(&fault);
        }
        let dice = self.world.dice();
        if self.lasting_from.is_some_and(|from| from <= now) {
            let fault = self.choose_lasting();
            if self.may_begin(&fault) {
                self.lasting_from = None;
                let (least, most) = LONG;
                let until = now + dice.millis(least, most);
                self.trouble_until = until.max(self.trouble_until);
                self.next = until;
                self.begin(fault, until);
            }
        } else if self.next <= now {
            self.next = now + dice.millis(200, 1500);
            if dice.one_in(6) {
                return self.change_members();
            }
            let fault = self.choose();
            let (least, most) = SHORT;
            let until = now + dice.millis(least, most);
            if self.may_begin(&fault) {
                self.begin(fault, until);
            }
        }
    }

    /// The simulated network cannot tell what was held back from what was cut.
    fn may_begin(&self, fault: &Fault) -> bool {
        let mut links = self.faults.iter().filter(|(_, fault)| fault.is_of_links());
        if self.twins.iter().any(|twin| twin.runs) {
            return false;
        }
        match fault {
            // Whoever goes on from an older copy than what it has said to others has lost
            // what it has said. So the machine has to be there as long as its twin is.
            Fault::Twin(name) => self.faults.is_empty() && self.world.is_ready(name),
            Fault::Pause(_) => links.next().is_none(),
            fault if fault.is_of_links() => {
                !links.any(|(_, other)| matches!(other, Fault::Pause(_)))
            }
            _ => true,
        }
    }

    fn choose(&self) -> Fault {
        let dice = self.world.dice();
        let name = || dice.pick(&self.names).clone();
        match dice.below(19) {
            0..=3 => Fault::Crash(vec![name()]),
            4 => Fault::Crash(self.names.clone()),
            5 | 6 => Fault::Cut(name(), name()),
            7 => Fault::CutOneWay(name(), name()),
            8 | 9 => Fault::Isolate(name()),
            10 => Fault::SlowDisk(name(), SLOW),
            11 | 12 => Fault::Pause(name()),
            13 => Fault::Move(name()),
            14 => {
                let by = *dice.pick(&[MINUTE, 5 * MINUTE, YEAR]);
                Fault::ClockJumps(name(), if dice.one_in(2) { by } else { -by })
            }
            15 => Fault::Liar,
            17 => Fault::Twin(name()),
            16 if self.world.may_lose_one() => Fault::LosesKey(name()),
            _ => Fault::LoseMessages,
        }
    }

    /// A fault that a majority has to live with for long: often of the machine that leads.
    fn choose_lasting(&self) -> Fault {
        let dice = self.world.dice();
        let there: Vec<_> = self.there().cloned().collect();
        let leader = self.world.leader().filter(|_| dice.one_in(2));
        let name = leader.unwrap_or_else(|| dice.pick(&there).clone());
        match dice.below(11) {
            0 => Fault::DiskHangs(name),
            1 => Fault::SlowDisk(name, VERY_SLOW),
            2 => {
                let others: Vec<_> = there.into_iter().filter(|other| *other != name).collect();
                Fault::CutOneWay(name, dice.pick(&others).clone())
            }
            3 => Fault::IsNotHeard(name),
            4 => Fault::HearsNothing(name),
            5 => Fault::Loses(Lost::Answers, name),
            6 => Fault::Loses(Lost::Requests, name),
            7 => Fault::Liar,
            8 => match self.world.vote_of(&name) {
                Some(vote) => Fault::Usurped(name, vote),
                None => Fault::Liar,
            },
            _ => {
                let (least, most) = NARROW;
                let bandwidth = least + dice.number() % (most - least);
                Fault::NarrowLinks(u32::try_from(bandwidth).unwrap())
            }
        }
    }

    /// Begins a fault, unless it is none: a machine that is gone has no more.
    pub(crate) fn begin(&mut self, fault: Fault, until: Duration) {
        let fault = match fault {
            Fault::Move(name) if !self.world.all_know_where_all_are(&self.names) => {
                Fault::Crash(vec![name])
            }
            fault => fault,
        };
        let time = until.saturating_sub(self.sim.elapsed());
        self.world.note(format_args!("{fault:?} for {time:?}"));
        self.world.probes().disturbed();
        self.world.set_long(time > Duration::from_millis(SHORT.1));
        match &fault {
            Fault::Crash(names) => names.iter().for_each(|name| self.crash(name)),
            Fault::Move(name) | Fault::Usurped(name, _) => self.crash(name),
            Fault::LosesKey(name) => self.lose_key(name),
            Fault::Twin(name) => self.start_twin(name),
            fault => self.apply(fault),
        }
        self.faults.push((until, fault));
        self.tell_liar();
    }

    /// Stops a machine, and takes a key out of its state, if it has one.
    fn lose_key(&mut self, name: &str) {
        self.crash(name);
        if let Some(key) = self.world.stored(name).lose_key(&self.world.dice()) {
            self.world.note(format_args!("{name} has lost {key}"));
            self.world.lost_a_key(name);
        }
    }

    /// Tells the liar whether to lie.
    fn tell_liar(&self) {
        let lies =
            |(_, fault): &(Duration, Fault)| matches!(fault, Fault::Liar | Fault::Usurped(..));
        let usurped = self.faults.iter().find_map(|(_, fault)| match fault {
            Fault::Usurped(_, vote) => Some(Besides::Usurped(*vote)),
            _ => None,
        });
        let besides = usurped.unwrap_or_else(|| {
            if self.faults.iter().all(lies) { Besides::Nothing } else { Besides::Something }
        });
        self.world.set_lied_to(self.faults.iter().any(lies).then_some(besides));
    }

    /// Stops a machine at once: what it has not synced is lost.
    pub(crate) fn crash(&mut self, name: &str) {
        if !self.world.is_gone(name) {
            self.world.down(name);
            self.sim.crash(name);
        }
    }

    /// Makes a fault felt. Once more does nothing.
    pub(crate) fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::LoseMessages => self.sim.set_fail_rate(0.02),
            Fault::NarrowLinks(bandwidth) => self.world.links().set_bandwidth(Some(*bandwidth)),
            Fault::Loses(lost, name) => self.world.links().lose(*lost, name),
            Fault::SlowDisk(name, most) => self.world.stored(name).disk().slowest = *most,
            Fault::DiskHangs(name) => self.world.stored(name).disk().stands_still = true,
            Fault::ClockJumps(name, seconds) => self.world.stored(name).jump(*seconds),
            Fault::Pause(name) => {
                self.to_others(name, |sim, name, other| sim.hold(name, other));
                self.world.stored(name).disk().stands_still = true;
            }
            Fault::Cut(from, to) if from != to => self.sim.partition(&**from, &**to),
            Fault::CutOneWay(from, to) if from != to => self.sim.partition_oneway(&**from, &**to),
            Fault::Crash(_)
            | Fault::Move(_)
            | Fault::Cut(..)
            | Fault::CutOneWay(..)
            | Fault::Liar
            | Fault::Usurped(..)
            | Fault::LosesKey(_)
            | Fault::Twin(_) => {}
            Fault::Isolate(name) => {
                self.to_others(name, |sim, name, other| sim.partition(name, other));
            }
            Fault::IsNotHeard(name) => {
                self.to_others(name, |sim, name, other| sim.partition_oneway(name, other));
            }
            Fault::HearsNothing(name) => {
                self.to_others(name, |sim, name, other| sim.partition_oneway(other, name));
            }
        }
    }

    /// Ends a fault. Another one on the same link or disk stays.
    pub(crate) fn end(&mut self, fault: &Fault) {
        self.world.probes().disturbed();
        match fault {
            Fault::Crash(names) => names.iter().for_each(|name| self.restart(name)),
            Fault::Move(name) => {
                self.world.stored(name).move_away();
                self.restart(name);
            }
            Fault::LosesKey(name) | Fault::Usurped(name, _) => self.restart(name),
            Fault::Twin(name) => self.stop_twin(name),
            Fault::LoseMessages => self.sim.set_fail_rate(0.0),
            Fault::NarrowLinks(_) => self.world.links().set_bandwidth(None),
            Fault::Loses(lost, name) => self.world.links().lose_no_longer(*lost, name),
            Fault::SlowDisk(name, _) => self.world.stored(name).disk().slowest = super::log::FAST,
            Fault::DiskHangs(name) => self.world.stored(name).disk().stands_still = false,
            Fault::ClockJumps(name, _) => self.world.stored(name).jump(0),
            Fault::Pause(name) => {
                self.to_others(name, |sim, name, other| sim.release(name, other));
                self.world.stored(name).disk().stands_still = false;
            }
            Fault::Cut(from, to) if from != to => self.sim.repair(&**from, &**to),
            Fault::CutOneWay(from, to) if from != to => self.sim.repair_oneway(&**from, &**to),
            Fault::Cut(..) | Fault::CutOneWay(..) | Fault::Liar => {}
            Fault::Isolate(name) => {
                self.to_others(name, |sim, name, other| sim.repair(name, other));
            }
            Fault::IsNotHeard(name) => {
                self.to_others(name, |sim, name, other| sim.repair_oneway(name, other));
            }
            Fault::HearsNothing(name) => {
                self.to_others(name, |sim, name, other| sim.repair_oneway(other, name));
            }
        }
        for (_, other) in self.faults.clone() {
            self.apply(&other);
        }
        self.tell_liar();
    }

    fn to_others(&self, name: &str, each: impl Fn(&turmoil::Sim<'_>, &str, &str)) {
        let twins = self.twins.iter().map(|twin| &twin.place);
        for other in self.names.iter().chain(twins).filter(|other| *other != name) {
            each(&self.sim, name, other);
        }
    }

    /// Starts a machine again, unless it runs, or is gone for good.
    pub(crate) fn restart(&mut self, name: &str) {
        if !self.world.is_gone(name) && !self.sim.is_host_running(name) {
            self.sim.bounce(name);
        }
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        for (_, fault) in std::mem::take(&mut self.faults) {
            self.end(&fault);
        }
        for name in self.names.clone() {
            self.restart(&name);
        }
        self.world.set_long(false);
        self.world.note(format_args!("all is well again"));
    }
}
