//! `etcd recover`: when the others are lost for good.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use clap::Args;

use super::output::has_seen_enough;
use crate::tools::force_new_cluster::{self, RecoverError};

/// What to recover from.
#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    dir: DirArg,
    /// Confirm that the others, and what only they know, are lost for good
    #[arg(long, required = true)]
    force_new_cluster: bool,
}

/// Where a stopped machine lies.
#[derive(Debug, Args)]
pub(super) struct DirArg {
    /// Data directory of a machine that is stopped
    #[arg(short = 'd', long = "data-dir", value_name = "DIR", default_value = "default.etcd")]
    pub(super) path: PathBuf,
}

impl RecoverArgs {
    pub(super) fn run(&self) -> Result<(), Box<dyn Error>> {
        // clap insists on the confirmation.
        assert!(self.force_new_cluster, "it is required");
        match force_new_cluster::run(&self.dir.path, &mut io::stdout()) {
            Err(RecoverError::Output(error)) if has_seen_enough(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}
