//! The events behind one, wherever they come from.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use etcd_follow::{Follower, Start};
use etcd_log::{ClusterId, EventNumber, History};
use etcd_projections::{Event, State, What};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};

/// How many events of a log are folded ahead.
const AHEAD: usize = 10_000;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<Arc<Event>, Failure>> + Send>>;

/// Gives the events behind `after` of a cluster, by the address of a machine; or of a log, by
/// its path. They must be of this cluster, if one is known by then.
pub(crate) fn events(
    source: &str,
    after: EventNumber,
    cluster: Option<ClusterId>,
) -> Result<Events, Failure> {
    if source.starts_with("http://") {
        let follower = Follower::new([source]).start(Start::After(after));
        let follower = cluster.into_iter().fold(follower, Follower::cluster);
        return Ok(Box::pin(follower.events().map(|event| Ok(event?))));
    }
    let history = History::open(source)?;
    let (sender, events) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = fold(history, after, cluster, &sender) {
            // Nobody may listen any more.
            let _told = sender.blocking_send(Err(error));
        }
    });
    Ok(Box::pin(ReceiverStream::new(events)))
}

/// Folds a log, for that gives its events, and sends those behind `after`.
fn fold(
    history: History,
    after: EventNumber,
    cluster: Option<ClusterId>,
    sender: &mpsc::Sender<Result<Arc<Event>, Failure>>,
) -> Result<(), Failure> {
    let mut state = State::new(1);
    let (mut batches, mut known) = (history.into_iter(), None);
    for batch in batches.by_ref() {
        for outcome in state.replay(&batch?)? {
            let What::Event(event) = outcome.what else { continue };
            if event.number == after {
                known = state.cluster();
            }
            if event.number > after {
                if after > EventNumber(0) && known != cluster {
                    return Err("the table holds the keys of another cluster".into());
                }
                sender.blocking_send(Ok(event))?;
            }
        }
    }
    if state.position().event < after {
        return Err("the table is further than this log".into());
    }
    Ok(batches.end().map_or(Ok(()), |end| state.compare_end(&end))?)
}
