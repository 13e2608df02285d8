//! Running a machine: the flags of the first etcd, and some more.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use etcd_log::{LogFormat, Retain};
use etcd_projections::WatchRing;

use super::tls_args::TlsArgs;
use super::values::{
    parse_address, parse_election, parse_host, parse_host_and_port, parse_segment_size, parse_size,
};
use crate::api::Origin;
use crate::consensus::Timing;
use crate::server::{Options, ServeError};
use crate::storage::disk_space::Reserve;

/// How to run a machine.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Port for other machines; 0 for any free one
    #[arg(short = 's', long, value_name = "PORT", default_value_t = 7001)]
    pub(super) peer_port: u16,

    /// Port for clients; 0 for any free one
    #[arg(short = 'c', long, value_name = "PORT", default_value_t = 4001)]
    pub(super) client_port: u16,

    /// Directory for the machine's data
    #[arg(short = 'd', long, value_name = "DIR", default_value = "default.etcd")]
    pub(super) data_dir: PathBuf,

    /// Machines of a cluster to join through, by their peer ports;
    /// later the directory knows which cluster it belongs to
    /// [default: found a cluster]
    #[arg(short = 'C', long, value_name = "HOST:PORT,...", value_delimiter = ',',
          verbatim_doc_comment,
          value_parser = parse_host_and_port)]
    pub(super) join: Vec<String>,

    /// Address to listen on, and to be known by; 0.0.0.0 and :: are
    /// all of them, and want the two below
    #[arg(short = 'a', long, value_name = "IP", verbatim_doc_comment,
          default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = parse_address)]
    address: IpAddr,

    /// Where the other machines reach this one, behind a proxy say
    /// [default: at -a and -s]
    #[arg(long, value_name = "HOST:PORT", verbatim_doc_comment, value_parser = parse_host_and_port)]
    advertise_peer: Option<String>,

    /// Where clients reach this machine, behind a proxy say
    /// [default: at -a and -c]
    #[arg(long, value_name = "HOST:PORT", verbatim_doc_comment, value_parser = parse_host_and_port)]
    advertise_client: Option<String>,

    /// Web pages of other origins that may use the client port, by
    /// scheme, host and port; * for all
    #[arg(long, value_name = "ORIGIN,...", value_delimiter = ',', verbatim_doc_comment)]
    cors: Vec<Origin>,

    /// Names that the client port may be called by, besides
    /// addresses and localhost [default: any, where -a is reached by
    /// others than this computer]
    #[arg(long, value_name = "HOST,...", value_delimiter = ',', verbatim_doc_comment,
          value_parser = parse_host)]
    allowed_hosts: Vec<String>,

    /// Name of this machine in the cluster, for good
    /// [default: that of the directory]
    #[arg(short = 'n', long, value_name = "NAME", verbatim_doc_comment)]
    name: Option<String>,

    /// How many events are kept at hand for watches, 64 MiB of them
    /// at most; older ones are read from the log
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

    /// Play a version that reads no later format of a log, for tests of upgrades
    #[arg(long, value_name = "N", hide = true, default_value_t = LogFormat::NEWEST.0,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LogFormat::NEWEST.0)))]
    log_format: u32,

    /// Start anew; what the directory holds is moved into a directory
    /// inside it
    #[arg(short = 'i', long, verbatim_doc_comment)]
    pub(super) ignore: bool,

    /// Say more on the standard error
    #[arg(short = 'v', long)]
    pub(super) verbose: bool,

    #[command(flatten)]
    tls: TlsArgs,
}

impl ServeArgs {
    pub(super) fn into_options(self) -> Result<Options, ServeError> {
        let is_named = self.name.is_some();
        let name = match self.name {
            Some(name) => name,
            None => name_of(&self.data_dir),
        };
        if etcd_projections::machine_key(&name).is_none() {
            return Err(ServeError::Name(name));
        }
        let heartbeat = Duration::from_millis(self.heartbeat);
        if self.election.0 < 3 * heartbeat {
            return Err(ServeError::Election { heartbeat, least: self.election.0 });
        }
        let is_advertised = self.advertise_peer.is_some() && self.advertise_client.is_some();
        if self.address.is_unspecified() && !is_advertised {
            return Err(ServeError::Unadvertised(self.address));
        }
        Ok(Options {
            name,
            is_named,
            data_dir: self.data_dir,
            address: self.address,
            client_port: self.client_port,
            peer_port: self.peer_port,
            advertise_peer: self.advertise_peer,
            advertise_client: self.advertise_client,
            cors: self.cors,
            allowed_hosts: self.allowed_hosts,
            tls: self.tls.into_options(),
            join: self.join,
            ring_capacity: self.ring_size as usize,
            checkpoint_bytes: usize::try_from(self.checkpoint_bytes).unwrap_or(usize::MAX),
            segment_bytes: self.segment_bytes,
            retain: self.retain,
            timing: Timing { heartbeat, election: self.election, seed: None },
            reserve: Reserve { free: self.disk_reserve, ballast: self.ballast_bytes },
            log_format: LogFormat(self.log_format),
            start_anew: self.ignore,
        })
    }
}

/// Returns the name that a machine gets from its directory: `node1` from
/// `nodes/node1`, `default` from `default.etcd`.
fn name_of(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "default".to_owned());
    name.strip_suffix(".etcd").filter(|name| !name.is_empty()).unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_comes_from_the_directory() {
        for (dir, name) in
            [("nodes/node1", "node1"), ("default.etcd", "default"), (".etcd", ".etcd")]
        {
            assert_eq!(name_of(Path::new(dir)), name);
        }
    }
}
