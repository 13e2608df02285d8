//! The same, asked of a machine that runs: what the API tells of the past and the present.
//!
//! ```text
//! show     /v1/history/P?recursive=true      and with -f: /v1/watch/P?stream=true from there on
//! history  /v1/history/K
//! diff     /v1/diff/P
//! ```
//!
//! Any machine of the cluster does. What was refused, and who proposed, the API does not say.
//! The numbers of events mean something in one cluster only: what is followed is of the one
//! whose past was shown.

use std::io::Write;

use etcd_follow::{FollowError, Follower, Start, read_event};
use etcd_log::{ClusterId, EventNumber, KeyPath};
use etcd_projections::Event;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use tokio_stream::StreamExt as _;

use super::ToolError;
use super::action::Action;
use super::diff::{DiffQuery, write_change};
use super::history::HistoryQuery;
use super::show::Selection;
use crate::tls::ClientTls;
use crate::tools::client::{self, LOOKING_SECONDS, Lines};
use crate::util::error_chain::ErrorChain;
use crate::util::in_path::ENCODED;
use crate::util::moment::Moment;

/// Machines of a cluster that runs, by their addresses for clients.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `http://host:port`, `https://host:port`, or `host:port`.
    pub urls: Vec<String>,
    /// How TLS is spoken to those that speak it, if it is to be.
    pub tls: Option<ClientTls>,
}

/// From when on what happens is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// It is not: what has happened is shown, and that is all.
    No,
    /// Behind what is shown of the past.
    BehindPast,
    /// From now on; nothing is shown of the past.
    FromNow,
}

impl Remote {
    /// Shows events: those of the past, those that come, or both.
    ///
    /// # Errors
    ///
    /// If nobody answers, if the past is not kept, or the output cannot be written.
    pub async fn show(
        &self,
        selection: &Selection,
        following: Following,
        out: &mut dyn Write,
    ) -> Result<(), ToolError> {
        let query = query_of(selection);
        let follower = Follower::new(self.urls.iter().cloned()).prefix(query.key.clone());
        let follower = match &self.tls {
            Some(tls) => follower.tls(tls.config()),
            None => follower,
        };
        let follower = match following {
            Following::No => return self.show_past(selection, None, out).await.map(drop),
            Following::FromNow => follower.start(Start::Now),
            Following::BehindPast => {
                // What comes while the past is told is told once, by the one or the other.
                let newest = self.newest().await?;
                let (last, cluster) = self.show_past(selection, Some(newest), out).await?;
                follower.start(Start::After(last)).cluster(cluster)
            }
        };
        out.flush()?;
        let mut events =
            follower.on_fault(|url, fault| tracing::warn!("{url}: {}", ErrorChain(fault))).events();
        while let Some(event) = events.next().await.transpose()? {
            if shows(selection, &event) {
                query.write(&event, out)?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// Shows the past, of a cluster with such a newest event if one is known. Returns the last
    /// event of both, and the cluster.
    async fn show_past(
        &self,
        selection: &Selection,
        newest: Option<(EventNumber, ClusterId)>,
        out: &mut dyn Write,
    ) -> Result<(EventNumber, ClusterId), ToolError> {
        let query = query_of(selection);
        let mut lines = client::get(&self.urls, self.tls.as_ref(), &path_of(&query)).await?;
        let (mut last, cluster) = newest.unwrap_or((EventNumber(0), lines.cluster()));
        of_cluster(&lines, cluster)?;
        while let Some(line) = lines.next().await? {
            let event = read(&line)?;
            last = last.max(event.number);
            if shows(selection, &event) {
                query.write(&event, out)?;
            }
        }
        Ok((last, cluster))
    }

    /// Returns the number of the newest event, and of which cluster it is.
    async fn newest(&self) -> Result<(EventNumber, ClusterId), ToolError> {
        let path =
            format!("/v1/history/?recursive=true&reverse=true&limit=1&timeout={LOOKING_SECONDS}");
        let mut lines = client::get(&self.urls, self.tls.as_ref(), &path).await?;
        let number = match lines.next().await? {
            Some(line) => read(&line)?.number,
            None => EventNumber(0),
        };
        Ok((number, lines.cluster()))
    }

    /// Tells what happened at a key.
    ///
    /// # Errors
    ///
    /// If nobody answers, if it is not kept, or the output cannot be written.
    pub async fn history(
        &self,
        query: &HistoryQuery,
        out: &mut dyn Write,
    ) -> Result<(), ToolError> {
        let mut lines = client::get(&self.urls, self.tls.as_ref(), &path_of(query)).await?;
        while let Some(line) = lines.next().await? {
            query.write(&read(&line)?, out)?;
        }
        Ok(())
    }

    /// Tells what became of the keys between two moments.
    ///
    /// # Errors
    ///
    /// If nobody answers, if it is not kept, or the output cannot be written.
    pub async fn diff(&self, query: &DiffQuery, out: &mut dyn Write) -> Result<(), ToolError> {
        let to = query.to.map(|to| format!("&to={}", moment(to))).unwrap_or_default();
        let from = moment(query.from);
        let path =
            format!("/v1/diff{}?from={from}{to}&timeout={LOOKING_SECONDS}", encoded(&query.key));
        let mut lines = client::get(&self.urls, self.tls.as_ref(), &path).await?;
        while let Some(line) = lines.next().await? {
            let NetChange { key, from, to } =
                serde_json::from_slice(&line).map_err(|_| broken(&line))?;
            write_change(&key, (from.as_deref(), to.as_deref()), query, out)?;
        }
        Ok(())
    }
}

/// Returns the history in which all is that a selection may show.
fn query_of(selection: &Selection) -> HistoryQuery {
    HistoryQuery {
        key: selection.key.clone().unwrap_or_else(KeyPath::root),
        recursive: true,
        from: selection.from,
        to: selection.to,
        reverse: false,
        limit: None,
        json: selection.json,
        look: selection.look,
    }
}

/// Whether a selection shows an event of its history.
fn shows(selection: &Selection, event: &Event) -> bool {
    selection.actions.is_empty() || selection.actions.contains(&Action::of_event(event))
}

/// Refuses what a machine of another cluster says.
fn of_cluster(lines: &Lines, expected: ClusterId) -> Result<(), FollowError> {
    let (url, found) = (lines.url().to_owned(), lines.cluster());
    if found == expected {
        return Ok(());
    }
    Err(FollowError::OtherCluster { url, found, expected })
}

/// A line of a diff.
#[derive(Deserialize)]
struct NetChange {
    key: KeyPath,
    from: Option<String>,
    to: Option<String>,
}

fn path_of(query: &HistoryQuery) -> String {
    let HistoryQuery { key, recursive, from, to, reverse, limit, .. } = query;
    let moments = [("from", from), ("to", to)].into_iter();
    let moments = moments.filter_map(|(name, at)| Some(format!("{name}={}", moment((*at)?))));
    let limit = limit.map(|limit| format!("limit={limit}"));
    let ways = [format!("recursive={recursive}"), format!("reverse={reverse}")];
    let timeout = format!("timeout={LOOKING_SECONDS}");
    let fields: Vec<_> = ways.into_iter().chain(moments).chain(limit).chain([timeout]).collect();
    format!("/v1/history{}?{}", encoded(key), fields.join("&"))
}

fn encoded(key: &KeyPath) -> impl std::fmt::Display {
    utf8_percent_encode(key.as_str(), ENCODED)
}

fn moment(moment: Moment) -> String {
    utf8_percent_encode(&moment.to_string(), ENCODED).to_string()
}

fn read(line: &[u8]) -> Result<Event, ToolError> {
    read_event(line).map_err(|_| broken(line))
}

/// What a machine says instead of what comes next: why that is not to be had.
fn broken(line: &[u8]) -> ToolError {
    #[derive(Deserialize)]
    struct Ends {
        error: String,
    }
    let said = serde_json::from_slice(line).map(|Ends { error }| error);
    ToolError::Ends(said.unwrap_or_else(|_| String::from_utf8_lossy(line).into_owned()))
}

#[cfg(test)]
mod tests {
    use etcd_log::Index;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tools::client::LIMIT;
    use crate::util::limit;

    /// A machine that answers each request as is said, by its path.
    async fn machine(answer: impl Fn(&str) -> String + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..length]);
                let path = head.split(' ').nth(1).unwrap_or_default();
                stream.write_all(answer(path).as_bytes()).await.unwrap();
            }
        });
        url
    }

    fn answer(status: &str, cluster: &str, body: &str) -> String {
        let fields = format!("X-Etcd-Cluster-Id: {cluster}\r\nContent-Length: {}", body.len());
        format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}")
    }

    /// A line of a history, or of a stream.
    fn line(number: u64) -> String {
        let time = "1970-01-01T00:00:01.000000000+00:00";
        let fields = format!(r#""key":"/a","value":"{number}","index":{number},"event":{number}"#);
        format!("{{\"action\":\"SET\",{fields},\"time\":\"{time}\"}}\n")
    }

    /// The machine that has told the past can be asked no longer, and another one that was
    /// named is of another cluster: its numbers go on behind the last, and mean something else.
    #[tokio::test]
    async fn past_of_one_cluster_is_not_followed_by_events_of_another() {
        limit::begin();
        let one = machine(|path| match path {
            _ if path.starts_with("/v1/history") => answer("200 OK", "c1", &line(3)),
            _ => answer("400 Bad Request", "c1", "No\n"),
        });
        let other = machine(|path| match path {
            "/v1/machines" => answer("200 OK", "c2", ""),
            _ => answer("200 OK", "c2", &format!("id: 4\ndata: {}\n", line(4))),
        });
        let remote = Remote { urls: vec![one.await, other.await], tls: None };
        let mut out = Vec::new();
        let shown = remote.show(&Selection::default(), Following::BehindPast, &mut out).await;
        assert!(shown.is_err(), "{shown:?}");
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 1, "{out}");
    }

    /// One that can tell which is the newest event, and nothing more.
    #[tokio::test]
    async fn past_is_of_the_cluster_whose_newest_event_is_known() {
        limit::begin();
        let one = machine(|path| match path {
            _ if path.contains("reverse=true") => answer("200 OK", "c1", &line(3)),
            _ => answer("503 Service Unavailable", "c1", "No Leader\n"),
        });
        let other = machine(|_| answer("200 OK", "c2", &line(1)));
        let remote = Remote { urls: vec![one.await, other.await], tls: None };
        let mut out = Vec::new();
        let shown = remote.show(&Selection::default(), Following::BehindPast, &mut out).await;
        let other = matches!(shown, Err(ToolError::Follow(FollowError::OtherCluster { .. })));
        assert!(other && out.is_empty(), "{shown:?}");
    }

    /// A machine gives up before it is given up, and so can say why.
    #[test]
    fn machine_is_told_how_long_it_may_look() {
        assert!(LOOKING_SECONDS + 2 < LIMIT.as_secs());
        let key = KeyPath::clean("/a b").unwrap();
        let from = Some(Moment::Index(Index(3)));
        let path = path_of(&query_of(&Selection { key: Some(key), from, ..Selection::default() }));
        let fields = "recursive=true&reverse=false&from=3&timeout=12";
        assert_eq!(path, format!("/v1/history/a%20b?{fields}"));
    }
}
