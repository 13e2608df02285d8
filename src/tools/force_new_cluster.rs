//! `etcd recover`: a cluster of one, out of the directory of a machine that
//! survived when a majority is lost for good.
//!
//! What the survivor has in its log is kept, all of it. Up to the last entry that
//! it knows to be committed its history is certain; what comes after may never have
//! been acknowledged. What was acknowledged and did not reach it is lost.
//!
//! ```text
//! … committed │ not known to be │ the group is this machine │ sync of a new cluster, leaves
//! ```
//!
//! The cluster gets another id, so that no lost machine that comes back after all is
//! taken for a member.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{
    Batch, ClusterId, Command, Entry, Index, LogError, LogId, LogStorage as _, Machine, Membership,
    NodeId, Payload, RaftIndex, Term, Vote, Wal, WalOptions, Write,
};
use etcd_projections::State;

use crate::state::replay::{Replay, ReplayError};
use crate::storage::checkpoint::CheckpointStore;
use crate::storage::data_dir::{DataDir, DataDirError, Identity};
use crate::storage::recovery::{RecoveryError, start_state};
use crate::util::clock::Clock;
use crate::util::printable::Printable;

/// Why a directory cannot become a cluster of one.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no machine's data in it.
    #[error("{} holds no data of a machine", .0.display())]
    Empty(std::path::PathBuf),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no state to start from.
    #[error(transparent)]
    Start(#[from] RecoveryError),
    /// The log does not add up.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The operating system refused.
    #[error("cannot {action}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is done, and the output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// What a survivor has in its log.
struct Survived {
    state: State,
    /// The last command that is certain.
    certain: Index,
    last: Option<LogId>,
    vote: Option<Vote>,
}

/// Makes a cluster of one out of a directory, and says what it keeps.
///
/// # Errors
///
/// If the directory cannot be used. Then the command can be given again. If the output cannot
/// be written, it is done all the same.
pub fn run(dir: &Path, out: &mut impl io::Write) -> Result<(), RecoverError> {
    if !dir.exists() {
        return Err(RecoverError::Empty(dir.to_owned()));
    }
    let data_dir = DataDir::take(dir)?;
    let Some(identity) = data_dir.identity()? else {
        data_dir.leave();
        return Err(RecoverError::Empty(dir.to_owned()));
    };
    let wal = open(&data_dir, &identity)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("start threads"))?;
    let survived = runtime.block_on(replay(&data_dir, &wal))?;
    let cluster = ClusterId::random();
    // First: a machine that is killed after this knows nobody, and can be recovered
    // again. The other way round, it would go on under the old name.
    let (joined, removed) = (false, false);
    data_dir.rewrite(&Identity { cluster, joined, removed, ..identity.clone() })?;
    append(&wal, &survived, &identity, cluster)?;
    wal.close()?;
    report(out, &survived, &identity, cluster).map_err(RecoverError::Output)
}

fn open(data_dir: &DataDir, identity: &Identity) -> Result<Wal, RecoverError> {
    let on_fatal = Arc::new(|error| crate::server::end_process(&error));
    let options = WalOptions {
        must_exist: true,
        ..WalOptions::new(data_dir.wal(), data_dir.archive(), identity.node, on_fatal)
    };
    Ok(Wal::open(&options)?.0)
}

/// Replays all that the log holds, certain or not.
async fn replay(data_dir: &DataDir, wal: &Wal) -> Result<Survived, RecoverError> {
    let store = CheckpointStore::new(data_dir.checkpoints(), 1);
    let log = wal.state();
    let (start, _) = start_state(data_dir, &store, wal, 1)?;
    let mut certain = start.state.position().index;
    let next = start.applied.map_or(RaftIndex(0), |id| id.index.next());
    let reader = wal.reader();
    let entries = reader.iter(next..RaftIndex(u64::MAX));
    let mut replay = Replay::new(start.state, tokio_stream::iter(entries));
    while let Some(step) = replay.next().await? {
        if Some(step.entry.id) <= log.committed {
            certain = replay.state().position().index;
        }
    }
    Ok(Survived { state: replay.into_state(), certain, last: log.last, vote: log.vote })
}

/// Appends what makes the machine the only one.
fn append(
    wal: &Wal,
    survived: &Survived,
    identity: &Identity,
    cluster: ClusterId,
) -> Result<(), RecoverError> {
    let node = identity.node;
    let term = survived.vote.map(|vote| vote.term).max(survived.last.map(|id| id.term));
    let term = term.unwrap_or(Term(0)).next();
    let next = survived.last.map_or(RaftIndex(0), |id| id.index.next());
    let machines = survived.state.machines();
    let me = machines.iter().find(|machine| machine.node == node);
    // A machine that was never a part of the cluster says where it is when it starts.
    let address = me.map_or("127.0.0.1:7001", Machine::peer_address);
    let membership =
        Membership { voters: vec![[node].into()], nodes: [(node, Arc::from(address))].into() };
    let commands = begin_anew(&survived.state, node, cluster);
    let batch = Batch::new(Clock::default().now().max(survived.state.position().time), commands);
    let entry = |index, payload| Arc::new(Entry { id: LogId { term, node, index }, payload });
    let entries = vec![
        entry(next, Payload::Membership(membership)),
        entry(next.next(), Payload::Batch(Arc::new(batch))),
    ];
    if let Some(upto) = wal.state().missing {
        // Those who had it are gone.
        wal.write_and_wait(Write::Forget { upto }, Duration::MAX)?;
        wal.write_and_wait(Write::Backfill { upto }, Duration::MAX)?;
    }
    wal.write_and_wait(Write::Vote(Vote { term, node, committed: false }), Duration::MAX)?;
    wal.write_and_wait(Write::Append(entries), Duration::MAX)?;
    Ok(())
}

/// Returns the commands with which a history goes on as that of another cluster, whose
/// only machine is this one.
pub(crate) fn begin_anew(state: &State, node: NodeId, cluster: ClusterId) -> Vec<Command> {
    let others = state.machines().iter().filter(|machine| machine.node != node);
    let leaves = others.map(|machine| Command::Leave { name: Arc::clone(&machine.name) });
    let format = state.format();
    std::iter::once(Command::Sync { cluster, format }).chain(leaves).collect()
}

fn report(
    out: &mut impl io::Write,
    survived: &Survived,
    identity: &Identity,
    cluster: ClusterId,
) -> io::Result<()> {
    let Survived { state, certain, .. } = survived;
    let (last, name) = (state.position().index, Printable(&identity.name));
    writeln!(out, "the history of machine {name} is certain up to command {certain}")?;
    let after = last.0 - certain.0;
    match after {
        0 => {}
        1 => writeln!(out, "one command after it is kept: it may not have been acknowledged")?,
        _ => writeln!(
            out,
            "{after} commands after it, up to {last}, are kept: they may not have been acknowledged"
        )?,
    }
    writeln!(out, "machine {name} is now a cluster of its own, {cluster}, which others can join")
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> RecoverError {
    move |source| RecoverError::System { action, source }
}
