//! What a certificate says: of whom it is, and for how long it is good.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

/// The scheme of a URI that names a machine.
const SCHEME: &str = "etcd";

/// What a URI needs not have encoded.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Of whom a certificate is, and for how long it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The machines that it is of: each URI `etcd:NAME` of its alternative names. One that
    /// cannot be read is empty, and fits nobody.
    pub machines: Vec<String>,
    /// Its number, of those that its authority has signed.
    pub serial: Vec<u8>,
    /// From when on it is good.
    pub from: SystemTime,
    /// Until when it is.
    pub until: SystemTime,
}

/// Returns the numbers of the certificates that a list names as revoked, in DER; nothing, if it
/// is none.
pub(super) fn revoked(list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    let serials = list.iter_revoked_certificates().map(|revoked| revoked.raw_serial().to_vec());
    Some(serials.collect())
}

impl Identity {
    /// Reads a certificate, in DER; nothing, if it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let machines = names.filter_map(|name| match name {
            GeneralName::URI(uri) => {
                let (scheme, name) = uri.split_once(':')?;
                // What cannot be read names a machine, and none that there is.
                let name = percent_decode_str(name).decode_utf8().map(Cow::into_owned);
                scheme.eq_ignore_ascii_case(SCHEME).then(|| name.unwrap_or_default())
            }
            _ => None,
        });
        let validity = certificate.validity();
        Some(Self {
            machines: machines.collect(),
            serial: certificate.raw_serial().to_vec(),
            from: time(validity.not_before.timestamp()),
            until: time(validity.not_after.timestamp()),
        })
    }

    /// Returns the URI that a machine's certificate has (RFC 3986).
    pub(super) fn uri(machine: &str) -> String {
        format!("{SCHEME}:{}", utf8_percent_encode(machine, UNRESERVED))
    }
}

/// Returns a time that is so many seconds after 1970. What is before it is long past, too.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Writes a time as people read it: RFC 3339, to the second.
pub fn written(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::tls::mint::Authority;
    use crate::util::fuzz::fuzz;

    /// Whoever has no certificate of ours shows what he likes: it is read, or it is none.
    #[test]
    fn fuzzed_certificates_are_read_or_are_none() {
        let day = Duration::from_hours(24);
        let authority = Authority::read(&Authority::found().unwrap()).unwrap();
        let hosts = ["127.0.0.1".to_owned(), "h.example".to_owned()];
        let minted = [
            authority.machine("node 1", &hosts, day).unwrap(),
            authority.client_port("port", &hosts, day).unwrap(),
            authority.client("alice", day).unwrap(),
        ];
        let mut good: Vec<Vec<u8>> = minted
            .iter()
            .map(|minted| CertificateDer::from_pem_slice(minted.certificate.as_bytes()).unwrap())
            .map(|certificate| certificate.to_vec())
            .collect();
        assert!(good.iter().all(|certificate| Identity::of(certificate).is_some()));
        let list = authority.revoke(&[vec![1], vec![2, 3]]).unwrap();
        let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
        assert_eq!(revoked(&list).map(|serials| serials.len()), Some(2));
        good.push(list.to_vec());
        fuzz(&good, &["etcd:", "etcd:%FF", "\u{16}\u{3}"], |bytes| {
            if let Some(identity) = Identity::of(bytes) {
                let _text = (written(identity.from), written(identity.until));
            }
            let _revoked = revoked(bytes);
        });
    }
}
