//! Certificates of tests: an authority, and all that may be wrong with what it signs.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

const DAY: Duration = Duration::from_hours(24);

/// An authority, and where its files lie.
pub struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate says.
#[derive(Clone)]
pub struct Says<'a> {
    /// The common name.
    pub name: &'a str,
    /// The address that it is of.
    pub address: &'a str,
    /// The machine that it names.
    pub uri: Option<&'a str>,
    /// What it may be used for.
    pub usages: &'a [ExtendedKeyUsagePurpose],
    /// From when on it is good, and until when, in days from now.
    pub good: (i32, i32),
    /// For how many seconds it is good, if it is not for days.
    pub seconds: Option<u64>,
    /// Its number.
    pub serial: u64,
}

impl Default for Says<'_> {
    fn default() -> Self {
        Self {
            name: "node1",
            address: "127.0.0.1",
            uri: None,
            usages: &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            good: (-1, 90),
            seconds: None,
            serial: 1,
        }
    }
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate's.
    pub cert: PathBuf,
    /// The key's.
    pub key: PathBuf,
}

impl Ca {
    /// Makes one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("{:?}", Instant::now()));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let (dir, issuer) = (TempDir::new().unwrap(), Issuer::new(params, key));
        std::fs::write(dir.path().join("ca.crt"), &pem).unwrap();
        Self { dir, issuer, pem }
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// The same, as text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate, and writes it to files of this name.
    pub fn sign(&self, file: &str, says: &Says<'_>) -> Signed {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, says.name);
        params.subject_alt_names = vec![SanType::IpAddress(says.address.parse().unwrap())];
        if let Some(uri) = says.uri {
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from(uri).unwrap()));
        }
        params.extended_key_usages = says.usages.to_vec();
        params.serial_number = Some(SerialNumber::from(says.serial));
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (day(says.good.0).into(), day(says.good.1).into());
        if let Some(seconds) = says.seconds {
            params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        }
        let key = KeyPair::generate().unwrap();
        let signed = Signed {
            cert: self.dir.path().join(format!("{file}.crt")),
            key: self.dir.path().join(format!("{file}.key")),
        };
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        std::fs::write(&signed.cert, cert.pem()).unwrap();
        signed
    }

    /// Writes the list of the certificates with these numbers, which are revoked.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: day(-1).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: day(-1).into(),
            next_update: day(30).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.path().join("revoked.crl");
        std::fs::write(&path, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }

    /// How a client trusts what this authority has signed, and what it shows itself.
    pub fn trust(&self, own: Option<&Signed>) -> TlsConfig {
        trust(self.pem.as_bytes(), own)
    }
}

impl Signed {
    fn to_show(&self) -> ClientCert {
        let (cert, key) = (read(&self.cert), read(&self.key));
        let cert = Certificate::from_pem(&cert).unwrap().to_owned();
        ClientCert::new_with_certs(&[cert], PrivateKey::from_pem(&key).unwrap())
    }

    /// Puts another one in the place of its files.
    pub fn replace(&self, other: &Self) {
        std::fs::copy(&other.key, &self.key).unwrap();
        std::fs::copy(&other.cert, &self.cert).unwrap();
    }
}

/// How a client trusts what an authority has signed, and what it shows itself.
pub fn trust(authority: &[u8], own: Option<&Signed>) -> TlsConfig {
    let root = Certificate::from_pem(authority).unwrap().to_owned();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(vec![root])))
        .unversioned_rustls_crypto_provider(provider);
    config.client_cert(own.map(Signed::to_show)).build()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A time so many days from now.
fn day(days: i32) -> SystemTime {
    let span = DAY * days.unsigned_abs();
    if days < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
}
