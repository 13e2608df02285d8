//! Certificates, keys, authorities and revocations, as they lie in files (PEM, RFC 7468).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::identity::{Identity, written};
use super::provider;

/// Where a port's TLS comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, and those between it and an authority.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The authorities that others must have a certificate of; none, if they need none.
    pub ca: Option<PathBuf>,
    /// Which certificates are revoked.
    pub crl: Option<PathBuf>,
    /// The authorities of another port: what has a certificate of both is told apart by name.
    pub ca_of_others: Option<PathBuf>,
}

/// A file is not what TLS needs.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct TlsFileError {
    /// Which one.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub fault: TlsFault,
}

/// Why a file is not what TLS needs.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something in it is not PEM.
    #[error("it is not PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// It holds none of what it should hold.
    #[error("it holds no {0}")]
    Nothing(&'static str),
    /// A certificate in it cannot be read.
    #[error("it holds a certificate that cannot be read")]
    Certificate,
    /// The certificate is no longer good.
    #[error("its certificate was good until {0}")]
    Expired(String),
    /// The certificate is not good yet.
    #[error("its certificate is good from {0} on")]
    NotYet(String),
    /// TLS does not take it.
    #[error("it is refused")]
    Refused(#[from] rustls::Error),
    /// Others cannot be checked with it.
    #[error("it is refused")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The key is another one's.
    #[error("it is not the key of {}", .0.display())]
    OtherKey(PathBuf),
}

/// What the files held when they were read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
    ca_of_others: Option<Vec<u8>>,
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) own: Arc<CertifiedKey>,
    /// Of whom the own certificate is, and until when it is good.
    pub(super) identity: Identity,
    pub(super) authorities: Option<Authorities>,
    /// Whether a certificate for another port would be one for this port, too.
    pub(super) is_shared: bool,
}

/// Whose certificates are believed.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Contents {
    /// Returns whether the own certificate is the same.
    pub(super) fn has_same_certificate(&self, other: &Self) -> bool {
        self.cert == other.cert
    }

    /// Returns whether the same authorities and revocations count.
    pub(super) fn has_same_authorities(&self, other: &Self) -> bool {
        (&self.ca, &self.crl, &self.ca_of_others) == (&other.ca, &other.crl, &other.ca_of_others)
    }
}

impl TlsFiles {
    /// Reads the files.
    pub(super) fn read(&self) -> Result<Contents, TlsFileError> {
        let read = |path: &PathBuf| at(path, read(path));
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: self.ca.as_ref().map(read).transpose()?,
            crl: self.crl.as_ref().map(read).transpose()?,
            ca_of_others: self.ca_of_others.as_ref().map(read).transpose()?,
        })
    }

    /// Makes of their contents what TLS needs.
    pub(super) fn parse(&self, contents: &Contents) -> Result<Material, TlsFileError> {
        let chain = at(&self.cert, certificates(&contents.cert))?;
        let identity = chain.first().and_then(|own| Identity::of(own));
        let identity = at(&self.cert, identity.ok_or(TlsFault::Certificate))?;
        let own = at(&self.key, self.own(chain, contents))?;
        let authorities = match (&self.ca, &contents.ca) {
            (Some(path), Some(ca)) => {
                let roots = at(path, roots(ca))?;
                let revoked = match (&self.crl, &contents.crl) {
                    (Some(path), Some(crl)) => at(path, revoked(crl))?,
                    _ => Vec::new(),
                };
                Some(Authorities { roots, revoked })
            }
            _ => None,
        };
        let is_shared = match (&self.ca_of_others, &contents.ca, &contents.ca_of_others) {
            (Some(path), Some(ca), Some(others)) => {
                let (own, others) = (certificates(ca), at(path, certificates(others))?);
                own.is_ok_and(|own| own.iter().any(|own| others.contains(own)))
            }
            _ => false,
        };
        Ok(Material { own: Arc::new(own), identity, authorities, is_shared })
    }

    /// Refuses an own certificate that is not good at a time.
    pub(super) fn insist_on_good(
        &self,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<(), TlsFileError> {
        let fault = if identity.until < now {
            TlsFault::Expired(written(identity.until))
        } else if identity.from > now {
            TlsFault::NotYet(written(identity.from))
        } else {
            return Ok(());
        };
        at(&self.cert, Err(fault))
    }

    /// Puts the certificate and its key together.
    fn own(
        &self,
        chain: Vec<CertificateDer<'static>>,
        contents: &Contents,
    ) -> Result<CertifiedKey, TlsFault> {
        CertifiedKey::from_der(chain, key(&contents.key)?, &provider()).map_err(|error| match error
        {
            rustls::Error::InconsistentKeys(_) => TlsFault::OtherKey(self.cert.clone()),
            error => error.into(),
        })
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    Ok(std::fs::read(path)?)
}

/// Says which file something is about.
pub(super) fn at<T>(path: &Path, result: Result<T, TlsFault>) -> Result<T, TlsFileError> {
    result.map_err(|fault| TlsFileError { path: path.to_owned(), fault })
}

/// Returns the key of a file.
pub(super) fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFault> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(TlsFault::Nothing("key")),
        key => Ok(key?),
    }
}

/// Returns all certificates of a file, of which there must be one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(TlsFault::Nothing("certificate")) } else { Ok(found) }
}

/// Returns all authorities of a file: of a bundle each one counts.
pub(super) fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

/// Returns all lists of revoked certificates of a file.
fn revoked(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFault> {
    let found = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        Err(TlsFault::Nothing("list of revoked certificates"))
    } else {
        Ok(found)
    }
}
