//! The v1 HTTP API: plain text and JSON in, one line out.
//!
//! ```text
//! connection ─▶ door ─▶ route ─▶ request: fields, key ─▶ node: propose, read, watch
//!                 │                  │ bad input                    │
//!                 └─ not HTTP as ────┴────────▶ answer ◀────────────┘
//!                    it must be
//! ```
//!
//! Bad input is answered here and never reaches the log. Errors are one plain
//! line; each has one place, in [`http::answer`].
//!
//! What any face of the store needs is in [`http`]; the first face is [`v1`].

mod clients;
pub mod http;
mod peer_port;
pub mod v1;

pub use clients::{ClientPort, serve_clients};
pub use http::head::Refusal;
pub use http::same_origin::{Origin, SameOrigin};
pub use peer_port::{PeerPort, serve_peers};
