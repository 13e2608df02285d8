//! TLS of the client port: the same answers, certificates that are good and such that are
//! not, and files that change while clients are there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use ureq::tls::TlsConfig;

use super::support::certs::{Ca, Says, Signed};
use super::support::{PATIENCE, Server, etcd, eventually};
use super::transcript::assert_transcript;

/// Starts a machine whose client port speaks TLS.
fn start(dir: &TempDir, own: &Signed, more: &[&str], trust: TlsConfig) -> Server {
    let mut command = etcd(&["-c", "0", "-s", "0"]);
    command.arg("-d").arg(dir.path().join("node")).arg("-clientCert").arg(&own.cert);
    command.arg("-clientKey").arg(&own.key).args(more);
    let mut server = Server::hear_out(&mut command);
    server.trust = Some(trust);
    server
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// Asks for the version; nothing, if there is no answer.
fn version(server: &Server, trust: TlsConfig) -> Option<u16> {
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).tls_config(trust);
    let asked = config.build().new_agent().get(format!("{}/version", server.url)).call();
    asked.ok().map(|reply| reply.status().as_u16())
}

#[test]
fn transcript_is_the_same_over_tls() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let server = start(&dir, &own, &[], ca.trust(None));
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    assert_transcript(&server);
    assert_eq!(server.get("/v1/machines").body, server.url);
}

#[test]
fn client_needs_a_certificate_that_is_good() {
    let (ca, foreign, dir) = (Ca::new(), Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let (ca_file, crl) = (ca.file(), ca.revoke(&[66]));
    let more = ["--client-ca-file", text(&ca_file), "--client-crl", text(&crl)];
    let client = Says { name: "alice", usages: &[ClientAuth], ..Says::default() };
    let good = ca.sign("good", &client);
    let server = start(&dir, &own, &more, ca.trust(Some(&good)));
    let foreigner = foreign.sign("foreign", &client);
    let expired = ca.sign("expired", &Says { good: (-9, -1), ..client.clone() });
    let future = ca.sign("future", &Says { good: (1, 9), ..client.clone() });
    let revoked = ca.sign("revoked", &Says { serial: 66, ..client.clone() });
    let for_servers = ca.sign("server", &Says { usages: &[ServerAuth], ..client.clone() });
    let elsewhere = ca.sign("elsewhere", &Says { address: "10.9.9.9", ..client.clone() });
    let machine = ca.sign("machine", &Says { uri: Some("etcd:node9"), ..client });
    for (what, shown, is_let_in) in [
        ("none", None, false),
        ("good", Some(&good), true),
        ("foreign", Some(&foreigner), false),
        ("expired", Some(&expired), false),
        ("future", Some(&future), false),
        ("revoked", Some(&revoked), false),
        ("for servers", Some(&for_servers), false),
        // Who answers looks at no address.
        ("of another host", Some(&elsewhere), true),
        ("of a machine", Some(&machine), true),
    ] {
        let expected = is_let_in.then_some(200);
        assert_eq!(version(&server, ca.trust(shown)), expected, "a certificate: {what}");
    }
    assert_eq!(version(&server, foreign.trust(Some(&good))), None, "it is not whom one trusts");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn whoever_comes_to_the_wrong_door_is_told() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let server = start(&dir, &own, &[], ca.trust(None));
    let plain = server.url.replace("https://", "http://");
    let told = super::support::agent(PATIENCE).get(format!("{plain}/v1/keys/a")).call();
    let mut told = told.unwrap();
    assert_eq!(told.status(), 400);
    let body = told.body_mut().read_to_string().unwrap();
    assert_eq!(body, "This Port Speaks TLS: Use https://\n");
    // Also who has much to say first, and reads then.
    let mut stream = TcpStream::connect(plain.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"POST /v1/keys/a HTTP/1.1\r\ncontent-length: 500000\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; 500_000]).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.ends_with("\r\n\r\nThis Port Speaks TLS: Use https://\n"), "{told}");

    let dir = TempDir::new().unwrap();
    let plain = Server::start(dir.path());
    for url in [&plain.url, &plain.peer_url] {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert_eq!(said, [0x15, 3, 3, 0, 2, 2, 40], "an alert, at {url}");
    }
}

/// They have places as all others do, and each has its own time.
#[test]
fn silent_handshakes_delay_nobody() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let server = start(&dir, &own, &[], ca.trust(None));
    let address = server.url.trim_start_matches("https://").to_owned();
    let hello = [0x16, 3, 1, 2, 0, 1];
    let mut silent: Vec<_> = (0..1000)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(&hello[..number % 2 * hello.len()]).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(version(&server, ca.trust(None)), Some(200));
    }
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An alert, an end, or a reset: it is not left to be silent for ever.
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn files_are_replaced_while_clients_ask() {
    let (ca, next, dir) = (Ca::new(), Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let bundle = dir.path().join("clients.crt");
    std::fs::write(&bundle, ca.pem()).unwrap();
    let client = Says { name: "alice", usages: &[ClientAuth], ..Says::default() };
    let (old, new) = (ca.sign("alice", &client), next.sign("alice", &client));
    let more = ["--client-ca-file", text(&bundle)];
    let server = start(&dir, &own, &more, ca.trust(Some(&old)));
    server.post("/v1/keys/a", &[("value", "1")]);
    let told_again = |word: &str| {
        server.signal("-HUP");
        eventually("the files are looked at", || {
            server.said().iter().any(|line| line.contains(word))
        });
    };
    // Those who ask all the while, on new connections and on old ones, notice nothing.
    let is_over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let over = Over(&is_over);
        let asking = scope.spawn(|| ask_until(&server, &is_over, &ca.trust(Some(&old))));
        own.replace(&ca.sign("another", &Says { serial: 2, ..Says::default() }));
        told_again("TLS of clients: certificates, keys and authorities are new");
        std::fs::write(&bundle, format!("{}{}", ca.pem(), next.pem())).unwrap();
        told_again("are new");
        std::fs::write(&bundle, "nonsense").unwrap();
        told_again("TLS of clients stays as it was");
        drop(over);
        asking.join().unwrap()
    });
    assert!(asked > 0);
    std::fs::write(&bundle, format!("{}{}", ca.pem(), next.pem())).unwrap();
    server.signal("-HUP");
    // A connection from before, whose watch outlives what keeps its certificate good.
    let mut watch = server.lines("/v1/watch/a?stream=true&index=1", &[]);
    assert!(watch.next().is_some());

    server.post("/v1/keys/a", &[("value", "2")]);
    assert!(watch.next().is_some_and(|line| line.contains("\"value\":\"2\"")));

    std::fs::write(&bundle, next.pem()).unwrap();
    told_again("are new");
    assert_eq!(version(&server, ca.trust(Some(&old))), None);
    assert_eq!(version(&server, ca.trust(Some(&new))), Some(200));
    assert!(watch.ends_in_failure(), "nobody believes its certificate any more");
}

/// Asks until it is over, and returns how often. Each time there is an answer.
fn ask_until(server: &Server, is_over: &AtomicBool, trust: &TlsConfig) -> usize {
    let mut asked = 0;
    while !is_over.load(Ordering::Relaxed) {
        assert_eq!(server.get("/v1/keys/a").status, 200);
        assert_eq!(version(server, trust.clone()), Some(200));
        asked += 1;
    }
    asked
}

/// Ends whoever asks, also if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A machine's own certificate has lapsed: what is revoked is revoked all the same.
#[test]
fn lapsed_certificate_keeps_no_revocation_from_counting() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says { seconds: Some(10), ..Says::default() });
    let (ca_file, crl) = (ca.file(), ca.revoke(&[66]));
    let client = Says { name: "carol", usages: &[ClientAuth], serial: 7, ..Says::default() };
    let carol = ca.sign("carol", &client);
    let more = ["--client-ca-file", text(&ca_file), "--client-crl", text(&crl)];
    let server = start(&dir, &own, &more, ca.trust(Some(&carol)));
    server.post("/v1/keys/a", &[("value", "1")]);
    let mut watch = server.lines("/v1/watch/a?stream=true&index=1", &[]);
    assert!(watch.next().is_some());
    eventually("it has lapsed, and is told of", || {
        server.signal("-HUP");
        server.said().iter().any(|line| line.contains("ERROR") && line.contains("was good until"))
    });
    ca.revoke(&[66, 7]);
    server.signal("-HUP");
    assert!(watch.ends_in_failure(), "it is revoked");
}

/// Whoever was let in is let in for as long as the certificate is good, though no file changes.
#[test]
fn clients_certificate_lapses_while_it_watches() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let client = Says { name: "alice", usages: &[ClientAuth], ..Says::default() };
    let (short, long) = (Says { seconds: Some(10), ..client.clone() }, ca.sign("long", &client));
    let ca_file = ca.file();
    let mut server =
        start(&dir, &own, &["--client-ca-file", text(&ca_file)], ca.trust(Some(&long)));
    server.post("/v1/keys/a", &[("value", "1")]);
    server.trust = Some(ca.trust(Some(&ca.sign("short", &short))));
    let mut watch = server.lines("/v1/watch/a?stream=true&index=1", &[]);
    assert!(watch.next().is_some());
    assert!(watch.ends_in_failure(), "it has lapsed");
    assert_eq!(version(&server, ca.trust(Some(&long))), Some(200));
}

/// Shakes hands with one version of TLS alone.
fn shake_hands(
    server: &Server,
    ca: &Ca,
    version: &'static SupportedProtocolVersion,
) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let host = "127.0.0.1".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), host).unwrap();
    let mut stream = TcpStream::connect(server.url.trim_start_matches("https://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(())
}

#[test]
fn old_version_is_spoken_unless_it_is_refused() {
    let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
    let own = ca.sign("own", &Says::default());
    let both = start(&dir, &own, &[], ca.trust(None));
    for version in [&TLS12, &TLS13] {
        shake_hands(&both, &ca, version).unwrap();
    }
    let dir = TempDir::new().unwrap();
    let newest = start(&dir, &own, &["--tls-min", "1.3"], ca.trust(None));
    shake_hands(&newest, &ca, &TLS13).unwrap();
    let refused = shake_hands(&newest, &ca, &TLS12).unwrap_err().to_string();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    // Where nobody speaks TLS, whoever wants it new has forgotten something.
    let plain = etcd(&["--tls-min", "1.3"]).output().unwrap();
    let said = String::from_utf8(plain.stderr).unwrap();
    assert_eq!(plain.status.code(), Some(2), "{said}");
    assert!(said.contains("<--client-cert <FILE>|--auto-tls>"), "{said}");
}

#[test]
fn files_that_are_wrong_are_named_and_nothing_starts() {
    let (ca, other, dir) = (Ca::new(), Ca::new(), TempDir::new().unwrap());
    let good = ca.sign("good", &Says::default());
    let expired = ca.sign("expired", &Says { good: (-9, -1), ..Says::default() });
    let future = ca.sign("future", &Says { good: (1, 9), ..Says::default() });
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let broken = dir.path().join("broken");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let missing = dir.path().join("missing");
    let other_key = other.sign("good", &Says::default()).key;
    let refused = |cert: &std::path::Path, key: &std::path::Path, more: &[&str]| {
        let mut command = etcd(&["-c", "0", "-s", "0", "-d"]);
        command.arg(dir.path().join("node")).arg("--client-cert").arg(cert);
        command.arg("--client-key").arg(key).args(more);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        said.lines().last().unwrap().to_owned()
    };
    for (cert, key, named, why) in [
        (&missing, &good.key, &missing, "No such file or directory"),
        (&good.cert, &missing, &missing, "No such file or directory"),
        (&empty, &good.key, &empty, "no certificate"),
        (&good.cert, &empty, &empty, "it holds no key"),
        (&good.cert, &other_key, &other_key, "it is not the key of"),
        (&expired.cert, &expired.key, &expired.cert, "its certificate was good until"),
        (&future.cert, &future.key, &future.cert, "its certificate is good from"),
    ] {
        let said = refused(cert, key, &[]);
        assert!(said.contains(text(named)) && said.contains(why), "{said}");
    }
    for (file, why) in
        [(&empty, "no certificate"), (&broken, "it is refused"), (&missing, "No such file")]
    {
        let said = refused(&good.cert, &good.key, &["--client-ca-file", text(file)]);
        assert!(said.contains(text(file)) && said.contains(why), "{said}");
    }
    let crl = ["--client-ca-file", text(&good.cert), "--client-crl", text(&empty)];
    let said = refused(&good.cert, &good.key, &crl);
    assert!(said.contains("it holds no list of revoked certificates"), "{said}");
    // One without the other is no TLS, and no plain port either.
    let alone = etcd(&["--client-cert", text(&good.cert)]).output().unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(!dir.path().join("node/wal").exists(), "nothing was begun");
}

#[test]
fn machine_makes_its_own_certificate() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "--auto-tls"]);
    let authority = dir.path().join("tls/ca.crt");
    let hint = format!("try: curl --cacert {} {}/version", authority.display(), server.url);
    assert!(server.announced.iter().any(|line| line.ends_with(&hint)), "{:#?}", server.announced);
    let pem = std::fs::read(&authority).unwrap();
    server.trust = Some(super::support::certs::trust(&pem, None));
    assert_eq!(server.get("/health").status, 200);
    let key = std::fs::metadata(dir.path().join("tls/client.key")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    // Whoever has been given the authority needs nothing new after a start.
    server.stop("-TERM");
    let mut server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "--auto-tls"]);
    server.trust = Some(super::support::certs::trust(&pem, None));
    assert_eq!(server.get("/health").status, 200);
}

/// The three commands of the help, and a machine and a client that use what they make.
#[test]
fn three_commands_make_certificates_that_work() {
    let dir = TempDir::new().unwrap();
    let cert = |args: &[&str]| -> (Option<i32>, String) {
        let mut command: Command = etcd(&["cert"]);
        let output = command.args(args).current_dir(dir.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (status, said) = cert(&["machine", "node1", "--host", "127.0.0.1"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("certs is no authority yet: etcd cert init makes one there"), "{said}");
    let (status, said) = cert(&["init"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.starts_with("certs/ca.crt  the authority"), "{said}");
    let (status, said) = cert(&["machine", "node1", "--host", "127.0.0.1,localhost"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("certs/node1.crt  machine node1 at 127.0.0.1, localhost, until "));
    let (status, said) = cert(&["client", "alice"]);
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = cert(&["client", "alice"]);
    assert_eq!(status, Some(1));
    let refused = "certs/alice.crt is there already: nothing was changed; --renew replaces it";
    assert_eq!(said.trim_end(), format!("etcd: {refused}"));
    assert_eq!(cert(&["client", "alice", "--renew"]).0, Some(0));
    assert_eq!(cert(&["machine", "a/b", "--host", "x"]).0, Some(2));
    let (status, said) = cert(&["client", "two\nlines"]);
    assert_eq!(status, Some(1));
    let refused = r#""two\nlines" cannot be noted: it has control characters"#;
    assert_eq!(said.trim_end(), format!("etcd: {refused}"));
    assert_eq!(cert(&["init"]).0, Some(1));

    let file = |name: &str| dir.path().join("certs").join(name);
    let own = Signed { cert: file("node1.crt"), key: file("node1.key") };
    let (alice, ca) = (Signed { cert: file("alice.crt"), key: file("alice.key") }, file("ca.crt"));
    let pem = std::fs::read(&ca).unwrap();
    let trust = super::support::certs::trust(&pem, Some(&alice));
    assert_eq!(cert(&["client", "bob"]).0, Some(0));
    assert_eq!(cert(&["client", "carol"]).0, Some(0));
    let (status, said) = cert(&["revoke", "bob"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.starts_with("certs/revoked.crl  bob counts no longer"), "{said}");
    let crl = file("revoked.crl");
    let more = ["--client-ca-file", text(&ca), "--client-crl", text(&crl)];
    let server = start(&dir, &own, &more, trust);
    assert_eq!(server.get("/health").status, 200);
    let shown = |name: &str| {
        let shown =
            Signed { cert: file(&format!("{name}.crt")), key: file(&format!("{name}.key")) };
        version(&server, super::support::certs::trust(&pem, Some(&shown)))
    };
    assert_eq!([shown("bob"), shown("carol")], [None, Some(200)]);
    assert_eq!(cert(&["revoke", "carol"]).0, Some(0));
    server.signal("-HUP");
    eventually("the list is looked at", || shown("carol").is_none());
    assert_eq!([shown("bob"), shown("alice")], [None, Some(200)]);
    assert_eq!(cert(&["revoke", "nobody"]).0, Some(1));
    let (status, said) = cert(&["revoke", "ca"]);
    assert!(status == Some(1) && said.contains("ca is what the authority is called"), "{said}");
    // One that was replaced is revoked with the one that replaces it.
    let stolen = Signed { cert: file("stolen.crt"), key: file("stolen.key") };
    std::fs::copy(&alice.cert, &stolen.cert).unwrap();
    std::fs::copy(&alice.key, &stolen.key).unwrap();
    assert_eq!(cert(&["client", "alice", "--renew"]).0, Some(0));
    assert_eq!([shown("stolen"), shown("alice")], [Some(200), Some(200)]);
    assert_eq!(cert(&["revoke", "alice"]).0, Some(0));
    server.signal("-HUP");
    eventually("both count no longer", || [shown("stolen"), shown("alice")] == [None, None]);
    assert_eq!(version(&server, super::support::certs::trust(&pem, None)), None);
}
