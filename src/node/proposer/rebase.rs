//! Restores find their place: behind whichever command they come to stand.
//!
//! ```text
//! worked out behind command 41 ─▶ 42, 43: elsewhere ─▶ it counts behind 43 as well
//!                              └▶ 42: where it is about ─▶ it stays behind 41: refused
//! ```
//!
//! A restore is refused behind any command but the one that it names (`etcd-projections`).
//! Where other keys are written all the time, it would never get in. So whoever makes the
//! batch, and knows what stands before it, lets it name that, if nothing has happened where
//! it is about since it was worked out. Should another entry come in between after all, by
//! another leader, it is refused.

use etcd_log::{Command, Index, KeyPath, Restore, TestAndSet};
use etcd_projections::State;

/// Lets each restore among commands that are to follow a state name the command before it,
/// if nothing has touched what it is about.
pub(super) fn rebase(state: &State, commands: &mut [Command]) {
    let last = state.position().index;
    for at in 0..commands.len() {
        let (before, rest) = commands.split_at_mut(at);
        let Command::Restore(restore) = rest[0].wanted_mut() else { continue };
        let is_untouched = before.iter().all(|command| !touches(command, &restore.key));
        if is_untouched && is_as_it_was(state, restore) {
            restore.base = Index(last.0 + at as u64);
        }
    }
}

/// Whether nothing has happened where a restore is about since it was worked out, as far as
/// the ring remembers.
fn is_as_it_was(state: &State, restore: &Restore) -> bool {
    let (ring, next) = (state.ring(), restore.base.next());
    if restore.base > state.position().index || !ring.reaches_back_to(next) {
        return false;
    }
    let mut since = ring.since(ring.first_at(next));
    since.all(|event| !concerns(&event.key, &restore.key))
}

/// Whether what happens at a key matters for a restore: at what it is about, or above,
/// where a file may have come into its way.
pub(in crate::node) fn concerns(changed: &KeyPath, restored: &KeyPath) -> bool {
    restored.covers(changed) || changed.covers(restored)
}

/// Whether a command may change a key, or something below it or in its way.
fn touches(command: &Command, key: &KeyPath) -> bool {
    match command {
        Command::Set { key: changed, .. }
        | Command::Create { key: changed, .. }
        | Command::TestAndSet(TestAndSet { key: changed, .. })
        | Command::Delete { key: changed }
        | Command::TestAndDelete { key: changed, .. }
        | Command::DeleteDir { key: changed } => concerns(changed, key),
        Command::Restore(other) => concerns(&other.key, key),
        Command::As(asked) => touches(&asked.command, key),
        // They change the system's keys, and no restore does.
        Command::Sync { .. }
        | Command::Upgrade { .. }
        | Command::Join(_)
        | Command::Leave { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_log::{Asked, Batch, LogTime, RequestHash};

    use super::*;

    fn key(path: &str) -> KeyPath {
        KeyPath::clean(path).unwrap()
    }

    fn set(path: &str) -> Command {
        Command::Set { key: key(path), value: Arc::from("x"), ttl: None }
    }

    fn restore(path: &str, base: u64) -> Command {
        let changes = Vec::new();
        Command::Restore(Restore { key: key(path), at: Index(1), base: Index(base), changes })
    }

    fn bases(state: &State, mut commands: Vec<Command>) -> Vec<u64> {
        rebase(state, &mut commands);
        let base = |command: &Command| match command.wanted() {
            Command::Restore(restore) => Some(restore.base.0),
            _ => None,
        };
        commands.iter().filter_map(base).collect()
    }

    #[test]
    fn restore_counts_where_nothing_has_touched_it() {
        let mut state = State::new(3);
        let written = ["/p/a", "/q/b", "/p", "/pq", "/q/a"].map(set);
        state.apply(&Batch::new(LogTime(1), written.into()));
        // The third is refused, for /p is a directory, and is no event.
        assert_eq!(bases(&state, vec![restore("/p", 0)]), [0], "the ring does not go back so far");
        assert_eq!(bases(&state, vec![restore("/p", 1)]), [5]);
        assert_eq!(bases(&state, vec![restore("/q", 1)]), [1]);
        assert_eq!(bases(&state, vec![restore("/q", 4)]), [4]);
        assert_eq!(bases(&state, vec![restore("/q", 5)]), [5]);
        assert_eq!(bases(&state, vec![restore("/q", 6)]), [6], "that has not come yet");
        assert_eq!(bases(&state, vec![set("/q/b"), set("/z"), restore("/p", 4)]), [7]);
        assert_eq!(bases(&state, vec![set("/p/x"), restore("/p", 4)]), [4]);
        let under = |command| {
            let (id, hash) = ("x".parse().unwrap(), RequestHash(1));
            Command::As(Asked { id, hash, since: Index(0), command: Box::new(command) })
        };
        assert_eq!(bases(&state, vec![under(set("/p/x")), under(restore("/p", 4))]), [4]);
        assert_eq!(bases(&state, vec![under(set("/z")), under(restore("/p", 4))]), [6]);
        assert_eq!(bases(&state, vec![restore("/p/x", 4), restore("/p", 4)]), [5, 4]);
        // What comes above may be in the way.
        let mut state = State::new(3);
        state.apply(&Batch::new(LogTime(1), vec![set("/a"), set("/q"), set("/p/x")]));
        assert_eq!(bases(&state, vec![restore("/q/a", 1), restore("/q/a", 2)]), [1, 2]);
        assert_eq!(bases(&state, vec![restore("/q/a", 2)]), [3]);
        let remove = Command::DeleteDir { key: key("/p") };
        assert_eq!(bases(&state, vec![remove, restore("/p/x/y", 3)]), [3]);
    }
}
