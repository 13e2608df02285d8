//! The command line: the first etcd's flags, with one dash, and a long name for
//! each; and the tools for the log.

mod advice;
mod cert;
mod log;
mod log_args;
mod machine;
mod output;
mod recover;
mod serve;
mod tls_args;
mod trust_args;
mod values;

use std::error::Error;
use std::io::{self, Write as _};

use clap::{Parser, Subcommand};

use crate::server::{self, ServeError};
use crate::tools::log::ToolError;
use crate::tools::machines::MachineError;
use crate::util::error_chain;
use crate::util::printable::Printable;
use cert::CertCommand;
use log::LogCommand;
use machine::MachineCommand;
use output::start_logging;
use recover::RecoverArgs;
use serve::ServeArgs;
use tls_args::with_two_dashes;

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Read, search, check, export, import or fork a log; or ask a running machine for it
    #[command(subcommand)]
    Log(LogCommand),
    /// List the machines of a running cluster, or remove one
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Make certificates, for TLS on both ports
    #[command(subcommand)]
    Cert(CertCommand),
    /// Make a cluster of one machine out of the directory of one that survived
    Recover(RecoverArgs),
}

impl Cli {
    /// Reads the command line. Flags of 2013 with one dash are understood.
    ///
    /// Ends the process if it makes no sense, or asks for help.
    pub fn read() -> Self {
        Self::parse_from(std::env::args_os().map(with_two_dashes))
    }

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
            Some(Command::Cert(command)) => command.run(),
            Some(Command::Log(command)) => command.run(),
            Some(Command::Machine(command)) => command.run(),
            Some(Command::Recover(args)) => args.run(),
        }
    }
}

/// Returns the status with which the program ends because of an error: 2 where what was asked
/// for makes no sense, files that it names included, and 1 where it failed.
pub fn status(error: &(dyn Error + 'static)) -> u8 {
    use ServeError::{Election, Name, Tls, Unadvertised};
    let is_of_line = match error.downcast_ref() {
        Some(Name(_) | Election { .. } | Unadvertised(_) | Tls(_)) => true,
        _ => {
            matches!(error.downcast_ref(), Some(ToolError::Tls(_)))
                || matches!(error.downcast_ref(), Some(MachineError::Tls(_)))
        }
    };
    if is_of_line { 2 } else { 1 }
}

/// Says on one line why the program ends; on another one, what can be done about damage.
pub fn complain(error: &(dyn Error + 'static)) {
    error_chain::complain(error);
    if let Some(advice) = error.downcast_ref().and_then(advice::advice) {
        let _written = writeln!(io::stderr(), "etcd: what to do: {}", Printable(advice));
    }
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
    fn every_verb_of_the_log_has_an_example() {
        let cli = Cli::command();
        let log = cli.find_subcommand("log").unwrap();
        for verb in log.get_subcommands() {
            let (name, help) = (verb.get_name(), verb.get_after_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("etcd log {name}")), "{name}: {help}");
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
}
