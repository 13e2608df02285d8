//! `etcd cert`: certificates for TLS, from an authority of one's own.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::has_seen_enough;
use super::values::{parse_name, parse_own_host};
use crate::tls::CertFolder;
use crate::tools::certificates::{self, CertificateError, Holder};

#[derive(Debug, Subcommand)]
#[command(after_help = "TLS between three machines, and for clients:\n  \
    etcd cert init\n  \
    etcd cert machine node1 --host 127.0.0.1,localhost\n  \
    etcd cert client alice")]
pub(super) enum CertCommand {
    /// Make an authority, which signs all others
    Init {
        #[command(flatten)]
        dir: DirArg,
    },
    /// Make a machine's certificate, for both of its ports
    Machine {
        /// The machine's name, as in -n
        #[arg(value_name = "NAME", value_parser = parse_name)]
        name: String,
        /// Names and addresses by which others reach the machine
        #[arg(long = "host", value_name = "HOST,...", required = true, value_delimiter = ',',
              value_parser = parse_own_host)]
        hosts: Vec<String>,
        #[command(flatten)]
        issued: IssuedArgs,
    },
    /// Make a client's certificate
    Client {
        /// The user
        #[arg(value_name = "USER", value_parser = parse_name)]
        user: String,
        #[command(flatten)]
        issued: IssuedArgs,
    },
    /// Make the certificate of a machine or a client count no longer
    Revoke {
        /// The machine, or the user
        #[arg(value_name = "NAME", value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        dir: DirArg,
    },
}

#[derive(Debug, Args)]
pub(super) struct DirArg {
    /// The folder of the authority
    #[arg(short = 'd', long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct IssuedArgs {
    #[command(flatten)]
    dir: DirArg,
    /// For how many days it is good
    #[arg(long, value_name = "N", default_value_t = 365,
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace the one that is there
    #[arg(long)]
    renew: bool,
}

impl CertCommand {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let out = &mut io::stdout().lock();
        let done = match self {
            Self::Init { dir } => certificates::init(&CertFolder::new(dir.dir), out),
            Self::Machine { name, hosts, issued } => {
                issued.issue(&Holder::Machine { name, hosts }, out)
            }
            Self::Revoke { name, dir } => {
                certificates::revoke(&CertFolder::new(dir.dir), &name, out)
            }
            Self::Client { user, issued } => issued.issue(&Holder::Client { user }, out),
        };
        match done {
            Err(CertificateError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}

impl IssuedArgs {
    fn issue(&self, holder: &Holder, out: &mut dyn io::Write) -> Result<(), CertificateError> {
        let life = Duration::from_hours(24 * u64::from(self.days));
        let folder = CertFolder::new(self.dir.dir.clone());
        certificates::issue(&folder, holder, life, self.renew, out)
    }
}
