//! The whole: asked, checked, resumed.
//!
//! ```text
//!  ask a machine behind the last event ─▶ check each that comes ─▶ hand it out
//!        ▲                                          │ a fault
//!        └── after a pause, once all were asked ◀── the next machine
//! ```
//!
//! One machine's word does not end it while another could not be asked: that one may be about
//! to come back, and know better. It is waited for a while.
//!
//! The position moves with an event that is handed out, and, where only a part is followed,
//! with those before which there was nothing to hand out. Whatever happens to a connection,
//! the next one goes on behind it.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{ClusterId, EventNumber, KeyPath};
use etcd_projections::Event;
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_rustls::TlsConnector;

use crate::addresses::{Addresses, TLS_SCHEME};
use crate::connection::{Answer, Stream};
use crate::error::{Fault, FollowError};
use crate::line;
use crate::messages::Message;

/// What stands in a path as it is.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Told of each fault, and of whom it is.
pub(crate) type OnFault = Arc<dyn Fn(&str, &Fault) + Send + Sync>;

/// Somebody who follows a cluster.
pub(crate) struct Following {
    pub(crate) prefix: KeyPath,
    pub(crate) addresses: Addresses,
    /// How TLS is spoken, to those that speak it.
    pub(crate) tls: Option<TlsConnector>,
    /// The last event that was seen, or passed over; nothing, until somebody has said which is the last now.
    pub(crate) after: Option<EventNumber>,
    /// Whose events are followed, once that is known.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) silence: Duration,
    pub(crate) on_fault: OnFault,
    pub(crate) stream: Option<Stream>,
    /// What may last, and who said so, in the round that is under way.
    pub(crate) lasting: Option<(String, Fault)>,
    /// In how many rounds in a row somebody said so.
    pub(crate) said_in: u32,
    /// Whether all that were asked in the round that is under way could answer.
    pub(crate) all_answered: bool,
}

impl Following {
    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// If no machine can ever give it. Nothing comes after that.
    pub(crate) async fn next(&mut self) -> Result<Arc<Event>, FollowError> {
        loop {
            match self.try_next().await {
                Ok(event) => return Ok(event),
                Err(fault) => self.go_on_elsewhere(fault).await?,
            }
        }
    }

    /// Leaves the current machine for the next one.
    async fn go_on_elsewhere(&mut self, fault: Fault) -> Result<(), FollowError> {
        self.stream = None;
        let current = self.addresses.current();
        let has_scheme = current.starts_with(TLS_SCHEME);
        let url = if has_scheme { current.to_owned() } else { format!("http://{current}") };
        (self.on_fault)(&url, &fault);
        if fault.believed_after().is_some() {
            self.lasting = Some((url, fault));
        } else {
            self.all_answered = false;
        }
        let Some(rounds) = self.addresses.failed() else { return Ok(()) };
        let all_answered = std::mem::replace(&mut self.all_answered, true);
        self.said_in = if self.lasting.is_some() { self.said_in + 1 } else { 0 };
        match self.lasting.take() {
            Some((url, fault)) if fault.is_believed(self.said_in, all_answered) => {
                Err(fault.into_error(url, self.after.unwrap_or_default()))
            }
            _ => {
                tokio::time::sleep(Addresses::pause(rounds)).await;
                Ok(())
            }
        }
    }

    async fn try_next(&mut self) -> Result<Arc<Event>, Fault> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.stream = Some(self.connect().await?);
                continue;
            };
            match stream.next().await? {
                Message::Comment => self.look_around().await?,
                Message::Seen(id) => self.pass(id)?,
                Message::Event { id, data } => return self.take(id, &data).map(Arc::new),
            }
        }
    }

    /// Begins a stream behind the last event.
    async fn connect(&mut self) -> Result<Stream, Fault> {
        let path = utf8_percent_encode(self.prefix.as_str(), ENCODED).to_string();
        if self.after.is_none() {
            self.after = Some(self.newest(&path).await?);
        }
        let after = self.after.unwrap_or_default();
        let path = format!("/v1/watch{path}?stream=true&after={}", after.0);
        let answer = self.ask(Method::GET, &path, true).await?;
        if answer.status() != 200 {
            return Err(refusal(answer).await);
        }
        // What others have said of it does not last: here is one that can be followed.
        self.lasting = self.lasting.take().filter(|(_, fault)| fault.believed_after() > Some(1));
        self.learn_machines().await;
        Ok(answer.into_stream(self.silence))
    }

    /// Asks which event is the last one now.
    async fn newest(&mut self, path: &str) -> Result<EventNumber, Fault> {
        let answer = self.ask(Method::HEAD, &format!("/v1/watch{path}"), false).await?;
        let number = answer.field("x-etcd-event").map(EventNumber);
        match (answer.status(), number) {
            (200 | 204, Some(number)) => Ok(number),
            (200 | 204, None) => {
                Err(Fault::Unreadable("it does not say where to go on".to_owned()))
            }
            _ => Err(refusal(answer).await),
        }
    }

    /// Asks the current machine, which must be of the right cluster.
    async fn ask(&mut self, method: Method, path: &str, streams: bool) -> Result<Answer, Fault> {
        let answer =
            Answer::ask(self.addresses.current(), self.tls.as_ref(), method, path, streams).await?;
        // Who has no place for a client does not say whose he is.
        if answer.status() < 500 {
            let silent = || Fault::Unreadable("it does not say of which cluster it is".to_owned());
            let found = answer.field("x-etcd-cluster-id").ok_or_else(silent)?;
            let expected = *self.cluster.get_or_insert(found);
            if found != expected {
                return Err(Fault::OtherCluster { found, expected });
            }
        }
        Ok(answer)
    }

    /// Learns which machines there are, if it can.
    async fn learn_machines(&mut self) {
        let Ok(answer) = self.ask(Method::GET, "/v1/machines", false).await else { return };
        let is_good = answer.status() == 200;
        if let Ok(list) = answer.text().await
            && is_good
        {
            self.addresses.learn(&list);
        }
    }

    /// There is nothing to hear: a good time to ask whether that is so elsewhere as well.
    async fn look_around(&mut self) -> Result<(), Fault> {
        let answer = self.ask(Method::GET, "/health", false).await?;
        if answer.status() != 200 {
            return Err(Fault::Unhealthy);
        }
        self.addresses.succeeded();
        self.learn_machines().await;
        Ok(())
    }

    /// Passes over what is not wanted, up to an event. Of the whole nothing is.
    fn pass(&mut self, id: EventNumber) -> Result<(), Fault> {
        let last = self.after.unwrap_or_default();
        if id > last && self.follows_all() {
            let wrong = format!("event {id} is said to be given, event {} was not", last.next());
            return Err(Fault::Unreadable(wrong));
        }
        self.after = Some(id.max(last));
        Ok(())
    }

    /// Takes in an event that follows the last one.
    fn take(&mut self, id: EventNumber, data: &[u8]) -> Result<Event, Fault> {
        let event = line::read(data)?;
        if event.number != id {
            return Err(Fault::Unreadable(format!("event {} says it is {id}", event.number)));
        }
        if !self.prefix.covers(&event.key) {
            return Err(Fault::Unreadable(format!("{} is not asked for", event.key)));
        }
        let expected = self.after.unwrap_or_default().next();
        let follows = if self.follows_all() { id == expected } else { id >= expected };
        if !follows {
            return Err(Fault::OutOfOrder { found: id, expected });
        }
        self.after = Some(id);
        (self.lasting, self.said_in, self.all_answered) = (None, 0, true);
        self.addresses.succeeded();
        Ok(event)
    }

    /// Whether each event is wanted, so that the numbers are dense.
    fn follows_all(&self) -> bool {
        self.prefix == KeyPath::root()
    }
}

/// Returns what an answer means that is none of those hoped for.
async fn refusal(answer: Answer) -> Fault {
    let status = answer.status();
    let said = answer.text().await.unwrap_or_default();
    match status {
        410 => Fault::Gone(said),
        408 | 429 | 500.. => Fault::Unavailable { status, said },
        _ => Fault::Refused { status, said },
    }
}
