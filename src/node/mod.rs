//! A machine, and the few things that it can be asked: propose, read, watch.
//!
//! What clients speak to (`api`) knows the handle, and nothing behind it.

mod acquaintance;
mod announcement;
pub mod assemble;
mod closing;
mod error;
mod farewell;
mod handle;
mod heeding;
mod history;
mod hold;
mod introduction;
mod looked_for;
mod members;
mod moved;
mod news;
mod past;
mod proposer;
mod read_barrier;
mod reconcile;
mod rpc;
#[cfg(test)]
mod scripts;
mod twin;
mod upgrade;
mod view;
mod watch;

pub use closing::Closing;
pub use error::{Unavailable, WriteError};
pub use handle::{Freshness, Node, NodeOptions};
pub use history::{Cursor, WatchError};
pub use members::{JoinError, LeaveError, MemberStatus};
pub use past::{
    Diff, HistoryQuery, LivesOn, Moment, NetChange, PastError, PastEvents, RestoreQuery, Restored,
};
pub use view::{Place, View};
pub use watch::{Seen, Start, Watch};
