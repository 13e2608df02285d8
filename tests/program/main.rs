//! The program as those see it who run it: how it starts, why it does not, how it stops,
//! and the tools beside the server.

mod examples;
mod limit;
mod log_live;
mod log_scripts;
mod log_tool;
mod log_trimmed;
mod process;
mod startup;
#[path = "../support/mod.rs"]
mod support;
