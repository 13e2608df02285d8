//! One kind of trouble each, at a chosen place and for long: a test that fails names it.

use std::time::Duration;

use super::faults::{Fault, VERY_SLOW, YEAR};
use super::links::Lost;
use super::{Simulation, alone, told};

/// For how long a fault stays.
const LONG: Duration = Duration::from_secs(20);

/// A key that expires later than any test ends.
const KEPT: &str = "/kept";

/// One megabyte a second: the narrowest link that a healthy majority may have.
const NARROWEST: u32 = 1_000_000;

impl Simulation {
    /// Three machines that have a vote and take writes, and no trouble.
    fn at_rest() -> Self {
        let mut simulation = Self::new(1);
        simulation.lasting_from = None;
        simulation.run_until("all have a vote", Simulation::is_at_rest);
        simulation
    }

    /// The same, with a key that expires later than the test ends.
    fn with_a_key_for_ten_minutes() -> Self {
        let mut simulation = Self::at_rest();
        simulation.world.wish_to_keep(KEPT);
        simulation.run_until("it is set", |this| this.world.all_have(KEPT));
        simulation
    }

    /// Runs with a fault for a while.
    fn for_a_moment(&mut self, fault: Fault, time: Duration) {
        let until = self.sim.elapsed() + time;
        self.begin(fault, until);
        self.run_for(time);
        let (_, fault) = self.faults.pop().unwrap();
        self.end(&fault);
    }

    /// Whether all are ready, each has the vote that it is to have, and one leads: who has
    /// just got new voters has not heard of them yet.
    fn is_at_rest(&self) -> bool {
        let there = self.there().count();
        let patients = self.world.patients();
        there == patients.len()
            && self.world.leader().is_some()
            && patients.iter().all(|one| matches!(&*one.voters, [voters] if voters.len() == there))
            && patients.iter().all(|one| self.world.probes().has_acknowledged(&one.name))
    }

    fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = self.sim.elapsed();
        while !is_so(self) {
            self.must(|this| {
                let is_late = this.sim.elapsed() > begun + LONG;
                let never = || format!("never: {what}; {}", this.world.told_of_all());
                if is_late { Err(never()) } else { this.step() }
            });
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.must(Self::step);
        }
    }

    fn must(&mut self, run: impl FnOnce(&mut Self) -> Result<(), String>) {
        let world = self.world.clone();
        run(self).unwrap_or_else(|what| panic!("{}{what}", told(&world)));
    }

    /// Who leads, and another one.
    fn leader_and_follower(&self) -> (String, String) {
        let leader = self.world.leader().unwrap();
        let follower = self.there().find(|name| **name != leader).unwrap().clone();
        (leader, follower)
    }

    /// Ends with all faults over, and everybody agreeing.
    fn must_finish(self) {
        let world = self.world.clone();
        if let Err(what) = self.finish() {
            panic!("{}{what}", told(&world));
        }
    }
}

/// Runs with a fault for long, and then without.
fn endure(test: &str, fault: impl FnOnce(String, String) -> Fault) {
    alone(&format!("directed::{test}"), || {
        let mut simulation = Simulation::at_rest();
        let (leader, follower) = simulation.leader_and_follower();
        let until = simulation.sim.elapsed() + LONG;
        simulation.begin(fault(leader, follower), until);
        simulation.run_for(LONG);
        let large = simulation.world.probes().large();
        let is_narrow = simulation.world.links().bandwidth().is_some();
        assert_eq!(large > 0, is_narrow, "{large} large values were written");
        simulation.must_finish();
    });
}

#[test]
fn leaders_disk_hangs() {
    endure("leaders_disk_hangs", |leader, _| Fault::DiskHangs(leader));
}

#[test]
fn followers_disk_hangs() {
    endure("followers_disk_hangs", |_, follower| Fault::DiskHangs(follower));
}

#[test]
fn leaders_disk_is_slow() {
    endure("leaders_disk_is_slow", |leader, _| Fault::SlowDisk(leader, VERY_SLOW));
}

#[test]
fn one_way_link() {
    endure("one_way_link", Fault::CutOneWay);
}

#[test]
fn one_way_link_to_the_leader() {
    endure("one_way_link_to_the_leader", |leader, other| Fault::CutOneWay(other, leader));
}

#[test]
fn leader_is_not_heard() {
    endure("leader_is_not_heard", |leader, _| Fault::IsNotHeard(leader));
}

#[test]
fn leader_hears_nothing() {
    endure("leader_hears_nothing", |leader, _| Fault::HearsNothing(leader));
}

#[test]
fn answers_to_leader_are_lost() {
    endure("answers_to_leader_are_lost", |leader, _| Fault::Loses(Lost::Answers, leader));
}

#[test]
fn questions_of_leader_are_lost() {
    endure("questions_of_leader_are_lost", |leader, _| Fault::Loses(Lost::Requests, leader));
}

#[test]
fn slow_links_with_large_values() {
    endure("slow_links_with_large_values", |_, _| Fault::NarrowLinks(5 * NARROWEST));
}

#[test]
fn slowest_links_with_large_values() {
    endure("slowest_links_with_large_values", |_, _| Fault::NarrowLinks(NARROWEST));
}

#[test]
fn leaders_clock_jumps_a_year_ahead() {
    alone("directed::leaders_clock_jumps_a_year_ahead", || {
        let mut simulation = Simulation::with_a_key_for_ten_minutes();
        let (leader, _) = simulation.leader_and_follower();
        let until = simulation.sim.elapsed() + LONG;
        simulation.begin(Fault::ClockJumps(leader, YEAR), until);
        simulation.run_for(LONG);
        let world = simulation.world.clone();
        simulation.must_finish();
        assert!(world.all_have(KEPT), "{}it is gone", told(&world));
    });
}

/// A machine that starts has nothing to judge its clock by; the others have.
#[test]
fn leader_starts_with_its_clock_a_year_ahead() {
    alone("directed::leader_starts_with_its_clock_a_year_ahead", || {
        let mut simulation = Simulation::with_a_key_for_ten_minutes();
        let (ahead, _) = simulation.leader_and_follower();
        let forever = simulation.sim.elapsed() + 10 * LONG;
        simulation.begin(Fault::ClockJumps(ahead.clone(), YEAR), forever);
        let begins_to_lead = format!("{ahead} begins to lead");
        let times = |this: &Simulation| told(&this.world).matches(&begins_to_lead).count();
        let before = times(&simulation);
        for _ in 0..10 {
            simulation.for_a_moment(Fault::Crash(simulation.names.clone()), Duration::ZERO);
            simulation.run_until("somebody leads", |this| this.world.leader().is_some());
            simulation.run_for(LONG / 10);
            if times(&simulation) > before {
                break;
            }
        }
        assert!(times(&simulation) > before, "{ahead} has never led since");
        simulation.run_for(LONG / 4);
        let world = simulation.world.clone();
        assert!(world.all_have(KEPT), "{}it is gone", told(&world));
        simulation.must_finish();
        assert!(world.all_have(KEPT), "{}it is gone", told(&world));
    });
}

/// All have crashed, and the one whose disk is slow is the first to come back.
#[test]
fn machine_with_a_slow_disk_comes_back_first() {
    alone("directed::machine_with_a_slow_disk_comes_back_first", || {
        let mut simulation = Simulation::at_rest();
        let (leader, slow) = simulation.leader_and_follower();
        for (first, second) in [(100, 100), (800, 10), (1500, 600)] {
            for name in simulation.names.clone() {
                simulation.crash(&name);
            }
            let until = simulation.sim.elapsed() + LONG;
            simulation.begin(Fault::SlowDisk(slow.clone(), VERY_SLOW), until);
            for (name, alone) in [(&slow, first), (&leader, second)] {
                simulation.restart(name);
                simulation.run_for(Duration::from_millis(alone));
            }
            for name in simulation.names.clone() {
                simulation.restart(&name);
            }
            simulation.run_for(LONG / 2);
            let (_, fault) = simulation.faults.pop().unwrap();
            simulation.end(&fault);
            simulation.run_until("all is well again", Simulation::is_at_rest);
        }
        simulation.must_finish();
    });
}

/// A candidate whose disk takes seconds for its own vote stands once. Each further try would
/// wait behind that vote, and depose whoever leads by then: here, itself.
#[test]
fn vote_that_takes_long_is_stood_for_once() {
    alone("directed::vote_that_takes_long_is_stood_for_once", || {
        let mut simulation = Simulation::at_rest();
        let (slow, other) = simulation.leader_and_follower();
        let before = simulation.world.vote_of(&slow).unwrap().term;
        // Nobody has more than it has on its disk.
        simulation.for_a_moment(Fault::Isolate(slow.clone()), LONG / 400);
        for name in simulation.names.clone() {
            simulation.crash(&name);
        }
        // It answers, and never asks: so nobody but the slow one stands.
        let until = simulation.sim.elapsed() + LONG;
        simulation.begin(Fault::Loses(Lost::Requests, other.clone()), until);
        simulation.restart(&other);
        simulation.begin(Fault::DiskHangs(slow.clone()), until);
        simulation.restart(&slow);
        // Longer than a few elections take, and not as long as it counts on others.
        simulation.run_for(Duration::from_millis(3300));
        assert_eq!(simulation.world.leader(), None, "nobody can have elected it");
        let (_, hang) = simulation.faults.pop().unwrap();
        simulation.end(&hang);
        simulation.run_until("it leads", |this| this.world.leader().as_ref() == Some(&slow));
        simulation.run_for(LONG / 10);
        let vote = simulation.world.vote_of(&slow).expect("it leads still");
        assert_eq!(vote.term, before.next(), "it stood once");
        simulation.must_finish();
    });
}

/// A machine says where it is by now while it is being removed, and the leader changes.
#[test]
fn move_races_with_a_removal() {
    alone("directed::move_races_with_a_removal", || {
        let mut simulation = Simulation::at_rest();
        for round in 0..4 {
            simulation.join_another();
            simulation.run_until("one has joined", Simulation::is_at_rest);
            let (leader, follower) = simulation.leader_and_follower();
            simulation.world.wish_to_leave(&follower);
            simulation
                .for_a_moment(Fault::Move(follower.clone()), Duration::from_millis(5 * round));
            if round % 2 == 1 {
                simulation.run_for(Duration::from_millis(round));
                simulation.for_a_moment(Fault::Isolate(leader), LONG / 10);
            }
            while !simulation.world.is_gone(&follower) {
                simulation.world.wish_to_leave(&follower);
                simulation.run_for(Duration::from_millis(500));
            }
            simulation.run_until("all know it", |this| !this.world.is_listed(&follower));
            simulation.run_for(LONG / 10);
            assert!(!simulation.world.is_listed(&follower), "{follower} is back");
        }
        simulation.must_finish();
    });
}

#[test]
fn leaders_clock_jumps_a_year_back() {
    endure("leaders_clock_jumps_a_year_back", |leader, _| Fault::ClockJumps(leader, -YEAR));
}

#[test]
fn founder_and_leader_are_removed() {
    alone("directed::founder_and_leader_are_removed", || {
        let mut simulation = Simulation::at_rest();
        simulation.join_another();
        simulation.join_another();
        simulation.run_until("two have joined", Simulation::is_at_rest);
        for _ in 0..2 {
            // The first machine that leads has founded the cluster.
            let (leader, _) = simulation.leader_and_follower();
            simulation.world.wish_to_leave(&leader);
            simulation.run_until("it is removed", |this| this.world.is_gone(&leader));
            simulation.run_until("another one leads", Simulation::is_at_rest);
        }
        assert!(simulation.world.is_gone("m1"), "the founder has led first");
        simulation.run_for(LONG / 4);
        simulation.must_finish();
    });
}

#[test]
fn machines_die_while_others_join() {
    alone("directed::machines_die_while_others_join", || {
        let mut simulation = Simulation::at_rest();
        for _ in 0..2 {
            let (leader, _) = simulation.leader_and_follower();
            simulation.kill(&leader);
            simulation.run_until("its place is taken", |this| {
                this.is_at_rest() && !this.world.somebody_is_dead()
            });
        }
        simulation.run_for(LONG / 4);
        simulation.must_finish();
    });
}

#[test]
fn machines_move() {
    alone("directed::machines_move", || {
        let mut simulation = Simulation::at_rest();
        for name in simulation.names.clone() {
            simulation.crash(&name);
            simulation.end(&Fault::Move(name));
            simulation.run_until("all know where it is", |this| {
                this.world.all_know_where_all_are(&this.names)
            });
        }
        simulation.must_finish();
    });
}

#[test]
fn lies_are_not_believed() {
    alone("directed::lies_are_not_believed", || {
        let mut simulation = Simulation::at_rest();
        let leader = simulation.world.leader();
        let until = simulation.sim.elapsed() + LONG;
        simulation.begin(Fault::Liar, until);
        simulation.run_for(LONG);
        assert!(simulation.world.lies() > 200, "{} lies", simulation.world.lies());
        assert_eq!(simulation.world.leader(), leader, "nobody has to give way");
        simulation.must_finish();
    });
}

/// Whoever lies in the name of a leader that is gone is not heard as that leader.
#[test]
fn lies_in_the_name_of_a_leader_that_is_gone_hold_off_no_election() {
    alone("directed::lies_in_the_name_of_a_leader_that_is_gone_hold_off_no_election", || {
        let mut simulation = Simulation::at_rest();
        let (leader, _) = simulation.leader_and_follower();
        let vote = simulation.world.vote_of(&leader).unwrap();
        let until = simulation.sim.elapsed() + LONG;
        simulation.begin(Fault::Usurped(leader, vote), until);
        simulation.run_for(LONG);
        assert!(simulation.world.lies() > 200, "{} lies", simulation.world.lies());
        simulation.must_finish();
    });
}

/// Takes a key out of the state of a machine, which stops; the others go on.
fn lose_a_key(test: &str, whose: impl FnOnce(String, String) -> String) {
    alone(&format!("directed::{test}"), || {
        let mut simulation = Simulation::at_rest();
        let (leader, follower) = simulation.leader_and_follower();
        let name = whose(leader, follower);
        simulation.run_until("there is a checkpoint with a key", |this| {
            this.world.stored(&name).has_checkpoint()
        });
        simulation.for_a_moment(Fault::LosesKey(name.clone()), Duration::ZERO);
        assert!(simulation.world.has_lost_a_key(&name));
        simulation.run_until("it stops", |this| this.world.is_gone(&name));
        simulation.run_until("its place is taken", Simulation::is_at_rest);
        simulation.must_finish();
    });
}

#[test]
fn follower_loses_a_key() {
    lose_a_key("follower_loses_a_key", |_, follower| follower);
}

#[test]
fn leader_loses_a_key() {
    lose_a_key("leader_loses_a_key", |leader, _| leader);
}

#[test]
fn copy_of_a_machine_that_runs_stops() {
    alone("directed::copy_of_a_machine_that_runs_stops", || {
        let mut simulation = Simulation::at_rest();
        let (leader, follower) = simulation.leader_and_follower();
        for (number, name) in [leader, follower].into_iter().enumerate() {
            let stops = format!("twin{number} does not start: this machine runs at {name}:7001");
            simulation.for_a_moment(Fault::Twin(name), LONG / 10);
            let told = told(&simulation.world);
            assert!(told.contains(&stops), "{told}");
        }
        simulation.must_finish();
    });
}

#[test]
fn copy_that_does_not_reach_the_machine_stops() {
    alone("directed::copy_that_does_not_reach_the_machine_stops", || {
        let mut simulation = Simulation::at_rest();
        let (_, follower) = simulation.leader_and_follower();
        let until = simulation.sim.elapsed() + 3 * LONG;
        // The leader reaches both, and neither the other.
        simulation.begin(Fault::Twin(follower.clone()), until);
        simulation.begin(Fault::Cut(follower.clone(), "twin0".to_owned()), until);
        let stops = format!("twin0 finds {follower} at {follower}:7001, and stops");
        simulation.run_until("it stops", move |this| told(&this.world).contains(&stops));
        simulation.run_for(LONG / 4);
        simulation.must_finish();
    });
}

#[test]
fn machine_that_is_announced_elsewhere_stops() {
    alone("directed::machine_that_is_announced_elsewhere_stops", || {
        let mut simulation = Simulation::at_rest();
        let (_, follower) = simulation.leader_and_follower();
        let until = simulation.sim.elapsed() + 3 * LONG;
        simulation.begin(Fault::Pause(follower.clone()), until);
        simulation.begin(Fault::Twin(follower.clone()), until);
        let has = |what: &str| {
            let what = what.to_owned();
            move |this: &Simulation| told(&this.world).contains(&what)
        };
        let taken = format!("twin0 has taken the place of {follower}");
        simulation.run_until("its copy is announced", has(&taken));
        let (_, pause) = simulation.faults.remove(0);
        simulation.end(&pause);
        let stops = format!("{follower} is announced at twin0:7001, and stops");
        simulation.run_until("it stops", has(&stops));
        simulation.run_for(LONG / 4);
        simulation.must_finish();
    });
}
