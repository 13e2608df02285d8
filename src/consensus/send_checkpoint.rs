//! How a checkpoint gets from a leader to a machine that is too far behind for entries.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use etcd_log::IoError;
use openraft::Vote;

use super::connection::Connection;
use super::judge::{Unbelievable, judge_answer};
use super::types::SnapshotData;
use super::types::{from_vote, to_vote};
use crate::peers::{CallError, Conversation, Part, Request, Response};
use crate::util::blocking::blocking;

/// How much of a checkpoint goes in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// How long a piece of a checkpoint may take on its way, and how long the other machine
/// may be silent.
pub(super) const PIECE_LIMIT: Duration = Duration::from_secs(10);

/// Why a checkpoint was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Read(#[from] IoError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the answer cannot be believed")]
    Response(#[from] Unbelievable),
}

impl Connection {
    /// Sends a checkpoint in pieces, if it is wanted.
    pub(super) async fn send(
        &self,
        vote: Vote<u64>,
        image: &SnapshotData,
    ) -> Result<Vote<u64>, SendError> {
        let path = image.file.path.clone();
        let opened = blocking(move || open(&path)).await;
        let (mut file, bytes) = opened.map_err(IoError::at("open", &image.file.path))?;
        let request = Request::Checkpoint {
            vote: to_vote(vote),
            applied: image.applied,
            index: image.file.index,
            event: image.file.event,
            bytes,
        };
        let peers = &self.network.peers;
        let mut conversation = peers.open_stream(self.target, &request, PIECE_LIMIT).await?;
        if let Part::Response(answer) = conversation.next().await? {
            return installed(vote, &conversation, &answer);
        }
        loop {
            let read = blocking(move || read_piece(file)).await;
            let (rest, piece) = read.map_err(IoError::at("read", &image.file.path))?;
            if piece.is_empty() {
                break;
            }
            conversation.send_piece(&piece).await?;
            file = rest;
        }
        conversation.end().await?;
        loop {
            match conversation.next().await? {
                // It is still being checked and installed.
                Part::Piece(_) => {}
                Part::Response(answer) => return installed(vote, &conversation, &answer),
            }
        }
    }
}

fn installed(
    asked: Vote<u64>,
    conversation: &Conversation,
    answer: &Response,
) -> Result<Vote<u64>, SendError> {
    match answer {
        Response::Installed { vote } => {
            judge_answer(to_vote(asked), *vote)?;
            Ok(from_vote(*vote))
        }
        answer => Err(conversation.unexpected(answer).into()),
    }
}

/// Opens a file, and says how long it is.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn read_piece(mut file: File) -> io::Result<(File, Vec<u8>)> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
    Ok((file, piece))
}
