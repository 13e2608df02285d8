//! Who leads in a world, and by which vote.

use etcd::consensus::Role;
use etcd_log::Vote;

use super::{Besides, World};

impl World {
    /// How each machine that is up stands, as it thinks: by its own clock, for whoever
    /// drives the simulation has another one, which goes on while that waits for a core.
    pub(crate) fn roles(&self) -> Vec<(String, Role)> {
        let up = self.machines_up().into_iter();
        up.map(|(name, _, consensus)| {
            let runtime = self.lock().runtimes[&name].clone();
            let _its_clock = runtime.enter();
            (name, consensus.role())
        })
        .collect()
    }

    /// How all that are up stand, in a line.
    pub(crate) fn told_of_all(&self) -> String {
        let (up, roles) = (self.machines_up(), self.roles());
        let told = up.iter().zip(roles).map(|((name, node, consensus), (_, role))| {
            let (applied, voters) = (node.now().applied, consensus.membership().voters);
            format!("{name}: {role:?} {applied:?} {voters:?}")
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// The machine that leads, as it thinks.
    pub(crate) fn leader(&self) -> Option<String> {
        self.roles().into_iter().find(|(_, role)| *role == Role::Leader).map(|(name, _)| name)
    }

    /// The vote of the machine that leads, unless something is wrong besides that somebody
    /// lies.
    pub(crate) fn leads_in_peace(&self) -> Option<Vote> {
        let up = self.machines_up();
        let votes = up.iter().filter_map(|(.., consensus)| {
            Some(Vote { term: consensus.leads_in()?, node: consensus.me(), committed: true })
        });
        let newest = votes.max_by_key(|vote| (vote.term, vote.node));
        newest.filter(|_| self.lock().lied_to == Some(Besides::Nothing))
    }

    /// The vote by which a machine leads, if it does.
    pub(crate) fn vote_of(&self, name: &str) -> Option<Vote> {
        let up = self.machines_up();
        let (.., consensus) = up.iter().find(|(up, ..)| up == name)?;
        Some(Vote { term: consensus.leads_in()?, node: consensus.me(), committed: true })
    }

    /// The vote of the machine that is down, and that is spoken for.
    pub(crate) fn usurped(&self) -> Option<Vote> {
        match self.lock().lied_to {
            Some(Besides::Usurped(vote)) => Some(vote),
            Some(Besides::Nothing | Besides::Something) | None => None,
        }
    }
}
