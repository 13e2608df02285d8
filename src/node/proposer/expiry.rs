//! Expiry: when a leader has to move the logged time on, for a key to expire, and how
//! far.
//!
//! ```text
//! clock    ────────────────────────────────────▶
//! deadlines      ·· ········ ········ ········ ·
//! logged      ────────────▲────────▲────────▲──▲  a batch each
//! ```
//!
//! However many keys are due at once, a batch lets so many expire that nobody waits
//! long for it; what is still due then is due at once. So the logged time may lag
//! behind the clock for as long as it takes to let them all expire.

use std::time::Duration;

use etcd_log::{Command, LogTime, RestoreChange, TestAndSet, Ttl};
use etcd_projections::ExpiryIndex;

use super::context::{BATCH_COMMANDS, ProposerContext};

/// How many keys a batch lets expire, and as many more as share the deadline of the
/// last: those were written by one batch, mostly, or by batches of one logged time. It
/// takes as long as a full batch of commands.
const EXPIRIES: usize = BATCH_COMMANDS;

/// How long to rely on a timer for the next deadline.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Returns the time of a batch that is made at `now`: earlier, if too many keys are due.
pub(super) fn batch_time(expiry: &ExpiryIndex, now: LogTime) -> LogTime {
    expiry.time_for(now, EXPIRIES)
}

/// Lets what is written live as long as was asked for, though its batch has an earlier
/// time than it is: by whole seconds, as lives are counted.
pub(super) fn make_up_for(lag: Duration, commands: &mut [Command]) {
    let seconds = lag.as_secs() + u64::from(lag.subsec_nanos() > 0);
    let later = |ttl: Ttl| ttl.saturating_add(seconds);
    for command in commands.iter_mut().map(Command::wanted_mut) {
        if let Command::Restore(restore) = command {
            for change in &mut restore.changes {
                if let RestoreChange::Set { ttl: Some(ttl), .. } = change {
                    *ttl = later(*ttl);
                }
            }
        }
        if let Command::Set { ttl: Some(ttl), .. }
        | Command::Create { ttl: Some(ttl), .. }
        | Command::TestAndSet(TestAndSet { ttl: Some(ttl), .. }) = command
        {
            *ttl = later(*ttl);
        }
    }
}

/// Waits until this machine leads and a key is due.
pub(super) async fn due(context: &ProposerContext) {
    let ProposerContext { consensus, published, clock, .. } = context;
    let heartbeat = consensus.timing().heartbeat;
    loop {
        // Not kept while waiting: applying would have to copy it.
        let (position, next) = {
            let now = published.now();
            (now.state.position(), now.state.expiry().next().map(|(deadline, _)| deadline))
        };
        let next = next.map(|deadline| clock.until(deadline, position.time));
        let changed = published.wait_for(|state| state.state.position() != position);
        match next {
            Some(Duration::ZERO) if consensus.leads() => return,
            // Somebody else's to let expire; look again at the next heartbeat.
            Some(Duration::ZERO) => tokio::time::sleep(heartbeat).await,
            Some(wait) => {
                // Timers follow another clock than deadlines do, which may be set
                // or go on while the machine is suspended.
                let changed = tokio::time::timeout(wait.min(LOOK_AGAIN), changed).await;
                if matches!(changed, Ok(None)) {
                    // Nothing will be applied any more: consensus has stopped.
                    return std::future::pending().await;
                }
            }
            None => {
                if changed.await.is_none() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_log::{Asked, Batch, Index, KeyPath, Restore};
    use etcd_projections::State;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn set(number: usize, ttl: u64) -> Command {
        let key = KeyPath::clean(&format!("/k/{number}")).unwrap();
        Command::Set { key, value: Arc::from("x"), ttl: Ttl::new(ttl) }
    }

    #[test]
    fn many_keys_that_are_due_at_once_expire_in_many_batches() {
        let keys = 50_000;
        let mut state = State::new(10);
        for first in (0..keys).step_by(BATCH_COMMANDS) {
            let numbers = first..keys.min(first + BATCH_COMMANDS);
            let commands = numbers.map(|number| set(number, 60)).collect();
            state.apply(&Batch::new(LogTime(first as u64 + 1), commands));
        }
        assert_eq!(state.expiry().len(), keys);
        let now = LogTime(100 * SECOND);
        let mut batches = 0;
        while state.position().time < now {
            // In between, writes go on.
            let batch = Batch::new(batch_time(state.expiry(), now), vec![set(batches, 600)]);
            let outcomes = state.apply(&batch).len();
            assert!(outcomes <= 2 * EXPIRIES, "{outcomes} at once");
            batches += 1;
        }
        assert!(batches <= keys / EXPIRIES + 2, "{batches} batches");
        assert_eq!(state.expiry().len(), batches);
    }

    #[test]
    fn time_is_that_of_the_clock_where_few_keys_are_due() {
        let mut state = State::new(10);
        assert_eq!(batch_time(state.expiry(), LogTime(SECOND)), LogTime(SECOND));
        state.apply(&Batch::new(LogTime(1), (0..EXPIRIES).map(|number| set(number, 1)).collect()));
        assert_eq!(batch_time(state.expiry(), LogTime(9 * SECOND)), LogTime(9 * SECOND));
        // One of them is beyond.
        state.apply(&Batch::new(LogTime(2), vec![set(EXPIRIES, 1)]));
        assert_eq!(batch_time(state.expiry(), LogTime(9 * SECOND)), LogTime(SECOND + 1));
        assert_eq!(batch_time(state.expiry(), LogTime(SECOND + 1)), LogTime(SECOND + 1));
    }

    fn restore(ttl: u64) -> Command {
        let set = |ttl| RestoreChange::Set { key: KeyPath::root(), value: Arc::from("x"), ttl };
        let changes = vec![set(Ttl::new(ttl)), set(None)];
        let (key, at, base) = (KeyPath::root(), Index(1), Index(2));
        Command::Restore(Restore { key, at, base, changes })
    }

    #[test]
    fn nothing_lives_shorter_than_was_asked_for() {
        for (lag, ttl) in [(0, 5), (1, 6), (SECOND, 6), (SECOND + 1, 7)] {
            let mut commands = vec![
                set(1, 5),
                Command::Delete { key: KeyPath::root() },
                restore(5),
                Command::Create { key: KeyPath::root(), value: Arc::from("x"), ttl: Ttl::new(5) },
            ];
            // What was said stays as it was.
            let asked = Asked::new("x".parse().unwrap(), Index(0), set(1, 5));
            commands.push(Command::As(asked.clone()));
            make_up_for(Duration::from_nanos(lag), &mut commands);
            let create =
                Command::Create { key: KeyPath::root(), value: Arc::from("x"), ttl: Ttl::new(ttl) };
            let asked = Command::As(Asked { command: Box::new(set(1, ttl)), ..asked });
            let made_up = [set(1, ttl), commands[1].clone(), restore(ttl), create, asked];
            assert_eq!(commands, made_up, "after {lag} ns");
        }
    }
}
