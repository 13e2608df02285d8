//! `etcd log`: what its verbs take, and what is run for them.

use std::error::Error;
use std::io::{self, Write as _};

use anstream::{AutoStream, ColorChoice};
use clap::Subcommand;
use clap::error::ErrorKind;

use super::log_args::{
    BisectArgs, DiffArgs, ForkArgs, HistoryArgs, ImportArgs, LogArg, ReplayArgs, ShowArgs,
    SpanArgs, TailArgs, wait,
};
use super::output::has_seen_enough;
use crate::tools::log::{self, Following, Look, ToolError};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Show what the log says: commands, and what came of them
    #[command(after_help = "What was set below /jobs in the last ten minutes:\n  \
                            etcd log show --key /jobs --action set --from -10m\n\
                            What happened there in the last minute, and goes on to:\n  \
                            etcd log show --key /jobs -f --from -1m --url http://127.0.0.1:4001")]
    Show(ShowArgs),
    /// Show what happens from now on, asked of a running machine
    #[command(after_help = "All that expires, as it expires:\n  \
                            etcd log tail --url http://127.0.0.1:4001 --action expire")]
    Tail(TailArgs),
    /// Tell what happened at a key, or below it
    #[command(after_help = "The last two changes of a key:\n  \
                            etcd log history /jobs/7 --reverse --limit 2")]
    History(HistoryArgs),
    /// Tell what became of the keys between two moments
    #[command(after_help = "What has changed in the last hour:\n  \
                            etcd log diff -1h --key /jobs")]
    Diff(DiffArgs),
    /// Find the first command behind which something is so, or two logs differ
    #[command(
        after_help = "Which command made /a what it is, and where a copy went another way:\n  \
                            etcd log bisect --key /a --value x\n  \
                            etcd log bisect node1 copy\n\n\
        The log's checkpoints are searched by halves. What came, went and came again has\n\
        several beginnings, of which one is found."
    )]
    Bisect(BisectArgs),
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
    /// Rebuild the state from the log alone, and print it, or serve it
    #[command(
        after_help = "What all keys held at noon, as lines of JSON, or to look around in:\n  \
                            etcd log replay -d node1 --to 2026-11-22T12:00:00Z --json\n  \
                            etcd log replay -d node1 --to 41 --serve 4010"
    )]
    Replay(ReplayArgs),
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
    /// Write the log, or a part of it, as lines of JSON: one batch a line, and an end
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
    Import(ImportArgs),
    /// Make a new machine, a cluster of its own, with the history of a log up to a moment
    #[command(after_help = "What the cluster was ten minutes ago, to try something in:\n  \
                            etcd log fork node1 --at -10m -d tried && etcd -d tried")]
    Fork(ForkArgs),
}

impl LogCommand {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        self.check()?;
        let stdout = io::stdout();
        let look = Look { colour: AutoStream::choice(&stdout) != ColorChoice::Never };
        let mut out = io::BufWriter::new(stdout.lock());
        let done = self.write(look, &mut out);
        let flushed = out.flush();
        match done.and_then(|()| Ok(flushed?)) {
            Err(ToolError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Refuses what clap cannot see to make no sense.
    fn check(&self) -> Result<(), clap::Error> {
        let (filter, asks, follows) = match self {
            Self::Show(show) => (&show.filter, !show.place.url.is_empty(), show.follow),
            Self::Tail(tail) => (&tail.filter, true, true),
            _ => return Ok(()),
        };
        if follows && !asks {
            let why = "a directory cannot be followed, for the machine that runs there uses its \
                       files again: -f wants --url\n";
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, why));
        }
        let told = filter.action.iter().find(|action| asks && !action.is_of_events());
        told.map_or(Ok(()), |action| {
            let why = format!(
                "with --url, --action is set, delete or expire: a machine tells what happened, \
                 not that it was a {action}\n"
            );
            Err(clap::Error::raw(ErrorKind::ArgumentConflict, why))
        })
    }

    fn write(self, look: Look, out: &mut dyn io::Write) -> Result<(), ToolError> {
        match self {
            Self::Show(show) => show.run(look, out),
            Self::Tail(tail) => {
                let (remote, selection) = tail.selection(look)?;
                wait(remote.show(&selection, Following::FromNow, out))
            }
            Self::History(history) => history.run(look, out),
            Self::Diff(diff) => diff.run(look, out),
            Self::Bisect(bisect) => bisect.run(look, out),
            Self::Stats { log, json } => log::stats(&log.path(), (json, look), out),
            Self::Replay(replay) => replay.run(out),
            Self::Verify { log, live, json } => log::verify(&log.path(), (live, json), out),
            Self::Export { log, span } => log::export(&log.path(), (span.from, span.to), out),
            Self::Import(import) => import.run(out),
            Self::Fork(fork) => log::fork(&fork.fork(), out),
        }
    }
}
