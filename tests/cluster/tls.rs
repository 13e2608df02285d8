//! TLS between machines: who is let in, who is not and is told why, and how a cluster changes
//! to it while clients write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd::peers::{Peers, Request, Sockets};
use etcd::tls::{LiveTls, Purpose, TlsFiles};
use etcd_log::{LogFormat, Machine, NodeId, Term, Vote};
use tokio::io::AsyncReadExt as _;

use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use tempfile::TempDir;

use crate::cluster_faults::{FAULTS, Fault, SMALL, Whom, assert_linearizable_while, suffer_all};
use crate::support::certs::{Ca, Says, Signed};
use crate::support::cluster::Cluster;
use crate::support::limit;
use crate::support::{PATIENCE, Server, agent, etcd, eventually};

/// The certificates of machines, `node1` first.
fn machines(ca: &Ca, count: u64) -> Vec<Signed> {
    let sign = |number: u64| {
        let name = format!("node{number}");
        let uri = format!("etcd:{name}");
        let says = Says { name: &name, uri: Some(&uri), serial: number, ..Says::default() };
        ca.sign(&name, &says)
    };
    (1..=count).map(sign).collect()
}

fn args(own: &Signed, ca: &Path) -> Vec<String> {
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key) = (file(&own.cert), file(&own.key));
    ["-serverCert", &cert, "-serverKey", &key, "-serverCAFile", &file(ca)]
        .map(str::to_owned)
        .to_vec()
}

/// The same, and clients have to show certificates of the same authority.
fn with_clients(own: &Signed, ca: &Path) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut all = args(own, ca);
    all.extend(["--client-cert".to_owned(), path(&own.cert)]);
    all.extend(["--client-key".to_owned(), path(&own.key)]);
    all.extend(["--client-ca-file".to_owned(), path(ca)]);
    all
}

/// Starts three machines that have certificates of their names, and nothing else.
fn start_named(ca: &Path, certs: &[Signed]) -> Cluster {
    let (certs, ca) = (certs.to_vec(), ca.to_owned());
    Cluster::start_each(3, move |at| args(&certs[at], &ca), None)
}

/// The same; clients are asked for certificates of that authority, too.
fn start_with_clients(ca: &Ca, certs: &[Signed]) -> Cluster {
    let alice = alice(ca);
    let (certs, file) = (certs.to_vec(), ca.file());
    let own = move |at: usize| with_clients(&certs[at], &file);
    Cluster::start_each(3, own, Some(ca.trust(Some(&alice))))
}

/// A client's certificate.
fn alice(ca: &Ca) -> Signed {
    ca.sign("alice", &Says { name: "alice", ..Says::default() })
}

/// Tries to join with these arguments; returns how that ends.
fn join(cluster: &Cluster, name: &str, args: &[String]) -> (Option<i32>, String) {
    let through = cluster.server(0).peer_url.split_once("://").unwrap().1.to_owned();
    let dir = TempDir::new().unwrap();
    let mut command = etcd(&["-c", "0", "-s", "0", "-n", name, "-C", &through]);
    let mut server = Server::launch(command.arg("-d").arg(dir.path()).args(args));
    let mut said = Vec::new();
    eventually("it joins, or says why not", || {
        said.extend(server.said());
        let all = said.join("\n");
        server.has_ended() || all.contains("ready in") || all.contains("not joined yet")
    });
    let status = if server.has_ended() {
        said.extend(server.last_words());
        server.wait().code()
    } else {
        None
    };
    (status, said.join("\n"))
}

#[test]
fn machine_is_let_in_by_a_certificate_that_names_it() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let (certs, file) = (machines(&ca, 4), ca.file());
    let crl = ca.revoke(&[66]);
    let own = {
        let (certs, file, crl) = (certs.clone(), file.clone(), crl.clone());
        move |at: usize| {
            let mut own = args(&certs[at], &file);
            own.extend(["--server-crl".to_owned(), crl.to_str().unwrap().to_owned()]);
            own
        }
    };
    let cluster = Cluster::start_each(3, own, None);
    let peers = cluster.server(0).get("/v1/leader").body;
    assert!(peers.starts_with("https://"), "{peers}");
    for at in 0..3 {
        cluster.server(at).post("/v1/keys/a", &[("value", &at.to_string())]);
        assert!(cluster.server((at + 1) % 3).get("/v1/keys/a").body.contains(&at.to_string()));
    }
    let node4 = Says { name: "node4", uri: Some("etcd:node4"), ..Says::default() };
    let foreigner = foreign.sign("foreign", &node4);
    let expired = ca.sign("expired", &Says { good: (-9, -1), ..node4.clone() });
    let revoked = ca.sign("revoked", &Says { serial: 66, ..node4.clone() });
    let for_servers = ca.sign("server", &Says { usages: &[ServerAuth], ..node4.clone() });
    let (plain, tls) = (Vec::new(), |own: &Signed| args(own, &file));
    for (what, args, status, why) in [
        ("none", plain, Some(1), "it speaks TLS: give --server-cert, --server-key and"),
        ("another's", tls(&certs[1]), Some(1), "its certificate is of node2"),
        ("foreign", tls(&foreigner), None, "UnknownCA"),
        ("expired", tls(&expired), Some(2), "its certificate was good until"),
        ("revoked", tls(&revoked), None, "Revoked"),
        ("for servers", tls(&for_servers), None, "UnsupportedCertificate"),
        ("which does not trust", args(&certs[3], &foreign.file()), None, "UnknownIssuer"),
    ] {
        let (ended, said) = join(&cluster, "node4", &args);
        assert_eq!(ended, status, "{what}: {said}");
        assert!(said.contains(why) && !said.contains("ready in"), "{what}: {said}");
    }
    assert_eq!(cluster.server(2).post("/v1/keys/a", &[("value", "still")]).status, 200);
}

/// The tools speak TLS to machines that do, and follow them from one to the other.
#[test]
fn tools_speak_tls() {
    let ca = Ca::new();
    let (file, alice) = (ca.file(), alice(&ca));
    let mut cluster = start_with_clients(&ca, &machines(&ca, 3));
    let urls: Vec<_> = cluster.running().map(|server| server.url.clone()).collect();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (ca_file, cert, key) = (path(&file), path(&alice.cert), path(&alice.key));
    let trust = ["--ca-file", &ca_file, "--cert-file", &cert, "--key-file", &key];
    let run = |args: &[&str], trust: &[&str]| {
        let output = etcd(args).args(trust).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    cluster.server(0).post("/v1/keys/a", &[("value", "1")]);
    let list = ["machine", "list", "-u", &urls[1]];
    let (status, said) = run(&list, &trust);
    assert!(status == Some(0) && said.matches("https://").count() == 6, "{said}");
    let (status, said) = run(&["log", "history", "/a", "-u", &urls[2]], &trust);
    assert!(status == Some(0) && said.contains("/a"), "{said}");
    let (status, said) = run(&list, &[]);
    assert!(said.contains("say with --ca-file which authority to believe"), "{said}");
    assert_eq!(status, Some(1));
    for plainly in [&["machine", "list", "-u"][..], &["log", "history", "/a", "-u"]] {
        let plain = urls[1].replace("https://", "http://");
        let (status, said) = run(plainly, &[&*plain]);
        assert!(status == Some(1) && said.contains("speaks TLS: use https://"), "{said}");
    }
    let (status, said) = run(&list, &trust[..2]);
    assert!(status == Some(1) && said.contains("no machine answers"), "{said}");
    let (status, said) = run(&list, &["--ca-file", "nowhere"]);
    assert!(status == Some(2) && said.contains("nowhere: No such file"), "{said}");

    let mut tail = etcd(&["log", "tail", "-u", &urls[0], "--json"]);
    let mut tail = tail.args(trust).spawn().unwrap();
    let mut told = BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = cluster.server(1);
        let writing = scope.spawn(|| {
            // It begins somewhen.
            while !is_told.load(Ordering::Relaxed) {
                server.post("/v1/keys/begun", &[("value", "x")]);
            }
        });
        assert!(told.next().unwrap().contains("/begun"));
        is_told.store(true, Ordering::Relaxed);
        writing.join().unwrap();
    });
    cluster.kill(0);
    eventually("the others write", || {
        cluster.server(1).post("/v1/keys/behind", &[("value", "x")]).status == 200
    });
    assert!(told.any(|line| line.contains("/behind")));
    tail.kill().unwrap();
    tail.wait().unwrap();
}

/// The same authority for both ports would let any client act as a machine.
#[test]
fn client_is_no_machine_where_both_ports_have_one_authority() {
    let ca = Ca::new();
    let cluster = start_with_clients(&ca, &machines(&ca, 3));
    assert_eq!(cluster.server(1).post("/v1/keys/a", &[("value", "1")]).status, 200);
    let (status, said) = join(&cluster, "alice", &args(&alice(&ca), &ca.file()));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("its certificate names no machine, as etcd:NAME would"), "{said}");
}

/// A machine whose certificate names it lets nobody in whose certificate names none, unless
/// that is said.
#[test]
fn certificate_without_a_name_is_let_in_where_any_will_do() {
    let ca = Ca::new();
    let file = ca.file();
    let node4 = ca.sign("nameless", &Says { name: "node4", ..Says::default() });
    for (identity, is_let_in) in [(None, false), (Some("strict"), false), (Some("any"), true)] {
        let mut founder = args(&machines(&ca, 1)[0], &file);
        founder.extend(identity.map(|identity| format!("--peer-identity={identity}")));
        let cluster = Cluster::start_each(1, move |_| founder.clone(), None);
        let (status, said) = join(&cluster, "node4", &args(&node4, &file));
        if is_let_in {
            assert!(status.is_none() && said.contains("ready in"), "{identity:?}: {said}");
            continue;
        }
        assert_eq!(status, Some(1), "{identity:?}: {said}");
        let why = "its certificate names no machine, as etcd:NAME would";
        assert!(said.contains(why), "{identity:?}: {said}");
    }
}

/// Speaks to machines with a certificate, in the name of an id.
fn speaker(ca: &Path, own: &Signed, me: NodeId, cluster: &Cluster) -> Peers {
    let files = TlsFiles {
        cert: own.cert.clone(),
        key: own.key.clone(),
        ca: Some(ca.to_owned()),
        crl: None,
        ca_of_others: None,
    };
    let tls = LiveTls::open(files, Purpose::Peers { strict: Some(false) }).unwrap();
    let of = cluster.server(0).cluster().parse().unwrap();
    let peers = Peers::new(me, of, Arc::new(Sockets::Tls(tls)));
    for at in 0..3 {
        let address = cluster.server(at).peer_url.trim_start_matches("https://");
        peers.learn(NodeId(cluster.id(at)), address);
    }
    peers
}

/// Whoever has a certificate speaks as the machine that it is of, and as no other one:
/// neither as one that nobody knows, nor by joining under an id that is another's.
#[tokio::test]
async fn certificate_is_of_one_machine_alone() {
    limit::begin();
    let ca = Ca::new();
    let (certs, file) = (machines(&ca, 3), ca.file());
    let cluster = start_named(&file, &certs);
    let alice = alice(&ca);
    let aaa = ca.sign("aaa", &Says { name: "aaa", uri: Some("etcd:aaa"), ..Says::default() });
    let odd = ca.sign("odd", &Says { name: "odd", uri: Some("ETCD:%FF"), ..Says::default() });
    let victim = NodeId(cluster.id(2));
    let peer_url = cluster.server(2).peer_url.clone();
    let limit = Duration::from_secs(5);
    let (stranger, to) = (NodeId(1234), NodeId(cluster.id(1)));
    for (own, me, why) in [
        (&alice, stranger, "its certificate names no machine"),
        (&odd, stranger, "its certificate is of"),
        (&certs[0], stranger, "its certificate is of node1"),
        (&certs[0], victim, "its certificate is of node1"),
        (&aaa, victim, "its certificate is of aaa"),
    ] {
        let peers = speaker(&file, own, me, &cluster);
        for request in [
            Request::Vote { vote: Vote { term: Term(99), node: me, committed: false }, last: None },
            Request::Propose { commands: Vec::new() },
            Request::Leave { name: "node3".into() },
            Request::Status,
        ] {
            let refused = peers.ask(to, &request, &[], limit).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{request:?}: {refused}");
        }
    }
    let machine = Machine {
        name: "aaa".into(),
        node: victim,
        peer_url: peer_url.as_str().into(),
        client_url: "http://h:1".into(),
    };
    let join = Request::Join { machine, log_format: LogFormat::NEWEST };
    let peers = speaker(&file, &aaa, victim, &cluster);
    for at in 0..2 {
        let to = NodeId(cluster.id(at));
        let refused = peers.ask(to, &join, &[], limit).await.unwrap_err().to_string();
        assert!(refused.contains("its certificate is of aaa"), "{refused}");
    }
    assert_eq!(cluster.server(2).post("/v1/keys/a", &[("value", "1")]).status, 200);
}

/// Somebody with a good certificate for the host has taken a machine's place: nothing is said
/// to him.
#[tokio::test]
async fn whoever_stands_in_a_machines_place_is_told_nothing() {
    limit::begin();
    let ca = Ca::new();
    let file = ca.file();
    let mut cluster = start_named(&file, &machines(&ca, 3));
    let follower = (cluster.leader() + 1) % 3;
    let address = cluster.server(follower).peer_url.trim_start_matches("https://").to_owned();
    cluster.kill(follower);
    let aaa = ca.sign("aaa", &Says { name: "aaa", uri: Some("etcd:aaa"), ..Says::default() });
    let files =
        TlsFiles { cert: aaa.cert, key: aaa.key, ca: Some(file), crl: None, ca_of_others: None };
    let tls = LiveTls::open(files, Purpose::Peers { strict: Some(false) }).unwrap();
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    for _ in 0..5 {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok((mut stream, _)) = tls.accept(stream).await else { continue };
        let mut said = Vec::new();
        let _ended = stream.read_to_end(&mut said).await;
        assert_eq!(said, b"", "whose place it is was not shown");
    }
    let others = cluster.servers.iter().flatten();
    assert!(
        others.clone().all(|server| server.post("/v1/keys/a", &[("value", "1")]).status == 200)
    );
}

/// Machines that are killed, and that fall silent and come again, with TLS between them. What
/// passes cannot be told apart, so no link is cut.
#[test]
fn history_under_faults_over_tls_is_linearizable() {
    let ca = Ca::new();
    let (certs, file) = (machines(&ca, 3), ca.file());
    let own = move |at: usize| {
        let mut own = args(&certs[at], &file);
        own.extend(SMALL.map(str::to_owned));
        own
    };
    let mut cluster = Cluster::start_each(3, own, None);
    assert_linearizable_while(&mut cluster, |cluster, shared| {
        let of_machines = |(fault, _): &(Fault, Whom)| matches!(fault, Fault::Kill | Fault::Pause);
        suffer_all(cluster, shared, FAULTS.into_iter().filter(of_machines));
    });
}

/// Two rounds: in the first, each machine learns to speak TLS; in the second, it says so.
#[test]
fn cluster_changes_to_tls_while_clients_write() {
    let ca = Ca::new();
    let (certs, file) = (Arc::new(machines(&ca, 3)), ca.file());
    let mut cluster = Cluster::start(3, &[]);
    assert_linearizable_while(&mut cluster, |cluster, _| {
        for more in [&["--peer-plain-too"][..], &[]] {
            let (certs, file) = (Arc::clone(&certs), file.clone());
            cluster.change_own_args(move |at| {
                let mut own = args(&certs[at], &file);
                own.extend(more.iter().map(|&flag| flag.to_owned()));
                own
            });
            for at in 0..3 {
                cluster.kill(at);
                cluster.launch(at, &[]);
                cluster.wait(at);
                eventually("all have a vote again", || {
                    cluster.list().matches("\"role\":\"follower\"").count() == 2
                });
            }
        }
    });
    eventually("all say that they speak TLS", || {
        cluster.list().matches("\"peerUrl\":\"https://").count() == 3
    });
}

/// A machine that is revoked is cut off at once, and the others go on.
#[test]
fn revoked_machine_is_cut_off() {
    let ca = Ca::new();
    let (certs, file, crl) = (machines(&ca, 3), ca.file(), ca.revoke(&[66]));
    let own = {
        let crl = crl.to_str().unwrap().to_owned();
        move |at: usize| {
            let mut own = args(&certs[at], &file);
            own.extend(["--server-crl".to_owned(), crl.clone()]);
            own
        }
    };
    let cluster = Cluster::start_each(3, own, None);
    let leader = cluster.leader();
    let outcast = (leader + 1) % 3;
    ca.revoke(&[66, outcast as u64 + 1]);
    for at in (0..3).filter(|at| *at != outcast) {
        cluster.server(at).signal("-HUP");
    }
    eventually("nothing comes from it any more", || {
        let value = [("value", "x"), ("timeout", "1")];
        let written = cluster.server(outcast).post("/v1/keys/outcast", &value);
        written.status == 503
    });
    // Nor is anything said to it, also where it was connected before.
    let others = || (0..3).filter(|at| *at != outcast).map(|at| cluster.server(at));
    eventually("nobody reaches it", || {
        others().all(|server| {
            let list = server.get("/v1/machines?detail=true").body;
            list.matches("\"role\":\"unreachable\"").count() == 1
        })
    });
    assert!(others().all(|server| server.post("/v1/keys/a", &[("value", "x")]).status == 200));
    // A person at the peer port is told who speaks there.
    let peers = cluster.server(leader).peer_url.replace("https://", "http://");
    let mut told = agent(PATIENCE).get(format!("{peers}/version")).call().unwrap();
    let body = told.body_mut().read_to_string().unwrap();
    assert_eq!(body, "Machines Speak TLS Here, Nobody Else\n");
}
