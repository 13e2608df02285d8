//! How to run a machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use etcd_log::{LogFormat, Retain};

use super::error::ServeError;
use crate::api::Origin;
use crate::consensus::Timing;
use crate::storage::data_dir::{DataDir, Identity};
use crate::storage::disk_space::Reserve;
use crate::tls::{TlsFiles, TlsVersion};

/// Which ports speak TLS, and with what.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The client port's files; none, if it speaks plainly.
    pub clients: Option<TlsFiles>,
    /// Whether the client port speaks TLS with a certificate of the machine's own making.
    pub auto: bool,
    /// The earliest version that clients may speak.
    pub least: TlsVersion,
    /// The peer port's files; none, if it speaks plainly.
    pub peers: Option<TlsFiles>,
    /// Whether a machine is only believed if its certificate names it; if nobody says so, where
    /// this machine's own has its name.
    pub strict: Option<bool>,
    /// Whether machines may speak plainly, too.
    pub plain_too: bool,
}

/// How to run a machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, if its directory is new.
    pub name: String,
    /// Whether somebody has given that name, and it does not come from the directory's.
    pub is_named: bool,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Where it listens, and by which address it is known.
    pub address: IpAddr,
    /// The port for clients; 0 for any free one.
    pub client_port: u16,
    /// The port for the other machines; 0 for any free one.
    pub peer_port: u16,
    /// Where the other machines reach it, if not at its address and port: `host:port`.
    pub advertise_peer: Option<String>,
    /// Where clients reach it, if not at its address and port: `host:port`.
    pub advertise_client: Option<String>,
    /// Web pages that may use the client port although it is not theirs.
    pub cors: Vec<Origin>,
    /// The names that the client port may be called by, besides addresses and `localhost`;
    /// any, if there are none and others than this computer reach it.
    pub allowed_hosts: Vec<String>,
    /// Which ports speak TLS, and with what.
    pub tls: TlsOptions,
    /// Machines to join through, if the directory is new.
    pub join: Vec<String>,
    /// How many events the watch ring holds.
    pub ring_capacity: usize,
    /// After how many bytes of batches a checkpoint is written: what a start has
    /// to replay at most.
    pub checkpoint_bytes: usize,
    /// How many bytes are allocated for a segment of the log.
    pub segment_bytes: u32,
    /// How much of history is kept.
    pub retain: Retain,
    /// How long leaders and followers wait for each other.
    pub timing: Timing,
    /// How much room on the disk is held back.
    pub reserve: Reserve,
    /// The newest format of a log that it reads: an earlier one plays an earlier version.
    pub log_format: LogFormat,
    /// Whether to set aside what the directory holds.
    pub start_anew: bool,
}

impl Options {
    /// Refuses another name for a machine that has one, if somebody has given it.
    pub(crate) fn insist_on_name(
        &self,
        identity: &Identity,
        data_dir: &DataDir,
    ) -> Result<(), ServeError> {
        if !self.is_named || *identity.name == *self.name {
            return Ok(());
        }
        let (known, wanted) = (Arc::clone(&identity.name), self.name.clone());
        Err(ServeError::OtherName { dir: data_dir.path().to_owned(), known, wanted })
    }
}
