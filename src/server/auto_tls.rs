//! `--auto-tls`: an authority in the machine's directory, and a certificate of the client port
//! that is renewed when two thirds of its life are over.
//!
//! The authority stays as it is for ten years: whoever has been given it needs nothing new
//! when the certificate is renewed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::ServeError;
use crate::tls::{CertError, CertFolder, TlsFiles};
use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;

/// How long a certificate is good.
const LIFE: Duration = Duration::from_hours(90 * 24);

/// How often the time is looked at: clocks are set, and computers sleep.
const LOOK_INTERVAL: Duration = Duration::from_hours(1);

/// What the certificate is called there.
const NAME: &str = "client";

/// The certificate of a client port that makes its own.
#[derive(Clone, Debug)]
pub(super) struct AutoTls {
    folder: CertFolder,
    /// The names and addresses by which clients reach it.
    hosts: Vec<String>,
}

impl AutoTls {
    /// Makes a certificate in a machine's directory; and an authority, if there is none.
    pub(super) fn prepare(data_dir: &Path, hosts: Vec<String>) -> Result<Self, ServeError> {
        let auto = Self { folder: CertFolder::new(data_dir.join("tls")), hosts };
        auto.renew()?;
        Ok(auto)
    }

    /// Returns the files of the client port.
    pub(super) fn files(&self) -> TlsFiles {
        let (cert, key) = self.folder.paths(NAME);
        TlsFiles { cert, key, ca: None, crl: None, ca_of_others: None }
    }

    /// Returns the file of the authority, which clients are given.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.authority_paths().0
    }

    /// Renews the certificate for ever, each time in good time.
    pub(super) async fn keep_renewing(self) {
        let mut made = SystemTime::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let is_old = made.elapsed().is_ok_and(|age| age > LIFE * 2 / 3);
            if !is_old {
                continue;
            }
            let auto = self.clone();
            match blocking(move || auto.renew()).await {
                Ok(()) => made = SystemTime::now(),
                Err(error) => {
                    tracing::error!("the certificate is not renewed: {}", ErrorChain(&error));
                }
            }
        }
    }

    fn renew(&self) -> Result<(), CertError> {
        let authority = self.folder.authority_or_found()?;
        let minted = authority.client_port("etcd", &self.hosts, LIFE)?;
        self.folder.write(NAME, &minted)
    }
}
