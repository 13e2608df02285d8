//! The command line: the first etcd's flags, with one dash, and a long name for
//! each; and the tools for the log.

mod advice;

use std::error::Error;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use etcd_log::{Index, KeyPath, Retain};
use etcd_projections::WatchRing;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::consensus::Timing;
use crate::server;
use crate::storage::disk_space::Reserve;
use crate::tools::force_new_cluster;
use crate::tools::log;
use crate::tools::machines;
use crate::util::error_chain;
use crate::util::printable::Printable;

/// A replicated key-value store that keeps every change in a log
#[derive(Debug, Parser)]
#[command(name = "etcd", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(
    after_help = "Without a command, etcd runs a machine. With no options it serves clients at\n\
                  127.0.0.1:4001 and keeps its data in ./default.etcd. A SIZE is a number of bytes,\n\
                  or has a unit: 64kB, 64MiB, 10GiB.\n\n\
                  A cluster of three on one computer:\n  \
                    etcd -d node1\n  \
                    etcd -c 4002 -s 7002 -C 127.0.0.1:7001 -d node2\n  \
                    etcd -c 4003 -s 7003 -C 127.0.0.1:7001 -d node3"
)]
pub struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How to run a machine.
#[derive(Debug, Args)]
struct ServeArgs {
    /// Port for the other machines; 0 for any free one
    #[arg(short = 's', long, value_name = "PORT", default_value_t = 7001)]
    peer_port: u16,

    /// Port for clients; 0 for any free one
    #[arg(short = 'c', long, value_name = "PORT", default_value_t = 4001)]
    client_port: u16,

    /// Directory for the machine's data
    #[arg(short = 'd', long, value_name = "DIR", default_value = "default.etcd")]
    data_dir: PathBuf,

    /// Machines of a cluster to join through, by their peer ports;
    /// later the directory knows which cluster it belongs to
    /// [default: found a cluster]
    #[arg(short = 'C', long, value_name = "HOST:PORT,...", value_delimiter = ',',
          verbatim_doc_comment,
          value_parser = parse_host_and_port)]
    join: Vec<String>,

    /// Address to listen on, and to be known by
    #[arg(short = 'a', long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST),
          value_parser = parse_address)]
    address: IpAddr,

    /// Where the other machines reach this one, behind a proxy say
    /// [default: at -a and -s]
    #[arg(long, value_name = "HOST:PORT", verbatim_doc_comment, value_parser = parse_host_and_port)]
    advertise_peer: Option<String>,

    /// Name of this machine in the cluster, for good
    /// [default: that of the directory]
    #[arg(short = 'n', long, value_name = "NAME", verbatim_doc_comment)]
    name: Option<String>,

    /// How many events are kept at hand for watches, 64 MiB of them at
    /// most; older ones are read from the log
    #[arg(short = 'm', long, value_name = "N", verbatim_doc_comment,
          default_value_t = WatchRing::DEFAULT_CAPACITY as u32,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    ring_size: u32,

    /// Write a checkpoint after this much of log
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    checkpoint_bytes: u64,

    /// Keep this much of history: a size of sealed files (10GiB), an
    /// age (30d; h, d or w), or forever
    #[arg(long, value_name = "SIZE|AGE", default_value = "10GiB", verbatim_doc_comment)]
    retain: Retain,

    /// Length of a segment of the log, 1KiB to 256MiB
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = parse_segment_size)]
    segment_bytes: u32,

    /// Refuse writes while less than this is free
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    disk_reserve: u64,

    /// Keep a file of this length, to be let go when the disk is
    /// nearly full
    #[arg(long, value_name = "SIZE", verbatim_doc_comment, default_value = "64MiB", value_parser = parse_size)]
    ballast_bytes: u64,

    /// Milliseconds between a leader's heartbeats
    #[arg(long, value_name = "MS", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(20..=10_000))]
    heartbeat: u64,

    /// Milliseconds, at least and at most, to wait for a word of the
    /// leader before looking for another one
    #[arg(long, value_name = "MIN-MAX", verbatim_doc_comment,
          default_value = "600-1200", value_parser = parse_election)]
    election: (Duration, Duration),

    /// Start anew; what the directory holds is moved into a directory
    /// inside it
    #[arg(short = 'i', long, verbatim_doc_comment)]
    ignore: bool,

    /// Say more on the standard error
    #[arg(short = 'v', long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read, check, export or import the log of a stopped machine, or of a copy
    #[command(subcommand)]
    Log(LogCommand),
    /// List the machines of a running cluster, or remove one
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Make a cluster of one machine out of the directory of one that survived
    Recover {
        #[command(flatten)]
        dir: DirArg,
        /// Confirm that the others, and what only they know, are lost for good
        #[arg(long, required = true)]
        force_new_cluster: bool,
    },
}

#[derive(Debug, Subcommand)]
enum MachineCommand {
    /// Show every machine, its part in the cluster, and how far behind it is
    #[command(after_help = COLUMNS)]
    List {
        #[command(flatten)]
        cluster: ClusterArg,
    },
    /// Remove a machine from the cluster, for good: its directory cannot be used again
    Remove {
        /// The machine's name, as in the list
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        cluster: ClusterArg,
    },
}

/// What the table of machines means.
const COLUMNS: &str = "\
ROLE     leader; follower, which has a vote; learner, which has none yet;
         or unreachable, for the machine that was asked
PEERS    where the other machines reach it
CLIENTS  where clients reach it
INDEX    the last command that it has applied
LAG      how many commands it is behind whoever has applied most";

#[derive(Debug, Args)]
struct ClusterArg {
    /// The client port of any machine of the cluster
    #[arg(short = 'u', long, value_name = "HOST:PORT", default_value = "127.0.0.1:4001")]
    url: String,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Show what the log says: commands, and what came of them
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
        /// Show lines of JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Rebuild the state from the log alone, and print it
    Replay {
        #[command(flatten)]
        dir: DirArg,
        /// Last command to replay [default: the last there is]
        #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
    },
    /// Check every byte of the log, and the checkpoints against it; name the last command
    Verify {
        #[command(flatten)]
        dir: DirArg,
    },
    /// Write the log as lines of JSON: one batch a line, and a last line that says it is the last
    Export {
        #[command(flatten)]
        dir: DirArg,
    },
    /// Make a new machine, a cluster of its own, out of an exported log
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

#[derive(Debug, Args)]
struct DirArg {
    /// Data directory of a machine that is stopped
    #[arg(short = 'd', long = "data-dir", value_name = "DIR", default_value = "default.etcd")]
    path: PathBuf,
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    ///
    /// If that fails: the error is for people to read.
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let verbose = self.serve.verbose;
        start_logging(verbose);
        match self.command {
            None => Ok(server::run(self.serve.into_options()?)?),
            Some(Command::Log(command)) => command.run(),
            Some(Command::Machine(command)) => command.run(),
            Some(Command::Recover { dir, .. }) => {
                Ok(force_new_cluster::run(&dir.path, &mut io::stdout())?)
            }
        }
    }
}

impl ServeArgs {
    fn into_options(self) -> Result<server::Options, server::ServeError> {
        let is_named = self.name.is_some();
        let name = match self.name {
            Some(name) => name,
            None => name_of(&self.data_dir),
        };
        if etcd_projections::machine_key(&name).is_none() {
            return Err(server::ServeError::Name(name));
        }
        let heartbeat = Duration::from_millis(self.heartbeat);
        if self.election.0 < 3 * heartbeat {
            return Err(server::ServeError::Election { heartbeat, least: self.election.0 });
        }
        Ok(server::Options {
            name,
            is_named,
            data_dir: self.data_dir,
            address: self.address,
            client_port: self.client_port,
            peer_port: self.peer_port,
            advertise_peer: self.advertise_peer,
            join: self.join,
            ring_capacity: self.ring_size as usize,
            checkpoint_bytes: usize::try_from(self.checkpoint_bytes).unwrap_or(usize::MAX),
            segment_bytes: self.segment_bytes,
            retain: self.retain,
            timing: Timing { heartbeat, election: self.election, seed: None },
            reserve: Reserve { free: self.disk_reserve, ballast: self.ballast_bytes },
            start_anew: self.ignore,
        })
    }
}

impl MachineCommand {
    fn run(self) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut out = io::stdout().lock();
        let done = runtime.block_on(async {
            match self {
                Self::List { cluster } => machines::list(&cluster.url, &mut out).await,
                Self::Remove { name, cluster } => {
                    machines::remove(&cluster.url, &name, &mut out).await
                }
            }
        });
        match done {
            Err(machines::MachineError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}

impl LogCommand {
    fn run(self) -> Result<(), Box<dyn Error>> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let done = runtime.block_on(async {
            match self {
                Self::Show { dir, from, to, key, json } => {
                    let selection = log::Selection { from: Index(from), to: Index(to), key, json };
                    log::show(&dir.path, &selection, &mut out).await
                }
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

/// Whether whoever read our output wants no more of it.
fn has_seen_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Says on one line why the program ends; on another one, what can be done about damage.
pub fn complain(error: &(dyn Error + 'static)) {
    error_chain::complain(error);
    if let Some(advice) = error.downcast_ref().and_then(advice::advice) {
        let _written = writeln!(io::stderr(), "etcd: what to do: {}", Printable(advice));
    }
}

fn start_logging(verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let targets =
        Targets::new().with_target("etcd", level).with_target("openraft", LevelFilter::OFF);
    // Whatever a line quotes, of a client, a file or another machine, it stays one line.
    let fields = debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{}", Printable(format_args!("{value:?}"))),
        name => write!(out, "{name}={}", Printable(format_args!("{value:?}"))),
    });
    let format = tracing_subscriber::fmt::layer()
        .fmt_fields(fields.delimited(" "))
        .with_target(false)
        .with_writer(io::stderr);
    tracing_subscriber::registry().with(format).with(targets).init();
}

/// Returns the name that a machine gets from its directory: `node1` from
/// `nodes/node1`, `default` from `default.etcd`.
fn name_of(dir: &std::path::Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "default".to_owned());
    name.strip_suffix(".etcd").filter(|name| !name.is_empty()).unwrap_or(&name).to_owned()
}

fn parse_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>();
    size.map(|size| size.as_u64()).map_err(|_| "expected a size like 64MiB".to_owned())
}

fn parse_segment_size(text: &str) -> Result<u32, String> {
    let size = u32::try_from(parse_size(text)?).ok();
    let fits = |size: &u32| (1 << 10..=256 << 20).contains(size);
    size.filter(fits).ok_or_else(|| "expected a size from 1KiB to 256MiB".to_owned())
}

fn parse_election(text: &str) -> Result<(Duration, Duration), String> {
    let times = text.split_once('-').and_then(|(least, most)| {
        let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
        Some((millis(least)?, millis(most)?))
    });
    let fits = |(least, most): &(Duration, Duration)| least < most && most.as_secs() < 3600;
    times.filter(fits).ok_or_else(|| "expected two times like 600-1200".to_owned())
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "expected an IP address".to_owned())?;
    if address.is_unspecified() {
        return Err("nobody could reach the machine there: give one of its addresses".to_owned());
    }
    Ok(address)
}

fn parse_host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let fits = |(host, port): (&str, &str)| {
        !host.is_empty() && !host.contains('/') && port.parse().is_ok_and(|port: u16| port > 0)
    };
    if parts.is_some_and(fits) {
        return Ok(text.to_owned());
    }
    Err("expected a host and a port, like 127.0.0.1:7001".to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    let name = etcd_projections::machine_key(text).map(|_| text.to_owned());
    name.ok_or_else(|| "expected one part of a key".to_owned())
}

fn parse_key(text: &str) -> Result<KeyPath, String> {
    KeyPath::clean(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// As a terminal of a hundred columns shows it, without wrapping.
    #[test]
    fn help_fits_on_a_screen() {
        let mut commands = vec![Cli::command()];
        while let Some(mut command) = commands.pop() {
            let help = command.render_help().to_string();
            let long = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{}", command.get_name());
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn flags_of_the_first_etcd_are_taken() {
        let line = "etcd -s 7002 -c 4002 -C 127.0.0.1:7001,127.0.0.1:7003 -d nodes/node2 -a 127.0.0.2 -n two -m 10 -i -v";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!((cli.serve.peer_port, cli.serve.client_port), (7002, 4002));
        assert_eq!(cli.serve.join, ["127.0.0.1:7001", "127.0.0.1:7003"]);
        assert!(cli.serve.ignore && cli.serve.verbose);
    }

    #[test]
    fn sizes_have_units_or_none() {
        for (text, size) in [("64MiB", 64 << 20), ("1000", 1000), ("2kB", 2000), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "much", "-1", "12XB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["1000", "1GiB"] {
            assert!(parse_segment_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_such_that_others_can_use() {
        for text in ["127.0.0.1:7001", "[::1]:7001", "node1.example:80"] {
            assert_eq!(parse_host_and_port(text).as_deref(), Ok(text));
        }
        for text in ["127.0.0.1", ":7001", "http://node1:7001", "node1:0", "node1:99999", ""] {
            assert!(parse_host_and_port(text).is_err(), "{text}");
        }
        assert!(parse_address("10.0.0.1").is_ok());
        for text in ["0.0.0.0", "::", "node1", ""] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn name_comes_from_the_directory() {
        for (dir, name) in
            [("nodes/node1", "node1"), ("default.etcd", "default"), (".etcd", ".etcd")]
        {
            assert_eq!(name_of(std::path::Path::new(dir)), name);
        }
    }
}
