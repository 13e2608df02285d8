//! How a tool speaks TLS to a machine: whom it believes, and what it shows.

use std::path::PathBuf;

use clap::Args;

use crate::tls::{ClientTls, TlsFileError};

/// How TLS is spoken to a machine.
#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    /// Authority to believe, where the machine speaks TLS
    #[arg(long = "ca-file", value_name = "FILE")]
    authority: Option<PathBuf>,
    /// Certificate to show there
    #[arg(long = "cert-file", value_name = "FILE", requires_all = ["authority", "own_key"])]
    certificate: Option<PathBuf>,
    /// Its key
    #[arg(long = "key-file", value_name = "FILE", requires = "certificate")]
    own_key: Option<PathBuf>,
}

impl TrustArgs {
    /// Reads the files, if there are any.
    pub(super) fn open(self) -> Result<Option<ClientTls>, TlsFileError> {
        let own = self.certificate.zip(self.own_key);
        self.authority.map(|ca| ClientTls::open(&ca, own)).transpose()
    }
}
