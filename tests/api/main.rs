//! What clients are told: the transcript of the first etcd, errors, HTTP as it stands on
//! the wire, and watches. One real process each.

mod errors;
mod health;
mod http;
#[path = "../support/mod.rs"]
mod support;
mod transcript;
mod watches;
