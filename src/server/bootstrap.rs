//! Bootstrapping: who a machine is when its directory is new, by founding a cluster or
//! by joining one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use etcd_log::{ClusterId, LogError, LogReader, sync_dir};

use super::error::{ServeError, system};
use super::join;
use super::listen::{Addresses, describe};
use super::options::Options;
use crate::peers::Connect;
use crate::storage::checkpoint::CheckpointStore;
use crate::storage::data_dir::{DataDir, Identity};
use crate::storage::recovery::RecoveryError;

/// Mints a new machine, and finds it a cluster.
pub(crate) async fn bootstrap(
    data_dir: &DataDir,
    options: &Options,
    addresses: &Addresses,
    network: Arc<dyn Connect>,
) -> Result<Identity, ServeError> {
    clear_beginning(data_dir)?;
    let joining = data_dir.joining()?;
    if options.join.is_empty() {
        // A cluster may know it by now.
        return match joining {
            Some(identity) => Err(ServeError::Joining(identity.name)),
            None => Ok(Identity::founder(&options.name)),
        };
    }
    let identity = joining.unwrap_or_else(|| Identity {
        cluster: ClusterId(0),
        joined: true,
        ..Identity::founder(&options.name)
    });
    options.insist_on_name(&identity, data_dir)?;
    data_dir.begin_joining(&identity)?;
    let machine = describe(&identity, addresses);
    tracing::info!("machine {} joins through {}", machine.name, options.join.join(", "));
    match join::join(&machine, options.log_format, &options.join, network).await {
        Ok(cluster) => Ok(Identity { cluster, ..identity }),
        Err(refused) => {
            // The next try may be under another name.
            data_dir.give_up_joining()?;
            Err(refused.into())
        }
    }
}

/// A log without a `node.json` is what a start left that was cut short, if it holds
/// nothing; if it does hold something, it is somebody's.
fn clear_beginning(data_dir: &DataDir) -> Result<(), ServeError> {
    let (log, recovered) = LogReader::open(&data_dir.wal(), &data_dir.archive(), &mut |_| {})?;
    let state = log.state();
    if state.last.is_some() || state.vote.is_some() {
        return Err(ServeError::Ownerless(data_dir.wal()));
    }
    let checkpoints = CheckpointStore::new(data_dir.checkpoints(), 1).list();
    if !checkpoints.map_err(RecoveryError::from)?.is_empty() {
        return Err(ServeError::Ownerless(data_dir.checkpoints()));
    }
    if recovered.node.is_some() {
        remove_beginning(&data_dir.wal())?;
    }
    Ok(())
}

/// Removes the log of a start that was cut short: the high-water mark first, for alone it
/// would speak of a log that was lost.
fn remove_beginning(wal: &Path) -> Result<(), ServeError> {
    let failed = "remove the log of a start cut short";
    match std::fs::remove_file(wal.join("witness")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(failed)(error)),
        _ => {}
    }
    sync_dir(wal).map_err(LogError::from)?;
    std::fs::remove_dir_all(wal).map_err(system(failed))
}
