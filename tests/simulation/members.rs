//! Machines that join, leave, and die.

use super::{Simulation, machine};

/// How many machines there are at most at a time, and how many come later.
const MOST: usize = 5;
const MOST_OTHERS: u32 = 4;

impl Simulation {
    /// The machines that neither have left nor are dead.
    pub(crate) fn there(&self) -> impl Iterator<Item = &String> {
        self.names.iter().filter(|name| !self.world.is_gone(name))
    }

    /// Adds a machine that joins through others.
    pub(crate) fn add(&mut self, name: &str, through: Vec<String>) {
        let (world, owned) = (self.world.clone(), name.to_owned());
        self.sim.host(name, move || machine::run(world.clone(), owned.clone(), through.clone()));
        self.names.push(name.to_owned());
        self.world.probes().disturbed();
    }

    /// Lets another machine join.
    pub(crate) fn join_another(&mut self) {
        self.others += 1;
        let name = format!("x{}", self.others);
        self.world.note(format_args!("{name} wants to join"));
        let through = self.there().map(|name| self.world.stored(name).address(name)).collect();
        self.add(&name, through);
    }

    /// Stops a machine for good. Another one is to take its place.
    pub(crate) fn kill(&mut self, name: &str) {
        self.world.note(format_args!("{name} dies"));
        self.crash(name);
        self.world.kill(name);
        self.world.wish_to_leave(name);
        self.join_another();
    }

    /// Lets another machine take the place of one that has stopped for good by itself.
    pub(crate) fn replace_who_stopped(&mut self) {
        if let Some(name) = self.world.take_stopped() {
            self.sim.crash(&*name);
            self.world.probes().disturbed();
            self.join_another();
        }
    }

    /// Lets another machine join, or one leave, or one die while another takes its place.
    pub(crate) fn change_members(&mut self) {
        if self.world.somebody_has_lost_a_key() {
            // It may lead, and whoever joins would get its state.
            return;
        }
        let dice = self.world.dice();
        let there: Vec<_> = self.there().cloned().collect();
        let may_join = self.others < MOST_OTHERS && there.len() < MOST;
        if dice.one_in(3) && may_join && self.world.may_lose_one() {
            return self.kill(&dice.pick(&there).clone());
        }
        if may_join && (there.len() == 3 || dice.one_in(2)) {
            return self.join_another();
        }
        if there.len() > 3 && !self.world.somebody_is_dead() {
            let leader = self.world.leader().filter(|_| dice.one_in(2));
            let founder = there.first().filter(|_| dice.one_in(2)).cloned();
            let name = leader.or(founder).unwrap_or_else(|| dice.pick(&there).clone());
            self.world.note(format_args!("{name} is to leave"));
            self.world.wish_to_leave(&name);
        }
    }
}
