//! `etcd log`: the log of a stopped machine, or of a copy.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Subcommand;
use etcd_log::{Index, KeyPath, LogTime, NodeId};

use super::output::has_seen_enough;
use super::recover::DirArg;
use super::values::{parse_key, parse_name};
use crate::tools::log;

/// What can be shown alone.
const ACTIONS: [&str; 8] =
    ["set", "testAndSet", "delete", "deleteDir", "expire", "sync", "join", "leave"];

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Show what the log says: commands, and what came of them
    #[command(after_help = "What was set below /jobs from noon on:\n  \
                            etcd log show --key /jobs --action set --since 2026-11-22T12:00:00Z")]
    Show {
        #[command(flatten)]
        dir: DirArg,
        /// First command to show
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
        /// Last command to show [default: the last there is]
        #[arg(long, value_name = "M", default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
        /// Show only what concerns this key, or those below it
        #[arg(long, value_name = "PREFIX", value_parser = parse_key)]
        key: Option<KeyPath>,
        /// Show only this: set, testAndSet, delete, deleteDir,
        /// expire, sync, join or leave
        #[arg(long, value_name = "ACTION", value_parser = ACTIONS)]
        #[arg(verbatim_doc_comment, hide_possible_values = true)]
        action: Option<String>,
        /// Show only what was logged at this time or later: 2026-11-22T12:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<LogTime>,
        /// Show only what was logged at this time or earlier
        #[arg(long, value_name = "TIME")]
        until: Option<LogTime>,
        /// Show only what the machine with this ID has written as the leader
        #[arg(long, value_name = "ID")]
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
        dir: DirArg,
        /// Print one line of JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Rebuild the state from the log alone, and print it
    #[command(
        after_help = "What all keys held once command 100 was applied:\n  etcd log replay -d node1 --to 100"
    )]
    Replay {
        #[command(flatten)]
        dir: DirArg,
        /// Last command to replay [default: the last there is]
        #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
    },
    /// Check every byte of the log, and the checkpoints against it; name the last command
    #[command(after_help = "Whether a copy is good:\n  etcd log verify -d backup")]
    Verify {
        #[command(flatten)]
        dir: DirArg,
    },
    /// Write the log as lines of JSON: one batch a line, and a last line that says it is the last
    #[command(
        after_help = "A new machine with the history of another:\n  etcd log export -d node1 | etcd log import - -d new"
    )]
    Export {
        #[command(flatten)]
        dir: DirArg,
    },
    /// Make a new machine, a cluster of its own, out of an exported log
    #[command(
        after_help = "A new machine with the history of another:\n  etcd log export -d node1 | etcd log import - -d new"
    )]
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
    },
}

impl LogCommand {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let done = runtime.block_on(async {
            match self {
                Self::Show { dir, from, to, key, action, since, until, leader, json } => {
                    let (from, to) = (Index(from), Index(to));
                    let selection =
                        log::Selection { from, to, key, action, since, until, leader, json };
                    log::show(&dir.path, &selection, &mut out).await
                }
                Self::Stats { dir, json } => log::stats(&dir.path, json, &mut out).await,
                Self::Replay { dir, to } => log::replay(&dir.path, Index(to), &mut out).await,
                Self::Verify { dir } => log::verify(&dir.path, &mut out).await,
                Self::Export { dir } => log::export(&dir.path, &mut out).await,
                Self::Import { file, data_dir, name, without_end } => {
                    let import = log::Import { file, name, without_end };
                    log::import(&import, &data_dir, &mut out)
                }
            }
        });
        let flushed = out.flush();
        match done.and_then(|()| Ok(flushed?)) {
            Err(log::ToolError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}
