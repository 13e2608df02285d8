//! Follows a running cluster: the events of a prefix as a stream, from any event number on,
//! each of them once, whichever machines come and go.
//!
//! ```no_run
//! # async fn follow() -> Result<(), etcd_follow::FollowError> {
//! use etcd_follow::{Follower, Start};
//! use tokio_stream::StreamExt as _;
//!
//! let follower = Follower::new(["http://127.0.0.1:4001", "http://127.0.0.1:4002"]);
//! let mut events = follower.start(Start::Beginning).events();
//! while let Some(event) = events.next().await.transpose()? {
//!     println!("{} {}: {:?}", event.number, event.key, event.change);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Numbers are checked: dense for the whole of the store, strictly ascending below a prefix.
//! What a connection says that is cut off in the middle, out of order, or of another cluster
//! is not believed, and the next machine is asked behind the last event that was.
//!
//! The modules, in reading order. Each imports only those before it:
//!
//! | module | what it is |
//! |---|---|
//! | `error` | what ends the stream, and what only ends a connection |
//! | `line` | an event as the server writes it |
//! | `messages` | server-sent events out of bytes that come in any pieces |
//! | `connection` | one request, and the stream that answers it |
//! | `addresses` | which machine is asked next, and when |
//! | `following` | the whole: asked, checked, resumed |
//! | `follower` | what to follow, and the stream of it |
//!
//! # Limits
//!
//! * Plain HTTP: there is no TLS.
//! * Events only. Whoever needs the state before them folds it from the beginning, or reads
//!   the keys first.
//! * A machine that has fallen behind and still answers is left once it says itself that it
//!   is not healthy; it is asked whenever there is nothing else to hear.

// In reading order; a blank line keeps rustfmt from another.
mod error;

mod line;

mod messages;

mod connection;

mod addresses;

mod following;

mod follower;

pub use error::{Fault, FollowError};
pub use follower::{Events, Follower, Start};
pub use line::read as read_event;
