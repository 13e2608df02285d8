//! What must hold in a world: at every moment, and at its end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Batch, Command, LogFormat};
use etcd_projections::{Position, State};

use super::super::real_log::RealDisk;
use super::{NOTICED, SETTLING, World};

/// Whether a batch says what the format in force cannot, but for what raises that.
fn says_too_much(batch: &Batch, in_force: LogFormat) -> bool {
    let mut commands = batch.commands.iter();
    commands.any(|command| {
        !matches!(command, Command::Sync { .. } | Command::Upgrade { .. })
            && command.format() > in_force
    })
}

impl World {
    /// Checks what must hold at every moment.
    pub(crate) fn check(&self, elapsed: Duration) -> Result<(), String> {
        self.lock().elapsed = elapsed;
        self.probes.set_elapsed(elapsed);
        for (name, node, consensus) in self.machines_up() {
            let published = node.now();
            self.check_format(&name, &published.state)?;
            let Position { index, event, time } = published.state.position();
            let mut inner = self.lock();
            if let Some(term) = consensus.leads_in() {
                let vote = (term.0, consensus.me().0);
                let overruled = inner.leaders.range((Bound::Excluded(vote), Bound::Unbounded));
                let first = overruled.map(|(_, (_, since))| *since).min();
                if !inner.leaders.contains_key(&vote)
                    && first.is_some_and(|first| first + SETTLING < elapsed)
                {
                    return Err(format!("{name} begins to lead in {term}, which is over"));
                }
                if let Entry::Vacant(new) = inner.leaders.entry(vote) {
                    new.insert((name.clone(), elapsed));
                    inner.trace.push(format!("{} {name} begins to lead", elapsed.as_millis()));
                }
            }
            if let Some(applied) = published.applied {
                let known = *inner.applied.entry(applied.index).or_insert(applied);
                if known != applied {
                    return Err(format!("{name} has applied {applied}, another one {known}"));
                }
            }
            let digest = published.state.digest();
            if let Some((lost, since)) = &inner.lost_a_key
                && *lost == name
            {
                let is_late = index.0 > since + NOTICED;
                let known = inner.digests.get(&(index.0, event.0, time.0));
                if is_late && known == Some(&digest) {
                    // It has come by the checkpoint of another machine, and is whole again.
                    inner.was_wrong.insert(name.clone());
                    inner.lost_a_key = None;
                } else if is_late && known.is_some() {
                    return Err(format!(
                        "{name} has lost a key before #{since}, and is at {index}"
                    ));
                }
                continue;
            }
            let known = *inner.digests.entry((index.0, event.0, time.0)).or_insert(digest);
            if known != digest {
                return Err(format!("{name} has digest {digest} at {index}, another one {known}"));
            }
        }
        self.lock().violation.clone().map_or(Ok(()), Err)
    }

    /// Checks that no later format is in force than all members read.
    fn check_format(&self, name: &str, state: &State) -> Result<(), String> {
        let mut members = state.machines().iter();
        match members.find(|member| self.stored(&member.name).reads() < state.format()) {
            Some(member) => Err(format!(
                "{name} has format {} in force, which {} does not read",
                state.format(),
                member.name
            )),
            None => Ok(()),
        }
    }

    /// Whether all machines that are up have the same state.
    pub(crate) fn has_converged(&self) -> bool {
        let up = self.machines_up();
        let states = up.iter().map(|(_, node, _)| {
            let now = node.now();
            (now.state.position().index, now.state.position().event, now.state.digest().0)
        });
        let states: Vec<_> = states.collect();
        states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Checks that the logs of the machines that are up hold the same entries, as far as
    /// they are applied, and that each leads to the state which its machine has.
    pub(crate) fn check_logs(&self) -> Result<(), String> {
        let mut known = BTreeMap::new();
        for (name, node, _) in self.machines_up() {
            let now = node.now();
            let applied = now.applied.map(|id| id.index);
            let history = self.stored(&name).disk.lock().unwrap().history();
            let Some(history) = history else { continue };
            let mut state = State::new(now.state.ring().len().max(1));
            for entry in history.iter().filter(|entry| Some(entry.id.index) <= applied) {
                let other = known.entry(entry.id.index).or_insert_with(|| Arc::clone(entry));
                if other != entry {
                    return Err(format!("{name} has {entry:?}, another one {other:?}"));
                }
                if let Some(batch) = entry.batch() {
                    if says_too_much(batch, state.format()) {
                        return Err(format!("{name} has {entry:?}, under {}", state.format()));
                    }
                    state.apply(batch);
                }
            }
            if (state.position(), state.digest()) != (now.state.position(), now.state.digest()) {
                let (here, there) = (now.state.position(), state.position());
                return Err(format!("{name} is at {here:?}, its log leads to {there:?}"));
            }
        }
        if known.is_empty() { Err("no log is whole".to_owned()) } else { Ok(()) }
    }

    /// How many files of the log are sealed on the machines that are up.
    pub(crate) fn sealed(&self) -> usize {
        let up = self.machines_up().into_iter();
        let sealed = |name: &str| {
            let stored = self.stored(name);
            stored.disk().real.as_ref().map_or(0, RealDisk::sealed)
        };
        up.map(|(name, ..)| sealed(&name)).sum()
    }

    /// Checks that nobody who waits has a hold of the state: every change would have to
    /// be copied.
    pub(crate) fn check_that_nobody_keeps_a_state(&self) -> Result<(), String> {
        for (name, node, _) in self.machines_up() {
            // One is the publisher's, one ours.
            let kept = Arc::strong_count(&node.now()) - 2;
            if kept > 0 {
                return Err(format!("{name} is idle, and somebody keeps its state"));
            }
        }
        Ok(())
    }
}
