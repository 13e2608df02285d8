//! `etcd log`: the log of a stopped machine, of a copy, or an exported one.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anstream::{AutoStream, ColorChoice};
use clap::{Args, Subcommand};
use etcd_log::{KeyPath, NodeId};

use super::output::has_seen_enough;
use super::values::{parse_key, parse_name};
use crate::tools::log::{self, Action, LogPath, Look};
use crate::util::moment::Moment;

/// Where a log lies.
#[derive(Debug, Args)]
pub(super) struct LogArg {
    /// A machine's data directory, stopped or a copy; an archive/; or an exported log
    #[arg(short = 'd', long = "data-dir", value_name = "DIR|FILE", default_value = "default.etcd")]
    path: PathBuf,
    /// Take an exported log that does not say where it ends as it is
    #[arg(long)]
    without_end: bool,
}

impl LogArg {
    fn path(self) -> LogPath {
        LogPath { path: self.path, without_end: self.without_end }
    }
}

/// A part of a log.
#[derive(Debug, Args)]
pub(super) struct SpanArgs {
    /// From when on: an index, a time (RFC 3339), or how long before the end (-10m)
    #[arg(long, alias = "since", value_name = "MOMENT", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// Up to when
    #[arg(long, alias = "until", value_name = "MOMENT", allow_hyphen_values = true)]
    to: Option<Moment>,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Show what the log says: commands, and what came of them
    #[command(after_help = "What was set below /jobs in the last ten minutes:\n  \
                            etcd log show --key /jobs --action set,delete --from -10m")]
    Show {
        #[command(flatten)]
        log: LogArg,
        #[command(flatten)]
        span: SpanArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Show only what this machine proposed when it led: its name, or its id
        #[arg(long, value_name = "NAME|ID")]
        machine: Option<String>,
        /// The same, by its id alone
        #[arg(long, value_name = "ID", hide = true, conflicts_with = "machine")]
        leader: Option<NodeId>,
        /// Show lines of JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Count what the log holds: kinds of commands, busiest keys, and how many came when
    #[command(after_help = "The ten keys that change most often:\n  \
                            etcd log stats -d node1 --json | jq .busiestKeys")]
    Stats {
        #[command(flatten)]
        log: LogArg,
        /// Print one line of JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Rebuild the state from the log alone, and print it
    #[command(after_help = "What all keys held at noon, as lines of JSON:\n  \
                            etcd log replay -d node1 --to 2026-11-22T12:00:00Z --json")]
    Replay {
        #[command(flatten)]
        log: LogArg,
        /// Up to when: an index, a time (RFC 3339), or how long before the end (-10m)
        #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
        to: Option<Moment>,
        /// Write the keys as lines of JSON, as the API lists them
        #[arg(long)]
        json: bool,
    },
    /// Check every byte of the log, and the checkpoints against it; name the last command
    #[command(after_help = "Whether a copy is good:\n  etcd log verify -d backup")]
    Verify {
        #[command(flatten)]
        log: LogArg,
        /// Check what a running machine has sealed, and its checkpoints
        #[arg(long)]
        live: bool,
        /// Say what was found as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the log as lines of JSON: one batch a line, and a last line that says it is the last
    #[command(after_help = "A new machine with the history of another, up to command 41:\n  \
        etcd log export -d node1 --to 41 | etcd log import - -d new\n\n\
        A part that does not begin with command 1 says so in its first line, and cannot be\n\
        imported: nobody knows what came before.")]
    Export {
        #[command(flatten)]
        log: LogArg,
        #[command(flatten)]
        span: SpanArgs,
    },
    /// Make a new machine, a cluster of its own, out of an exported log
    #[command(after_help = "A new machine with the history of another:\n  \
                            etcd log export -d node1 | etcd log import - -d new")]
    Import {
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
    },
}

/// What of a log is wanted.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Show only what concerns this key, or those below it
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    key: Option<KeyPath>,
    /// Show only these: set, create, testAndSet, delete, deleteDir, testAndDelete,
    /// restore, expire, sync, join, leave, upgrade
    #[arg(long, value_name = "ACTION,...", value_delimiter = ',', verbatim_doc_comment)]
    action: Vec<Action>,
}

impl LogCommand {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let stdout = io::stdout();
        let look = Look { colour: AutoStream::choice(&stdout) != ColorChoice::Never };
        let mut out = io::BufWriter::new(stdout.lock());
        let done = self.write(look, &mut out);
        let flushed = out.flush();
        match done.and_then(|()| Ok(flushed?)) {
            Err(log::ToolError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }

    fn write(self, look: Look, out: &mut dyn io::Write) -> Result<(), log::ToolError> {
        match self {
            Self::Show { log, span, filter, machine, leader, json } => {
                let (SpanArgs { from, to }, FilterArgs { key, action: actions }) = (span, filter);
                let selection = log::Selection { from, to, key, actions, machine, leader, json, look };
                log::show(&log.path(), &selection, out)
            }
            Self::Stats { log, json } => log::stats(&log.path(), json, out),
            Self::Replay { log, to, json } => {
                let state = log::replay(&log.path(), to)?;
                if json { log::write_lines(&state, out) } else { log::print(&state, out) }
            }
            Self::Verify { log, live, json } => log::verify(&log.path(), (live, json), out),
            Self::Export { log, span } => log::export(&log.path(), (span.from, span.to), out),
            Self::Import { file, data_dir, name, without_end, to } => {
                let import = log::Import { file, name, without_end, to };
                log::import(&import, &data_dir, out)
            }
        }
    }
}
