//! What clients are told: the transcript of the first etcd, errors, HTTP as it stands on
//! the wire, watches, and what lies below a directory. One real process each.

mod errors;
mod health;
mod http;
mod large;
mod streams;
mod subtrees;
#[path = "../support/mod.rs"]
mod support;
mod transcript;
mod watches;
