//! The flags of TLS. Those of 2013 can be written as then, with one dash: `-serverCert`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use crate::server::TlsOptions;
use crate::tls::{TlsFiles, TlsVersion};

/// The flags as the first etcd had them, and as they are called here.
const OF_2013: [(&str, &str); 6] = [
    ("-serverCert", "--server-cert"),
    ("-serverKey", "--server-key"),
    ("-serverCAFile", "--server-ca-file"),
    ("-clientCert", "--client-cert"),
    ("-clientKey", "--client-key"),
    ("-clientCAFile", "--client-ca-file"),
];

/// Which ports speak TLS, and with what.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "TLS",
    group = ArgGroup::new("tls_for_clients").args(["client_cert", "auto_tls"])
)]
pub(super) struct TlsArgs {
    /// Certificate of this machine for the others, and those between it
    /// and the authority; with --server-key and --server-ca-file, all
    /// machines speak TLS to each other
    #[arg(long, value_name = "FILE", verbatim_doc_comment, requires_all = ["server_key", "server_ca_file"])]
    server_cert: Option<PathBuf>,

    /// Its key
    #[arg(long, value_name = "FILE", requires = "server_cert")]
    server_key: Option<PathBuf>,

    /// Authorities that the other machines have certificates of
    #[arg(long, value_name = "FILE", requires = "server_cert")]
    server_ca_file: Option<PathBuf>,

    /// Certificates of machines that are revoked
    #[arg(long, value_name = "FILE", requires = "server_cert")]
    server_crl: Option<PathBuf>,

    /// Certificate of the client port, and those between it and the
    /// authority; with --client-key, it speaks TLS
    #[arg(long, value_name = "FILE", verbatim_doc_comment, requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Its key
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// Authorities that clients must have certificates of
    /// [default: clients need none]
    #[arg(long, value_name = "FILE", verbatim_doc_comment, requires = "client_cert")]
    client_ca_file: Option<PathBuf>,

    /// Certificates of clients that are revoked
    #[arg(long, value_name = "FILE", requires = "client_ca_file")]
    client_crl: Option<PathBuf>,

    /// Speak TLS to clients with a certificate that this machine makes for
    /// itself, in its directory, and renews
    #[arg(long, verbatim_doc_comment)]
    auto_tls: bool,

    /// The earliest version of TLS for clients: 1.2 or 1.3
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "1.2",
        hide_possible_values = true,
        requires = "tls_for_clients"
    )]
    tls_min: Least,

    /// Whom to believe that it is a machine: strict, only one whose
    /// certificate names it, with the URI etcd:NAME; or any with a
    /// certificate of the authority that names no other machine
    /// [default: strict, if this machine's own names it]
    #[arg(
        long,
        value_name = "HOW",
        verbatim_doc_comment,
        hide_possible_values = true,
        requires = "server_cert"
    )]
    peer_identity: Option<PeerIdentity>,

    /// Speak to machines plainly, too, and say so in the cluster: for
    /// one that changes to TLS machine by machine
    #[arg(long, verbatim_doc_comment, requires = "server_cert")]
    peer_plain_too: bool,
}

/// The earliest version of TLS.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Least {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// Whom to believe that it is a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerIdentity {
    Any,
    Strict,
}

impl TlsArgs {
    pub(super) fn into_options(self) -> TlsOptions {
        let clients = self.client_cert.zip(self.client_key).map(|(cert, key)| TlsFiles {
            cert,
            key,
            ca: self.client_ca_file.clone(),
            crl: self.client_crl,
            ca_of_others: None,
        });
        let peers = self.server_cert.zip(self.server_key).map(|(cert, key)| TlsFiles {
            cert,
            key,
            ca: self.server_ca_file,
            crl: self.server_crl,
            ca_of_others: self.client_ca_file,
        });
        let least = match self.tls_min {
            Least::Tls12 => TlsVersion::Tls12,
            Least::Tls13 => TlsVersion::Tls13,
        };
        let strict = self.peer_identity.map(|identity| identity == PeerIdentity::Strict);
        TlsOptions {
            clients,
            auto: self.auto_tls,
            least,
            peers,
            strict,
            plain_too: self.peer_plain_too,
        }
    }
}

/// Writes a flag of 2013 as it is called here.
pub(super) fn with_two_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let (name, value) = text.split_once('=').map_or((text, None), |(name, it)| (name, Some(it)));
    match OF_2013.iter().find(|(then, _)| *then == name) {
        Some((_, now)) => value.map_or_else(|| (*now).into(), |it| format!("{now}={it}").into()),
        None => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_2013_are_understood() {
        for (then, now) in [
            ("-serverCert", "--server-cert"),
            ("-clientCAFile=a=b", "--client-ca-file=a=b"),
            ("-s", "-s"),
            ("-serverCerts", "-serverCerts"),
            ("--server-cert", "--server-cert"),
        ] {
            assert_eq!(with_two_dashes(then.into()), now);
        }
    }
}
