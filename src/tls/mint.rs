//! Minting certificates: an authority of one's own, and what it signs.
//!
//! ECDSA with P-256, for which everything that speaks TLS has a use. A machine's certificate
//! is good on both sides of a connection, and names the machine (`etcd:NAME`); a client's
//! is good for clients alone, and its common name is the user.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};

use super::identity::Identity;

/// How long an authority is good.
const AUTHORITY_LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// From how long before now on something is good: clocks differ.
const SKEW: Duration = Duration::from_mins(5);

/// Something cannot be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// A host can be called so nowhere in a certificate.
    #[error("{0:?} is no name or address of a host")]
    Host(String),
    /// The authority or its key cannot be read, or nothing can be signed with it.
    #[error("the authority cannot sign")]
    Authority(#[from] rcgen::Error),
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Minted {
    /// The certificate.
    pub certificate: String,
    /// Its key: a secret.
    pub key: String,
}

/// An authority that signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one, and returns what it is made of.
    ///
    /// # Errors
    ///
    /// If there is no randomness.
    pub fn found() -> Result<Minted, MintError> {
        let mut params = named("etcd authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        good_for(&mut params, AUTHORITY_LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Minted { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(minted: &Minted) -> Result<Self, MintError> {
        let key = KeyPair::from_pem(&minted.key)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&minted.certificate, key)? })
    }

    /// Signs a machine's certificate: for both ports, under the names and addresses by which
    /// it is reached.
    ///
    /// # Errors
    ///
    /// If a host can have no such name.
    pub fn machine(
        &self,
        name: &str,
        hosts: &[String],
        life: Duration,
    ) -> Result<Minted, MintError> {
        let mut params = server(name, hosts)?;
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let uri = Ia5String::try_from(Identity::uri(name));
        params.subject_alt_names.push(SanType::URI(uri?));
        self.sign(params, life)
    }

    /// Signs a certificate of a client port alone.
    ///
    /// # Errors
    ///
    /// As [`Self::machine`].
    pub fn client_port(
        &self,
        name: &str,
        hosts: &[String],
        life: Duration,
    ) -> Result<Minted, MintError> {
        let params = server(name, hosts)?;
        self.sign(params, life)
    }

    /// Signs a client's certificate.
    ///
    /// # Errors
    ///
    /// If the authority cannot sign.
    pub fn client(&self, user: &str, life: Duration) -> Result<Minted, MintError> {
        let mut params = named(user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, life)
    }

    /// Signs a list of certificates of its own that count no longer, by their numbers, in PEM.
    ///
    /// # Errors
    ///
    /// If the authority cannot sign.
    pub fn revoke(&self, serials: &[Vec<u8>]) -> Result<String, MintError> {
        let now = SystemTime::now();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let number = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let list = CertificateRevocationListParams {
            this_update: (now - SKEW).into(),
            next_update: (now + AUTHORITY_LIFE).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn sign(&self, mut params: CertificateParams, life: Duration) -> Result<Minted, MintError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        good_for(&mut params, life);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Minted { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn server(name: &str, hosts: &[String]) -> Result<CertificateParams, MintError> {
    let mut params = named(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let sans = hosts.iter().map(|host| match host.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => match Ia5String::try_from(host.as_str()) {
            Ok(name) => Ok(SanType::DnsName(name)),
            Err(_) => Err(MintError::Host(host.clone())),
        },
    });
    params.subject_alt_names = sans.collect::<Result<_, _>>()?;
    Ok(params)
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn good_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
}
