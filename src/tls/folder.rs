//! A folder of certificates: an authority, and what it has signed.
//!
//! ```text
//! certs/ca.crt      the authority: machines and clients are given it
//!       ca.key      its key: whoever has it can sign for anybody
//!       node1.crt   a machine, or a client
//!       node1.key
//!       issued.txt  all that were signed: a number and a name each
//!       revoked.crl which of them count no longer
//! ```

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::identity::{Identity, revoked};
use super::mint::{Authority, MintError, Minted};

/// What the authority is called there.
const AUTHORITY: &str = "ca";

/// Where it is noted what was signed.
const ISSUED: &str = "issued.txt";

/// A folder of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFolder(PathBuf);

/// Why a folder has not got a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The authority itself is called so.
    #[error("{AUTHORITY} is what the authority is called")]
    Reserved,
    /// A list of names, one a line, could not have it.
    #[error("{0:?} cannot be noted: it has control characters")]
    Unprintable(String),
    /// A file is there already: nothing is written over.
    #[error("{} is there already: nothing was changed", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be minted.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl CertFolder {
    /// Names a folder, which need not be there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the files of a certificate and of its key.
    pub fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.0.join(format!("{name}.crt")), self.0.join(format!("{name}.key")))
    }

    /// Returns the files of the authority.
    pub fn authority_paths(&self) -> (PathBuf, PathBuf) {
        self.paths(AUTHORITY)
    }

    /// Returns the authority; nothing, if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn authority(&self) -> Result<Option<Authority>, CertError> {
        let (certificate, key) = self.authority_paths();
        let (Some(certificate), Some(key)) = (read(&certificate)?, read(&key)?) else {
            return Ok(None);
        };
        Ok(Some(Authority::read(&Minted { certificate, key })?))
    }

    /// Returns the authority, which is made if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::authority`] and [`Self::found`].
    ///
    /// # Panics
    ///
    /// If somebody takes it away as soon as it is made.
    pub fn authority_or_found(&self) -> Result<Authority, CertError> {
        if let Some(authority) = self.authority()? {
            return Ok(authority);
        }
        self.found()?;
        Ok(self.authority()?.expect("it has just been made"))
    }

    /// Makes an authority, and the folder.
    ///
    /// # Errors
    ///
    /// If there is one already, or it cannot be written.
    pub fn found(&self) -> Result<(), CertError> {
        self.refuse_existing(AUTHORITY)?;
        fs::create_dir_all(&self.0).map_err(failed("create", &self.0))?;
        self.write(AUTHORITY, &Authority::found()?)
    }

    /// Revokes all certificates of a name, besides those that are revoked already. Returns the
    /// list's file.
    ///
    /// # Errors
    ///
    /// If there is none, if the list cannot be read, or cannot be written.
    pub fn revoke(&self, authority: &Authority, name: &str) -> Result<PathBuf, CertError> {
        let ((certificate, _), list) = (self.paths(name), self.0.join("revoked.crl"));
        let mut named = self.issued(name)?;
        if named.is_empty() {
            // It may have been signed elsewhere, with the same authority.
            let der = CertificateDer::from_pem_file(&certificate);
            let identity = der.ok().and_then(|der| Identity::of(&der));
            named.push(identity.ok_or_else(|| unreadable(&certificate))?.serial);
        }
        let mut serials = match read(&list)? {
            None => Vec::new(),
            Some(pem) => {
                let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes());
                der.ok().and_then(|der| revoked(&der)).ok_or_else(|| unreadable(&list))?
            }
        };
        named.retain(|serial| !serials.contains(serial));
        serials.extend(named);
        replace(&list, &authority.revoke(&serials)?, 0o644)?;
        Ok(list)
    }

    /// Refuses what cannot be the name of a certificate that an authority signs.
    ///
    /// # Errors
    ///
    /// If it is its own, or cannot be noted in a line.
    pub fn refuse_unfit(name: &str) -> Result<(), CertError> {
        if name == AUTHORITY {
            return Err(CertError::Reserved);
        }
        if name.contains(char::is_control) {
            return Err(CertError::Unprintable(name.to_owned()));
        }
        Ok(())
    }

    /// Refuses to write over a certificate or its key.
    ///
    /// # Errors
    ///
    /// If one of them is there.
    pub fn refuse_existing(&self, name: &str) -> Result<(), CertError> {
        let (certificate, key) = self.paths(name);
        let existing = [certificate, key].into_iter().find(|path| path.exists());
        existing.map_or(Ok(()), |path| Err(CertError::Exists(path)))
    }

    /// Writes a certificate that the authority has signed, and notes it: also one that is
    /// replaced later can be revoked.
    ///
    /// # Errors
    ///
    /// If it cannot be understood, or something cannot be written.
    pub fn issue(&self, name: &str, minted: &Minted) -> Result<(), CertError> {
        let der = CertificateDer::from_pem_slice(minted.certificate.as_bytes());
        let identity = der.ok().and_then(|der| Identity::of(&der));
        let serial = identity.ok_or_else(|| unreadable(&self.paths(name).0))?.serial;
        let issued = self.0.join(ISSUED);
        let text = read(&issued)?.unwrap_or_default();
        replace(&issued, &format!("{text}{} {name}\n", written_number(&serial)), 0o644)?;
        self.write(name, minted)
    }

    /// Returns the numbers of all certificates that were signed for a name.
    fn issued(&self, name: &str) -> Result<Vec<Vec<u8>>, CertError> {
        let text = read(&self.0.join(ISSUED))?.unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let own = lines.filter(|(_, issued)| *issued == name);
        Ok(own.filter_map(|(serial, _)| number(serial)).collect())
    }

    /// Writes a key, for its owner alone, and then the certificate. Whoever reads one of them
    /// meanwhile gets it as it was before or as it is now, whole.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn write(&self, name: &str, minted: &Minted) -> Result<(), CertError> {
        let (certificate, key) = self.paths(name);
        replace(&key, &minted.key, 0o600)?;
        replace(&certificate, &minted.certificate, 0o644)
    }
}

/// Writes the number of a certificate.
fn written_number(serial: &[u8]) -> String {
    serial.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the number of a certificate.
fn number(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    digits.collect()
}

fn unreadable(path: &Path) -> CertError {
    let source = io::Error::new(io::ErrorKind::InvalidData, "it cannot be understood");
    CertError::Io { action: "read", path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Option<String>, CertError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(failed("read", path)),
    }
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let beside = path.with_added_extension("new");
    // It would keep the rights that it has.
    let _removed = fs::remove_file(&beside);
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(failed("write", &beside))?;
    fs::rename(&beside, path).map_err(failed("replace", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CertError {
    let path = path.to_owned();
    move |source| CertError::Io { action, path, source }
}
