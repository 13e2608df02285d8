//! Checkpoints that come from the leader: how they get from the network into the
//! state machine, and into the directory.
//!
//! ```text
//! pieces ─▶ a file that does not count ─▶ read, checked ─▶ openraft ─▶ state
//!                                                             │
//!                         a checkpoint like any other ◀─ the log goes on behind it
//! ```
//!
//! The order matters where the process may be killed in between: a checkpoint that
//! the log does not lead to would be taken for damage.
//!
//! One comes at a time. One of an earlier term gives way: whoever sent it leads no longer, and
//! may have fallen silent in the midst of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{EventNumber, Index, IoError, LogId, Term, sync_dir};
use tokio::sync::{Notify, OwnedMutexGuard};

use super::send_checkpoint::PIECE_LIMIT;
use super::types::SnapshotData;
use crate::peers::{FrameError, Incoming, Refusal};
use crate::storage::checkpoint::{CheckpointError, CheckpointFile, CheckpointStore};
use crate::storage::disk_space::DiskRoom;
use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;

/// A checkpoint that a leader offers.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointHeader {
    /// The last entry that it contains.
    pub applied: LogId,
    /// The last command.
    pub index: Index,
    /// The last event.
    pub event: EventNumber,
    /// How long it is.
    pub bytes: u64,
}

/// How long one of an earlier term may take to give way: it may be on its way into the state.
const GIVE_WAY_LIMIT: Duration = Duration::from_secs(1);

/// How many checkpoints are kept that the log has not gone on behind.
const KEPT: usize = 3;

/// The checkpoints that came last. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct IncomingCheckpoints {
    last: Arc<Mutex<BTreeMap<LogId, CheckpointFile>>>,
    store: Option<CheckpointStore>,
    disk: DiskRoom,
    /// Held by the one that comes: each is as large as the whole state.
    place: Arc<tokio::sync::Mutex<()>>,
    /// Which one that is.
    coming: Arc<Mutex<Coming>>,
}

/// The checkpoint that comes, or came last.
#[derive(Debug, Default)]
struct Coming {
    /// The term of who sends it.
    term: Term,
    /// Told when it has to give way.
    gives_way: Arc<Notify>,
}

/// A checkpoint that is coming. Its file goes with it, unless it is kept.
#[derive(Debug)]
pub(crate) struct IncomingCheckpoint {
    file: CheckpointFile,
    is_kept: bool,
    _place: OwnedMutexGuard<()>,
}

impl Drop for IncomingCheckpoint {
    fn drop(&mut self) {
        if !self.is_kept {
            discard(&self.file.path);
        }
    }
}

/// Why a checkpoint did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the connection broke")]
    Connection(#[from] FrameError),
    #[error("another one is coming already")]
    NotAlone,
    #[error("whoever leads by now sends another one")]
    Overruled,
    #[error("the disk has no room for it")]
    NoRoom,
    #[error("it is longer than the {offered} bytes that were offered")]
    Longer { offered: u64 },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("it contains the log up to {found}, not up to {expected}")]
    Other { found: LogId, expected: LogId },
}

impl ReceiveError {
    /// Returns what the other machine is told.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            // It comes again.
            Self::NotAlone | Self::Overruled => Refusal::NotReady,
            error => Refusal::Impossible(ErrorChain(error).to_string()),
        }
    }
}

impl IncomingCheckpoints {
    pub(crate) fn new(store: CheckpointStore, disk: DiskRoom) -> Self {
        Self { store: Some(store), disk, ..Self::default() }
    }

    /// Takes in a checkpoint of who leads in a term, piece by piece, while no other one comes.
    pub(crate) async fn take(
        &self,
        incoming: &mut Incoming<'_>,
        term: Term,
        offer: CheckpointHeader,
    ) -> Result<IncomingCheckpoint, ReceiveError> {
        let (place, gives_way) = self.place(term).await?;
        if !self.disk.has_room_besides_reserve(offer.bytes) {
            return Err(ReceiveError::NoRoom);
        }
        let store = self.store();
        let CheckpointHeader { applied, index, event, .. } = offer;
        let file = blocking(move || store.place_for(applied.index, index, event)).await?;
        let coming = IncomingCheckpoint { file, is_kept: false, _place: place };
        // The other machine sends nothing before.
        incoming.tell(&[]).await.map_err(FrameError::Io)?;
        tokio::select! {
            written = self.write(incoming, &coming.file.path, offer.bytes) => written?,
            () = gives_way.notified() => return Err(ReceiveError::Overruled),
        }
        Ok(coming)
    }

    /// Returns the place, which one of an earlier term has to give up; and what is told when it
    /// has to be given up again.
    async fn place(&self, term: Term) -> Result<(OwnedMutexGuard<()>, Arc<Notify>), ReceiveError> {
        let place = if let Ok(place) = Arc::clone(&self.place).try_lock_owned() {
            place
        } else {
            self.overrule(term)?;
            let place = Arc::clone(&self.place).lock_owned();
            let given = tokio::time::timeout(GIVE_WAY_LIMIT, place).await;
            given.map_err(|_| ReceiveError::NotAlone)?
        };
        let mut coming = self.coming();
        *coming = Coming { term, gives_way: Arc::default() };
        Ok((place, Arc::clone(&coming.gives_way)))
    }

    /// Tells the one that comes to give way, if it is of an earlier term.
    fn overrule(&self, term: Term) -> Result<(), ReceiveError> {
        let coming = self.coming();
        if coming.term >= term {
            return Err(ReceiveError::NotAlone);
        }
        coming.gives_way.notify_one();
        Ok(())
    }

    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and checks what has come, and keeps it.
    pub(crate) async fn check(
        &self,
        mut coming: IncomingCheckpoint,
        applied: LogId,
    ) -> Result<SnapshotData, ReceiveError> {
        let (store, file) = (self.store(), coming.file.clone());
        let path = file.path.clone();
        let checkpoint = blocking(move || store.read(&path)).await?;
        let position = checkpoint.state.position();
        let found = (checkpoint.applied, position.index, position.event);
        if found != (Some(applied), file.index, file.event) {
            let found = checkpoint.applied.unwrap_or_default();
            return Err(ReceiveError::Other { found, expected: applied });
        }
        coming.is_kept = true;
        self.keep(applied, file.clone());
        Ok(SnapshotData { file, applied, checkpoint: Some(Arc::new(checkpoint)) })
    }

    /// Writes what comes into a file, durably.
    async fn write(
        &self,
        incoming: &mut Incoming<'_>,
        path: &Path,
        bytes: u64,
    ) -> Result<(), ReceiveError> {
        let failed = |action| move |error| CheckpointError::from(IoError::at(action, path)(error));
        let created = path.to_owned();
        let created = blocking(move || File::create(&created)).await;
        let mut file = created.map_err(failed("create"))?;
        let mut come = 0;
        loop {
            let piece = tokio::time::timeout(PIECE_LIMIT, incoming.next_piece()).await;
            let piece = piece.map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()))??;
            let Some(piece) = piece else { break };
            come += piece.len() as u64;
            if come > bytes {
                // There is room for what was offered, and for no more.
                return Err(ReceiveError::Longer { offered: bytes });
            }
            if self.disk.is_short() {
                return Err(ReceiveError::NoRoom);
            }
            let written = blocking(move || -> io::Result<File> {
                file.write_all(&piece)?;
                // A disk that is told to write all of it at once keeps the log waiting.
                file.sync_data()?;
                Ok(file)
            });
            file = written.await.map_err(failed("write"))?;
        }
        blocking(move || file.sync_all()).await.map_err(failed("sync"))?;
        // Its name, too: the log is about to go on behind it.
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        blocking(move || sync_dir(&dir)).await.map_err(CheckpointError::from)?;
        Ok(())
    }

    fn store(&self) -> CheckpointStore {
        self.store.clone().expect("whoever receives has a directory")
    }

    /// Keeps a checkpoint until the log goes on behind it. Of those to which that never
    /// happens, the last few are kept.
    fn keep(&self, applied: LogId, file: CheckpointFile) {
        let mut last = self.lock();
        if let Some(replaced) = last.insert(applied, file) {
            discard(&replaced.path);
        }
        while last.len() > KEPT {
            if let Some((_, oldest)) = last.pop_first() {
                discard(&oldest.path);
            }
        }
    }

    /// Returns the last command that a checkpoint contains.
    pub(crate) fn index(&self, applied: LogId) -> Option<Index> {
        self.lock().get(&applied).map(|file| file.index)
    }

    /// Notes that the log goes on behind an entry: the checkpoint that ends there
    /// counts from here on.
    pub(crate) async fn covered(&self, upto: LogId) {
        let received = self.lock().remove(&upto);
        let (Some(file), Some(store)) = (received, self.store.clone()) else { return };
        if let Err(error) = blocking(move || store.promote(&file)).await {
            // The next start sees to it; this one goes on from memory.
            tracing::warn!("a checkpoint keeps its first name: {}", ErrorChain(&error));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LogId, CheckpointFile>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn discard(path: &Path) {
    // What stays is removed at the next start.
    let _removed = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use etcd_log::{NodeId, RaftIndex, Vote};
    use tempfile::TempDir;

    use super::*;
    use crate::peers::testing::{Respond, peers_with};
    use crate::peers::{CallError, Conversation, Part, Refusal, Request, Response};
    use crate::util::limit;

    /// A machine that takes whatever checkpoint is offered.
    #[derive(Clone, Debug)]
    struct Receiver {
        checkpoints: IncomingCheckpoints,
        /// Told when it has done with one.
        done: Arc<Notify>,
    }

    impl Receiver {
        fn new(dir: &TempDir) -> Self {
            let store = CheckpointStore::new(dir.path().to_owned(), 10);
            let checkpoints = IncomingCheckpoints::new(store, DiskRoom::default());
            Self { checkpoints, done: Arc::default() }
        }
    }

    impl Respond for Receiver {
        async fn respond(
            &self,
            request: Request,
            mut incoming: Incoming<'_>,
        ) -> Result<Response, Refusal> {
            let Request::Checkpoint { vote, applied, index, event, bytes } = request else {
                return Err(Refusal::NotReady);
            };
            let offer = CheckpointHeader { applied, index, event, bytes };
            let taken = self.checkpoints.take(&mut incoming, vote.term, offer).await.map(drop);
            self.done.notify_one();
            taken.map_err(|error| error.refusal()).map(|()| Response::Done)
        }
    }

    /// Offers a checkpoint of so many bytes.
    async fn offer(receiver: &Receiver, bytes: u64) -> Conversation {
        offer_in(Term(1), receiver, bytes).await
    }

    /// The same, in a term.
    async fn offer_in(term: Term, receiver: &Receiver, bytes: u64) -> Conversation {
        let peers = peers_with(receiver.clone());
        let applied = LogId { index: RaftIndex(5), ..LogId::default() };
        let vote = Vote { term, ..Vote::default() };
        let (index, event) = (Index(5), EventNumber(5));
        let request = Request::Checkpoint { vote, applied, index, event, bytes };
        peers.open_stream(NodeId(2), &request, PIECE_LIMIT).await.unwrap()
    }

    async fn refusal(conversation: &mut Conversation) -> Refusal {
        match conversation.next().await {
            Err(CallError::Refused { refusal, .. }) => refusal,
            other => panic!("it is not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn checkpoint_that_is_longer_than_offered_is_refused_and_gone() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let receiver = Receiver::new(&dir);
        let mut conversation = offer(&receiver, 10).await;
        assert!(matches!(conversation.next().await, Ok(Part::Piece(_))));
        conversation.send_piece(b"ten bytes.").await.unwrap();
        conversation.send_piece(b"!").await.unwrap();
        let longer = "it is longer than the 10 bytes that were offered";
        assert_eq!(refusal(&mut conversation).await, Refusal::Impossible(longer.to_owned()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Who led before may be silent in the midst of it for as long as it likes.
    #[tokio::test]
    async fn checkpoint_of_an_earlier_term_gives_way() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let receiver = Receiver::new(&dir);
        let mut before = offer_in(Term(3), &receiver, 10).await;
        assert!(matches!(before.next().await, Ok(Part::Piece(_))));
        let mut same = offer_in(Term(3), &receiver, 10).await;
        assert_eq!(refusal(&mut same).await, Refusal::NotReady);
        let mut earlier = offer_in(Term(2), &receiver, 10).await;
        assert_eq!(refusal(&mut earlier).await, Refusal::NotReady);
        let mut later = offer_in(Term(4), &receiver, 10).await;
        assert!(matches!(later.next().await, Ok(Part::Piece(_))));
        assert_eq!(refusal(&mut before).await, Refusal::NotReady);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "its file is gone");
    }

    #[tokio::test]
    async fn one_checkpoint_comes_at_a_time() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let receiver = Receiver::new(&dir);
        let mut first = offer(&receiver, 10).await;
        assert!(matches!(first.next().await, Ok(Part::Piece(_))));
        let mut second = offer(&receiver, 10).await;
        assert_eq!(refusal(&mut second).await, Refusal::NotReady);
        receiver.done.notified().await;
        // Once that has come, or has been given up, there is a place for another one.
        drop(first);
        receiver.done.notified().await;
        let mut third = offer(&receiver, 10).await;
        assert!(matches!(third.next().await, Ok(Part::Piece(_))));
    }
}
