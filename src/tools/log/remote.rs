//! The same, asked of a machine that runs: what the API tells of the past and the present.
//!
//! ```text
//! show     /v1/history/P?recursive=true      and with -f: /v1/watch/P?stream=true from there on
//! history  /v1/history/K
//! diff     /v1/diff/P
//! ```
//!
//! Any machine of the cluster does. What was refused, and who proposed, the API does not say.

use std::io::Write;

use etcd_follow::{Follower, Start, read_event};
use etcd_log::{EventNumber, KeyPath};
use etcd_projections::Event;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use tokio_stream::StreamExt as _;

use super::ToolError;
use super::action::Action;
use super::diff::{DiffQuery, write_change};
use super::history::HistoryQuery;
use super::show::Selection;
use crate::tools::client::{self, LOOKING_SECONDS};
use crate::util::error_chain::ErrorChain;
use crate::util::in_path::ENCODED;
use crate::util::moment::Moment;

/// Machines of a cluster that runs, by their addresses for clients.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `http://host:port`, or `host:port`.
    pub urls: Vec<String>,
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
        let key = selection.key.clone().unwrap_or_else(KeyPath::root);
        let query = HistoryQuery {
            key: key.clone(),
            recursive: true,
            from: selection.from,
            to: selection.to,
            reverse: false,
            limit: None,
            json: selection.json,
            look: selection.look,
        };
        let shows = |event: &Event| {
            selection.actions.is_empty() || selection.actions.contains(&Action::of_event(event))
        };
        let mut start = Start::Now;
        if following != Following::FromNow {
            // What comes while the past is told is told once, by the one or the other.
            let mut last = match following {
                Following::No => EventNumber(0),
                Following::BehindPast | Following::FromNow => self.newest().await?,
            };
            let mut lines = client::get(&self.urls, &path_of(&query)).await?;
            while let Some(line) = lines.next().await? {
                let event = read(&line)?;
                last = last.max(event.number);
                if shows(&event) {
                    query.write(&event, out)?;
                }
            }
            start = Start::After(last);
        }
        if following == Following::No {
            return Ok(());
        }
        out.flush()?;
        let follower = Follower::new(self.urls.iter().cloned()).prefix(key).start(start);
        let mut events =
            follower.on_fault(|url, fault| tracing::warn!("{url}: {}", ErrorChain(fault))).events();
        while let Some(event) = events.next().await.transpose()? {
            if shows(&event) {
                query.write(&event, out)?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// Returns the number of the newest event.
    async fn newest(&self) -> Result<EventNumber, ToolError> {
        let path =
            format!("/v1/history/?recursive=true&reverse=true&limit=1&timeout={LOOKING_SECONDS}");
        let mut lines = client::get(&self.urls, &path).await?;
        let line = lines.next().await?;
        line.map_or(Ok(EventNumber(0)), |line| Ok(read(&line)?.number))
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
        let mut lines = client::get(&self.urls, &path_of(query)).await?;
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
        let mut lines = client::get(&self.urls, &path).await?;
        while let Some(line) = lines.next().await? {
            let NetChange { key, from, to } =
                serde_json::from_slice(&line).map_err(|_| broken(&line))?;
            write_change(&key, (from.as_deref(), to.as_deref()), query, out)?;
        }
        Ok(())
    }
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

    use super::*;
    use crate::tools::client::LIMIT;

    /// A machine gives up before it is given up, and so can say why.
    #[test]
    fn machine_is_told_how_long_it_may_look() {
        assert!(LOOKING_SECONDS + 2 < LIMIT.as_secs());
        let query = HistoryQuery {
            key: KeyPath::clean("/a b").unwrap(),
            recursive: true,
            from: Some(Moment::Index(Index(3))),
            to: None,
            reverse: false,
            limit: None,
            json: false,
            look: crate::tools::log::Look::default(),
        };
        let fields = "recursive=true&reverse=false&from=3&timeout=12";
        assert_eq!(path_of(&query), format!("/v1/history/a%20b?{fields}"));
    }
}
