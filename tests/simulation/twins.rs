//! Twins: a machine, and a second process of it on a copy of what it has.
//!
//! ```text
//! m2 runs    ─▶ its twin finds it, and stops
//! m2 pauses  ─▶ its twin takes its place ─▶ m2 goes on, finds that, and stops ─▶ later it
//!               goes on from what its twin has
//! ```

use std::sync::Arc;

use super::Simulation;
use super::machine::{self, Stored};

/// A second process of a machine.
pub(crate) struct Twin {
    of: String,
    /// The name of the place where it runs.
    pub(crate) place: String,
    stored: Arc<Stored>,
    /// Whether it may still run.
    pub(crate) runs: bool,
}

impl Simulation {
    /// Starts a second process of a machine, if what that has can be copied.
    pub(crate) fn start_twin(&mut self, name: &str) {
        let Some(stored) = self.world.stored(name).copy().map(Arc::new) else { return };
        let place = format!("twin{}", self.twins.len());
        let (world, of) = (self.world.clone(), name.to_owned());
        let twin = Twin { of, place, stored, runs: true };
        let (of, place, stored) = (twin.of.clone(), twin.place.clone(), Arc::clone(&twin.stored));
        self.sim.host(&*twin.place, move || {
            machine::run_twin(world.clone(), of.clone(), place.clone(), Arc::clone(&stored))
        });
        self.twins.push(twin);
        for (_, fault) in self.faults.clone() {
            self.apply(&fault);
        }
    }

    /// Stops it. If it has taken the place of the machine, that goes on from there.
    pub(crate) fn stop_twin(&mut self, name: &str) {
        let running = self.twins.iter_mut().find(|twin| twin.runs && twin.of == name);
        let Some(twin) = running else { return };
        twin.runs = false;
        let (place, stored) = (twin.place.clone(), Arc::clone(&twin.stored));
        self.sim.crash(&*place);
        if self.world.goes_on_from(name, &stored) {
            stored.disk().lose_tail(&self.world.dice());
            self.restart(name);
        }
    }
}
