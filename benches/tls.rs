//! What TLS costs: on writes, on connecting, and on others while somebody shakes no hands.
//!
//! ```text
//! cargo bench --bench tls             medians of 5 runs of 5 s each
//! cargo bench --bench tls -- 3 2      medians of 3 runs of 2 s each
//! ```
//!
//! Two machines, one with TLS and one without, take turns, with `wrk` on the same computer. A
//! connection is made, asked for one key, and ended, one after the other: its cost is the time
//! of a core that the machine takes for it.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use support::{Load, Machine, runs_and_seconds};
use tempfile::TempDir;

/// How many sockets say nothing.
const SILENT: usize = 1000;

fn main() {
    let dir = TempDir::new().unwrap();
    let load = Load::of_command_line(dir.path());
    let plain = Machine::start(&dir.path().join("plain"));
    let tls = Machine::start_with(&dir.path().join("tls"), &["--auto-tls"]);
    load.rows(&[
        ("durable PUT, 64 connections", "PUT", 64, &plain.url),
        ("durable PUT with TLS, 64 connections", "PUT", 64, &tls.url),
    ]);
    load.rows(&[
        ("linearizable GET, 64 connections", "GET", 64, &plain.url),
        ("linearizable GET with TLS, 64", "GET", 64, &tls.url),
    ]);
    let authority = dir.path().join("tls/tls/ca.crt");
    let (_, seconds) = runs_and_seconds();
    for (name, resumes) in [("connections, each shaken anew", false), ("connections resumed", true)]
    {
        let (rate, cost) = connect(&tls, &authority, resumes, Duration::from_secs(seconds as u64));
        println!("{name:<40} {rate:>9.0}/s  {:>7.0} us of a core each", cost.as_micros());
    }
    let address = tls.url.trim_start_matches("https://");
    load.row("durable PUT with TLS, 8 connections", "PUT", 8, &tls.url);
    let silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(address).unwrap()).collect();
    load.row("… beside 1,000 silent sockets", "PUT", 8, &tls.url);
    drop(silent);
}

/// Connects again and again. Returns how often a second, and what each took of the machine.
fn connect(machine: &Machine, authority: &Path, resumes: bool, lasts: Duration) -> (f64, Duration) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    let address = machine.url.trim_start_matches("https://");
    let (begun, before, mut count) = (Instant::now(), machine.cpu(), 0);
    while begun.elapsed() < lasts {
        let host = ServerName::try_from("127.0.0.1").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&config), host).unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        let mut stream = Stream::new(&mut tls, &mut socket);
        let request =
            b"GET /v1/keys/bench/key-1?stale=true HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    (rate, machine.cpu().saturating_sub(before) / count)
}
