//! `etcd machine`: the machines of a running cluster.

use std::error::Error;
use std::io;

use clap::{Args, Subcommand};

use super::output::has_seen_enough;
use super::trust_args::TrustArgs;
use crate::tls::TlsFileError;
use crate::tools::machines::{self, ClientPort};

#[derive(Debug, Subcommand)]
pub(super) enum MachineCommand {
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
pub(super) struct ClusterArg {
    /// The client port of any machine of the cluster
    #[arg(short = 'u', long, value_name = "HOST:PORT", default_value = "127.0.0.1:4001")]
    url: String,
    #[command(flatten)]
    trust: TrustArgs,
}

impl ClusterArg {
    /// Returns who is asked.
    fn port(self) -> Result<ClientPort, TlsFileError> {
        Ok(ClientPort { url: self.url, tls: self.trust.open()? })
    }
}

impl MachineCommand {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut out = io::stdout().lock();
        let done = runtime.block_on(async {
            match self {
                Self::List { cluster } => machines::list(&cluster.port()?, &mut out).await,
                Self::Remove { name, cluster } => {
                    machines::remove(&cluster.port()?, &name, &mut out).await
                }
            }
        });
        match done {
            Err(machines::MachineError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}
