//! Expiry: when a leader has to move the logged time on, for a key to expire.

use std::time::Duration;

use super::Means;

/// How long to rely on a timer for the next deadline.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Waits until this machine leads and a key is due.
pub(super) async fn due(means: &Means) {
    let Means { consensus, published, clock, .. } = means;
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
                let _changed = tokio::time::timeout(wait.min(LOOK_AGAIN), changed).await;
            }
            None => {
                if changed.await.is_none() {
                    return std::future::pending().await;
                }
            }
        }
    }
}
