//! What the verbs of `etcd log` take.

use std::io;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use etcd_log::{KeyPath, NodeId};

use super::trust_args::TrustArgs;
use super::values::{parse_key, parse_limit, parse_name};
use crate::tools::log::{
    self, Action, Condition, DiffQuery, Following, Fork, HistoryQuery, Import, LogPath, Look,
    Remote, Selection, ToolError,
};
use crate::util::moment::Moment;

/// Where a log lies.
#[derive(Debug, Args)]
pub(super) struct LogArg {
    /// Data directory of a machine that is stopped, or a
    /// copy; an archive/; or an exported log
    #[arg(short = 'd', long = "data-dir", value_name = "DIR|FILE", verbatim_doc_comment)]
    #[arg(default_value = "default.etcd")]
    path: PathBuf,
    /// Take an exported log without an end as it is
    #[arg(long)]
    without_end: bool,
}

impl LogArg {
    /// Returns the log that is meant.
    pub(super) fn path(self) -> LogPath {
        LogPath { path: self.path, without_end: self.without_end }
    }
}

/// A part of a log.
#[derive(Debug, Args)]
pub(super) struct SpanArgs {
    /// From when on: an index, a time (RFC 3339), or how
    /// long before the end (-10m)
    #[arg(long, alias = "since", value_name = "MOMENT", allow_hyphen_values = true)]
    #[arg(verbatim_doc_comment)]
    pub(super) from: Option<Moment>,
    /// Up to when
    #[arg(long, alias = "until", value_name = "MOMENT", allow_hyphen_values = true)]
    pub(super) to: Option<Moment>,
}

/// Where a log lies, or a machine runs that can be asked.
#[derive(Debug, Args)]
pub(super) struct WhereArgs {
    #[command(flatten)]
    log: LogArg,
    /// Ask a running machine instead, any of the cluster:
    /// its client port, as in http://HOST:PORT
    #[arg(verbatim_doc_comment)]
    #[arg(short = 'u', long, value_name = "URL,...", value_delimiter = ',',
          conflicts_with_all = ["path", "without_end"])]
    pub(super) url: Vec<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

impl WhereArgs {
    /// Returns who is asked.
    fn remote(self) -> Result<Remote, ToolError> {
        Ok(Remote { urls: self.url, tls: self.trust.open()? })
    }
}

/// What of a log is wanted.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Show only what concerns this key, or those below
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    key: Option<KeyPath>,
    /// Show only these: set, create, testAndSet, delete,
    /// deleteDir, testAndDelete, restore, expire, sync,
    /// join, leave, upgrade
    #[arg(long, value_name = "ACTION,...", value_delimiter = ',', verbatim_doc_comment)]
    pub(super) action: Vec<Action>,
}

/// What to show.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub(super) place: WhereArgs,
    #[command(flatten)]
    span: SpanArgs,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Show only what this machine proposed when it led:
    /// by its name, or its id
    #[arg(long, value_name = "NAME|ID", conflicts_with = "url", verbatim_doc_comment)]
    machine: Option<String>,
    /// The same, by its id alone
    #[arg(long, value_name = "ID", hide = true, conflicts_with_all = ["machine", "url"])]
    leader: Option<NodeId>,
    /// Go on with what happens, with --url: a directory
    /// cannot be followed, for its machine uses its files
    /// again
    #[arg(short = 'f', long, conflicts_with = "to", verbatim_doc_comment)]
    pub(super) follow: bool,
    /// Show lines of JSON instead of text
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub(super) fn run(self, look: Look, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let Self { place, span, filter, machine, leader, follow, json } = self;
        let (SpanArgs { from, to }, FilterArgs { key, action: actions }) = (span, filter);
        let selection = Selection { from, to, key, actions, machine, leader, json, look };
        if place.url.is_empty() {
            return log::show(&place.log.path(), &selection, out);
        }
        let following = if follow { Following::BehindPast } else { Following::No };
        wait(place.remote()?.show(&selection, following, out))
    }
}

/// What to show of what happens.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The machine to ask, or several of the cluster: their
    /// client ports, as in http://HOST:PORT
    #[arg(short = 'u', long, value_name = "URL,...", value_delimiter = ',', required = true)]
    #[arg(verbatim_doc_comment)]
    url: Vec<String>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Show lines of JSON instead of text
    #[arg(long)]
    json: bool,
}

impl TailArgs {
    /// Returns who is asked, and for what.
    pub(super) fn selection(self, look: Look) -> Result<(Remote, Selection), ToolError> {
        let FilterArgs { key, action: actions } = self.filter;
        let selection = Selection { key, actions, json: self.json, look, ..Selection::default() };
        Ok((Remote { urls: self.url, tls: self.trust.open()? }, selection))
    }
}

/// Which history to tell.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The key
    #[arg(value_name = "KEY", value_parser = parse_key)]
    key: KeyPath,
    #[command(flatten)]
    place: WhereArgs,
    /// Tell what happened below the key, too
    #[arg(short = 'r', long)]
    recursive: bool,
    #[command(flatten)]
    span: SpanArgs,
    /// Begin with the newest
    #[arg(long)]
    reverse: bool,
    /// Tell so many events, at most
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    limit: Option<usize>,
    /// Show lines of JSON, as the API does
    #[arg(long)]
    json: bool,
}

impl HistoryArgs {
    pub(super) fn run(self, look: Look, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let Self { key, place, recursive, span, reverse, limit, json } = self;
        let SpanArgs { from, to } = span;
        let query = HistoryQuery { key, recursive, from, to, reverse, limit, json, look };
        if place.url.is_empty() {
            return log::history(&place.log.path(), &query, out);
        }
        wait(place.remote()?.history(&query, out))
    }
}

/// What to compare.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// From when: an index, a time (RFC 3339), or how long
    /// before the end (-10m)
    #[arg(verbatim_doc_comment)]
    #[arg(value_name = "A", allow_hyphen_values = true)]
    from: Moment,
    /// To when [default: the end]
    #[arg(value_name = "B", allow_hyphen_values = true)]
    to: Option<Moment>,
    #[command(flatten)]
    place: WhereArgs,
    /// Compare only this key, and those below it
    #[arg(long, value_name = "KEY", value_parser = parse_key, default_value = "/")]
    key: KeyPath,
    /// Show lines of JSON, as the API does
    #[arg(long)]
    json: bool,
}

impl DiffArgs {
    pub(super) fn run(self, look: Look, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let Self { from, to, place, key, json } = self;
        let query = DiffQuery { from, to, key, json, look };
        if place.url.is_empty() {
            return log::diff(&place.log.path(), &query, out);
        }
        wait(place.remote()?.diff(&query, out))
    }
}

/// What to look for.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["logs", "key", "exists", "count"])))]
pub(super) struct BisectArgs {
    /// Two logs: find the first command that differs
    #[arg(value_name = "LOG", num_args = 2, conflicts_with = "path")]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    log: LogArg,
    /// Find when this key first holds --value
    #[arg(long, value_name = "KEY", value_parser = parse_key, requires = "value")]
    key: Option<KeyPath>,
    /// The value
    #[arg(long, value_name = "VALUE", requires = "key")]
    value: Option<String>,
    /// Find when this key or directory is first there
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    exists: Option<KeyPath>,
    /// Find when more keys are first below this directory
    /// than --over
    #[arg(verbatim_doc_comment)]
    #[arg(long, value_name = "DIR", value_parser = parse_key, requires = "over")]
    count: Option<KeyPath>,
    /// How many
    #[arg(long, value_name = "N", requires = "count")]
    over: Option<usize>,
    /// Say what was found as JSON
    #[arg(long)]
    json: bool,
}

impl BisectArgs {
    pub(super) fn run(self, look: Look, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let Self { logs, log, key, value, exists, count, over, json } = self;
        if let [left, right] = &logs[..] {
            let at = |path: &PathBuf| LogPath { path: path.clone(), without_end: log.without_end };
            return log::parting([&at(left), &at(right)], (json, look), out);
        }
        let condition = match (key.zip(value), exists, count.zip(over)) {
            (Some((key, value)), ..) => Condition::Holds { key, value },
            (_, Some(key), _) => Condition::Exists(key),
            (_, _, Some((directory, count))) => Condition::Over { directory, count },
            _ => unreachable!("one of them is required"),
        };
        log::bisect(&log.path(), &condition, (json, look), out)
    }
}

/// Up to when to replay, and what for.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    log: LogArg,
    /// Up to when: an index, a time (RFC 3339), or how
    /// long before the end (-10m)
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, verbatim_doc_comment)]
    to: Option<Moment>,
    /// Write the keys as lines of JSON, as the API lists them
    #[arg(long)]
    json: bool,
    /// Serve the state at this port of this computer, to be
    /// read with curl; 0 for any free one
    #[arg(long, value_name = "PORT", conflicts_with = "json", verbatim_doc_comment)]
    serve: Option<u16>,
}

impl ReplayArgs {
    pub(super) fn run(self, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let state = log::replay(&self.log.path(), self.to)?;
        match self.serve {
            Some(port) => wait(log::serve(state, port, out)),
            None if self.json => log::write_lines(&state, out),
            None => log::print(&state, out),
        }
    }
}

/// What to import.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The exported log; - for the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The new machine's data directory: new, or empty
    #[arg(short = 'd', long, value_name = "DIR", default_value = "default.etcd")]
    data_dir: PathBuf,
    /// The new machine's name [default: that of the first machine in the log]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,
    /// Take a log that does not say where it ends: one that was
    /// cut off, or that an earlier version has exported
    #[arg(long, verbatim_doc_comment)]
    without_end: bool,
    /// Take the log up to there only
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    to: Option<Moment>,
}

impl ImportArgs {
    pub(super) fn run(self, out: &mut dyn io::Write) -> Result<(), ToolError> {
        let Self { file, data_dir, name, without_end, to } = self;
        log::import(&Import { file, name, without_end, to }, &data_dir, out)
    }
}

/// What to fork.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The log: the data directory of a machine that is
    /// stopped, or a copy; an archive/; or an exported log
    #[arg(verbatim_doc_comment)]
    #[arg(value_name = "LOG", default_value = "default.etcd")]
    log: PathBuf,
    /// Up to when: an index, a time (RFC 3339), or how
    /// long before the end (-10m)
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, verbatim_doc_comment)]
    at: Moment,
    /// The new machine's data directory: new, or empty
    #[arg(short = 'd', long = "data-dir", value_name = "DIR")]
    into: PathBuf,
    /// The new machine's name [default: that of the first machine in the log]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,
    /// Take an exported log without an end as it is
    #[arg(long)]
    without_end: bool,
}

impl ForkArgs {
    pub(super) fn fork(self) -> Fork {
        let Self { log, at, into, name, without_end } = self;
        Fork { from: LogPath { path: log, without_end }, at, into, name }
    }
}

/// Waits for what a machine answers.
pub(super) fn wait(asked: impl Future<Output = Result<(), ToolError>>) -> Result<(), ToolError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ToolError::Start)?.block_on(asked)
}
