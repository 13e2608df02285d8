//! The log that a machine starts from, and what is said of it.

use std::sync::Arc;
use std::time::Instant;

use etcd_log::{Index, Notice, Recovered, Wal, WalOptions};

use super::error::{ServeError, end_process};
use super::options::Options;
use crate::node::Node;
use crate::storage::data_dir::{DataDir, Identity};
use crate::util::error_chain::ErrorChain;

/// Opens the log, and reports what it had to cut off.
pub(crate) fn open_log(
    data_dir: &DataDir,
    identity: &Identity,
    options: &Options,
    must_exist: bool,
) -> Result<(Wal, Recovered), ServeError> {
    let on_fatal = Arc::new(|error| end_process(&error));
    let (wal, recovered) = Wal::open(&WalOptions {
        must_exist,
        segment_bytes: options.segment_bytes,
        retain: options.retain,
        on_notice: Arc::new(|notice| tell(&notice)),
        ..WalOptions::new(data_dir.wal(), data_dir.archive(), identity.node, on_fatal)
    })?;
    if let Some(path) = &recovered.unreadable_high_water {
        tracing::warn!("{} cannot be read: a lost last write would go unnoticed", path.display());
    }
    if let Some(torn) = &recovered.torn {
        tracing::warn!("{torn}; the last good command is {}", wal.reader().last_command());
    }
    Ok((wal, recovered))
}

/// What a start has recovered, to be told once the machine is ready.
pub(crate) struct Recovery {
    pub(crate) recovered: Recovered,
    /// The last command in the checkpoint.
    pub(crate) from: Index,
    pub(crate) started: Instant,
}

impl Recovery {
    /// Says what the machine has recovered.
    pub(crate) fn report(&self, archived: (usize, u64), node: &Node) {
        let Self { recovered, from, started } = self;
        let now = node.now();
        let (index, keys) = (now.state.position().index, now.state.tree().len());
        let took = started.elapsed().as_millis();
        if recovered.node.is_none() {
            let others = now.state.machines().iter().count().saturating_sub(1);
            let what = match others {
                0 => "a new cluster".to_owned(),
                1 => format!("joined 1 other machine at command {index}"),
                _ => format!("joined {others} other machines at command {index}"),
            };
            tracing::info!("{what}; ready in {took} ms");
            return;
        }
        let (bytes, segments) = (recovered.bytes, recovered.segments);
        let (files, _) = archived;
        let checkpoint =
            if from.0 == 0 { "no checkpoint".to_owned() } else { format!("checkpoint {from}") };
        let (segments, files) = (counted(segments, "segment"), counted(files, "sealed file"));
        tracing::info!(
            "recovered up to command {index}, {keys} keys and directories, from {checkpoint} and {bytes} bytes of log \
             in {segments} behind {files}; ready in {took} ms"
        );
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Says what happens in the log.
fn tell(notice: &Notice) {
    match notice {
        Notice::Stalled { took, count } => {
            let took = took.as_millis();
            tracing::warn!(
                "the disk is slow: a commit has taken {took} ms until now ({count} slow ones since the start)"
            );
        }
        Notice::Sealed { path, bytes, last } => {
            tracing::debug!("sealed up to command {last}: {}, {bytes} bytes", path.display());
        }
        Notice::Dropped { files, last } => {
            let files = counted(*files, "sealed file");
            tracing::info!("history up to command {last} is dropped, {files}");
        }
        Notice::Damaged(error) => {
            tracing::error!("old history is damaged; the state is not: {}", ErrorChain(error));
        }
        Notice::NoRoomToSeal(error) => {
            tracing::warn!("nothing is sealed for want of room: {}", ErrorChain(error));
        }
    }
}
