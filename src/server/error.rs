//! Why a machine does not run, or goes on no longer.
//!
//! Whatever is wrong at the start, or ends a machine that serves, is a [`ServeError`]: its
//! text is the last word of the process. A log that fails ends it at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::LogError;

use super::join::JoinRefused;
use crate::consensus::ConsensusError;
use crate::storage::data_dir::DataDirError;
use crate::storage::recovery::RecoveryError;
use crate::tls::{CertError, TlsFileError};
use crate::util::error_chain::complain;

/// Why a machine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The name cannot be a part of a key.
    #[error("{0:?} cannot be the name of a machine: it must be one part of a key")]
    Name(String),
    /// It has asked a cluster to let it in, and is to found another one.
    #[error(
        "machine {0} has begun to join a cluster: say with -C which one, or begin anew with -i"
    )]
    Joining(Arc<str>),
    /// It has another name already.
    #[error(
        "{} is the directory of machine {known}, and -n says {wanted}: leave -n away, take another directory, or begin anew with -i",
        dir.display()
    )]
    OtherName {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        known: Arc<str>,
        /// Whose it should be.
        wanted: String,
    },
    /// The times of Raft do not fit each other.
    #[error("--election must begin with three times --heartbeat, {} ms, at least, not with {} ms", 3 * heartbeat.as_millis(), least.as_millis())]
    Election {
        /// How often a leader says that it leads.
        heartbeat: Duration,
        /// After what time without it another one is looked for.
        least: Duration,
    },
    /// An address that means all of them is nobody's to reach.
    #[error(
        "-a {0} listens at every address, and is none where others reach this machine: say those with --advertise-peer and --advertise-client"
    )]
    Unadvertised(IpAddr),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What a port's TLS takes is not there, or not what it should be.
    #[error("no TLS")]
    Tls(#[from] TlsFileError),
    /// It cannot make a certificate of its own.
    #[error("no certificate of its own")]
    Certificate(#[from] CertError),
    /// A port cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to start from.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// There is data, and nobody whose it is.
    #[error("{}: there is data, but no node.json to say whose", .0.display())]
    Ownerless(PathBuf),
    /// Consensus failed.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// A cluster does not let the machine in.
    #[error(transparent)]
    Join(#[from] JoinRefused),
    /// The machine has been removed from its cluster while it ran.
    #[error("this machine was removed from the cluster, and serves no more")]
    Removed,
    /// Another process runs on a copy of its directory.
    #[error(
        "this machine is announced at {0} by now: another process runs there on a copy of its directory, and this one stops"
    )]
    Elsewhere(Arc<str>),
    /// The machine had been removed from its cluster before.
    #[error("{}: this machine was removed from its cluster; take another directory, or -i to start anew", .0.display())]
    WasRemoved(PathBuf),
    /// The operating system refused something else.
    #[error("cannot {action}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Ends the process because the log failed: what the disk holds is no longer
/// known, so nothing may be acknowledged after it.
#[expect(clippy::exit, reason = "a log that cannot be written leaves nothing to unwind for")]
pub(crate) fn end_process(error: &LogError) {
    tracing::error!("the log failed, and this machine stops");
    complain(error);
    std::process::exit(1);
}

/// Says what the operating system refused, as a verb.
pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { action, source }
}
