//! Peers: what the machines of a cluster say to each other, and how.
//!
//! ```text
//! caller ─▶ Peers: address, idle connection ─▶ frame ─▶ server ─▶ Handler
//!        ◀──────────────── one answer, or several ─────────────────┘
//! ```
//!
//! A connection carries one request at a time, and its answer. Whoever asks has
//! it to himself, so nobody's checkpoint delays another's entries; a connection
//! whose request was given up is closed, and never used again.
//!
//! Every frame names the cluster, its sender and its receiver: what a stranger
//! says is refused before it is read. A frame that has begun has to come, and places are
//! kept for members (`places`).

mod client;
mod conversation;
mod error;
mod frame;
mod message;
mod network;
mod places;
mod server;
#[cfg(test)]
pub mod testing;

pub use client::Peers;
pub use conversation::{Conversation, Part};
pub use error::CallError;
pub use frame::{Frame, FrameError, MOST_BYTES};
pub use message::{
    Appended, HistoryRequest, LeaderHint, LogPosition, ProposalError, Refusal, Request, Response,
    Status, decode_entries, encode_entries, split_entries,
};
pub use network::{Connect, Connecting, Sockets, Stream, travel};
pub use places::{Place, Places};
pub use server::{Handler, Incoming, serve, serve_at};
