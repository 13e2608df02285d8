//! What the program says, and to whom.

use std::error::Error;
use std::io;

use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::server::ServeError;
use crate::util::printable::Printable;

/// Whether whoever read our output wants no more of it.
pub(super) fn has_seen_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Tells a command line that makes no sense, which clap cannot see, from what is wrong with the
/// machine: the program ends with another status.
pub(super) fn wrong_usage(error: ServeError) -> Box<dyn Error> {
    match error {
        ServeError::Name(_) | ServeError::Election { .. } | ServeError::Unadvertised(_) => {
            clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")).into()
        }
        error => error.into(),
    }
}

/// Begins to say what happens, on the standard error.
pub(super) fn start_logging(verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let targets =
        Targets::new().with_target("etcd", level).with_target("openraft", LevelFilter::OFF);
    // Whatever a line quotes, of a client, a file or another machine, it stays one line.
    let fields = debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{}", Printable(format_args!("{value:?}"))),
        name => write!(out, "{name}={}", Printable(format_args!("{value:?}"))),
    });
    let format = tracing_subscriber::fmt::layer()
        .fmt_fields(fields.delimited(" "))
        .with_target(false)
        .with_writer(io::stderr);
    tracing_subscriber::registry().with(format).with(targets).init();
}
