//! What clients are told: the transcript of the first etcd, errors, HTTP as it stands on
//! the wire, watches, what lies below a directory, the past, and requests under an id. One real process each.

mod errors;
mod health;
mod http;
mod large;
mod past;
mod past_kept;
mod requests;
mod streams;
mod subtrees;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod transcript;
mod watches;
mod web_pages;
