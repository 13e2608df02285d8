//! What to follow, and the stream of it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_log::{ClusterId, EventNumber, KeyPath};
use etcd_projections::Event;
use futures_util::stream;
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;
use tokio_stream::Stream;

use crate::addresses::Addresses;
use crate::error::{Fault, FollowError};
use crate::following::{Following, OnFault};

/// After how long a silence a connection is given up, unless somebody wants it otherwise: a
/// machine gives a sign of life every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the first event of all. It may be kept no longer.
    #[default]
    Beginning,
    /// With the event after this one: the last one that was dealt with.
    After(EventNumber),
    /// With whatever comes after the last event that the first machine asked has.
    Now,
}

/// What to follow: all keys from the beginning on, unless it is told otherwise.
#[derive(Clone)]
pub struct Follower {
    urls: Vec<String>,
    prefix: KeyPath,
    start: Start,
    cluster: Option<ClusterId>,
    tls: Option<Arc<ClientConfig>>,
    silence: Duration,
    on_fault: OnFault,
}

/// The events, each once, in order. It waits for those to come, and ends after an error. If
/// waiting is given up, no event is lost.
pub struct Events {
    events: Pin<Box<dyn Stream<Item = Result<Arc<Event>, FollowError>> + Send>>,
}

impl Follower {
    /// Follows the cluster that has machines at these addresses for clients,
    /// `http://host:port`; it tells of its others itself.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        Self {
            urls: urls.into_iter().map(Into::into).collect(),
            prefix: KeyPath::root(),
            start: Start::default(),
            cluster: None,
            tls: None,
            silence: SILENCE,
            on_fault: Arc::new(|_, _| {}),
        }
    }

    /// Follows this key and those below it only. Then there are gaps between the numbers,
    /// and an event that a machine leaves out goes unnoticed.
    pub fn prefix(self, prefix: KeyPath) -> Self {
        Self { prefix, ..self }
    }

    /// Begins there.
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Believes this cluster only. Otherwise it is that of the first machine that answers:
    /// whoever goes on with a number from before keeps the cluster beside it.
    pub fn cluster(self, cluster: ClusterId) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// Speaks TLS to machines whose addresses begin with `https://`, as this says. Otherwise
    /// there are none for it.
    pub fn tls(self, config: Arc<ClientConfig>) -> Self {
        Self { tls: Some(config), ..self }
    }

    /// Gives a connection up after so long a silence.
    pub fn silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// Tells of each fault that does not end the stream, and of whom: for people to know.
    pub fn on_fault(self, tell: impl Fn(&str, &Fault) + Send + Sync + 'static) -> Self {
        Self { on_fault: Arc::new(tell), ..self }
    }

    /// Begins to follow, once somebody waits for the first event.
    pub fn events(self) -> Events {
        let following = self.following();
        let events = stream::unfold(Some(following), |state| async {
            let mut following = match state? {
                Ok(following) => following,
                Err(error) => return Some((Err(error), None)),
            };
            match following.next().await {
                Ok(event) => Some((Ok(event), Some(Ok(following)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Events { events: Box::pin(events) }
    }

    fn following(self) -> Result<Following, FollowError> {
        Ok(Following {
            addresses: Addresses::new(&self.urls, self.tls.is_some())
                .map_err(FollowError::Address)?,
            tls: self.tls.map(TlsConnector::from),
            prefix: self.prefix,
            after: match self.start {
                Start::Beginning => Some(EventNumber(0)),
                Start::After(number) => Some(number),
                Start::Now => None,
            },
            cluster: self.cluster,
            silence: self.silence,
            on_fault: self.on_fault,
            stream: None,
            lasting: None,
            said_in: 0,
            all_answered: true,
        })
    }
}

impl Stream for Events {
    type Item = Result<Arc<Event>, FollowError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { urls, prefix, start, cluster, silence, tls: _, on_fault: _ } = self;
        f.debug_struct("Follower")
            .field("urls", urls)
            .field("prefix", prefix)
            .field("start", start)
            .field("cluster", cluster)
            .field("silence", silence)
            .finish_non_exhaustive()
    }
}
