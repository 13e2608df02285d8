//! What a web page may have a browser ask of a machine, and what nobody who is no browser
//! notices of it. Each header here is one that browsers send and pages cannot forge.

use super::support::{Server, etcd};

/// The origin of a page that is somebody else's.
const FOREIGN: (&str, &str) = ("origin", "http://evil.example");

#[test]
fn form_on_a_page_of_somebody_else_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert_eq!(server.post("/v1/keys/a", &[("value", "mine")]).number("x-etcd-index"), 3);
    let page = [FOREIGN, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
    for (method, path) in [
        ("POST", "/v1/keys/a?value=theirs"),
        ("PUT", "/v1/keys/a?value=theirs"),
        ("DELETE", "/v1/keys/a"),
        ("POST", "/v1/testAndSet/a?prevValue=mine&value=theirs"),
        ("POST", "/v1/restore/a?at=2"),
        ("DELETE", "/v1/machines/default"),
        ("POST", "/nowhere"),
    ] {
        for headers in [&page[..1], &page[1..2], &page] {
            let refused = server.ask(method, path, headers);
            assert_eq!(
                (refused.status, &*refused.body),
                (403, "Cross-Site Request Refused\n"),
                "{method} {path} {headers:?}"
            );
        }
    }
    // A page of the machine's own may, and what asks without a page.
    let own = [("origin", &*server.url), ("sec-fetch-site", "same-origin")];
    assert_eq!(server.ask("PUT", "/v1/keys/a?value=own", &own).number("x-etcd-index"), 4);
    let typed = [("sec-fetch-site", "none")];
    assert_eq!(server.ask("DELETE", "/v1/keys/a", &typed).number("x-etcd-index"), 5);
}

#[test]
fn page_that_has_made_its_name_lead_here_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["-c", "0", "-s", "0", "--allowed-hosts", "node1.example,node2.example"];
    let server = Server::start_with(dir.path(), &args);
    server.post("/v1/keys/a", &[("value", "1")]);
    let port = server.ports().0;
    for (method, path) in [("GET", "/v1/keys/a"), ("GET", "/health"), ("PUT", "/v1/keys/a")] {
        let host = format!("evil.example:{port}");
        let refused = server.ask(method, path, &[("host", &host)]);
        let text = format!("Host Not Allowed: {host}: Name It With --allowed-hosts\n");
        assert_eq!((refused.status, refused.body), (403, text), "{method} {path}");
    }
    for host in ["localhost", "127.0.0.1", "[::1]:4001", "10.1.2.3", "Node2.example:80"] {
        assert_eq!(server.ask("GET", "/v1/keys/a", &[("host", host)]).status, 200, "{host}");
    }
}

#[test]
fn page_that_is_named_with_cors_may_read_and_write() {
    let dir = tempfile::tempdir().unwrap();
    let ui = ("origin", "http://ui.example:8080");
    let args = ["-c", "0", "-s", "0", "--cors", "https://other.example,http://UI.example:8080"];
    let server = Server::start_with(dir.path(), &args);
    let question = [ui, ("access-control-request-method", "PUT")];
    let allowed = server.ask("OPTIONS", "/v1/keys/a", &question);
    assert_eq!((allowed.status, &*allowed.body), (204, ""));
    assert_eq!(allowed.header("access-control-allow-methods"), "GET, HEAD, POST, PUT, DELETE");
    let page = [ui, ("sec-fetch-site", "cross-site")];
    for (method, path, status) in [
        ("PUT", "/v1/keys/a?value=1", 200),
        ("GET", "/v1/keys/a", 200),
        ("GET", "/v1/keys/nothing", 404),
        ("GET", "/v1/watch/a?index=1", 200),
    ] {
        let answer = server.ask(method, path, &page);
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), ui.1);
        assert_eq!(answer.header("vary"), "origin");
        assert!(answer.header("access-control-expose-headers").contains("x-etcd-index"));
    }
    // Others may not: neither write, nor read what comes of a question.
    assert_eq!(server.ask("OPTIONS", "/v1/keys/a", &[FOREIGN, question[1]]).status, 405);
    assert_eq!(server.ask("PUT", "/v1/keys/a?value=2", &[FOREIGN]).status, 403);
    assert_eq!(
        server.ask("GET", "/v1/keys/a", &[FOREIGN]).header("access-control-allow-origin"),
        ""
    );
}

#[test]
fn every_answer_says_that_it_is_no_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "<script>alert(1)</script>")]);
    for (method, path) in [
        ("GET", "/v1/keys/a"),
        ("GET", "/v1/keys/nothing"),
        ("GET", "/v1/keys/?recursive=true"),
        ("GET", "/v1/history/a"),
        ("GET", "/v1/watch/a?index=1"),
        ("GET", "/version"),
        ("GET", "/health"),
        ("PATCH", "/v1/keys/a"),
    ] {
        let answer = server.ask(method, path, &[]);
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{method} {path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
}

#[test]
fn port_that_others_reach_is_told_of_and_needs_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let everywhere = ["-a", "0.0.0.0", "-c", "0", "-s", "0"];
    let advertised =
        ["--advertise-peer", "node1.example:7001", "--advertise-client", "node1.example:4001"];
    for some in [&advertised[..0], &advertised[..2], &advertised[2..]] {
        let args: Vec<_> = everywhere.iter().chain(some).copied().collect();
        let refused = etcd(&args).output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("say those with --advertise-peer and --advertise-client"), "{said}");
    }
    let args: Vec<_> = everywhere.iter().chain(&advertised).copied().collect();
    let mut server = Server::start_with(dir.path(), &args);
    assert_eq!(server.url, "http://node1.example:4001");
    let told = |of: &str, harm: &str| {
        let said = format!("the port of {of} is open beyond this computer, at 0.0.0.0:");
        server
            .announced
            .iter()
            .any(|line| line.contains("WARN") && line.contains(&said) && line.ends_with(harm))
    };
    assert!(told("clients", "without TLS: whoever reaches it can read and write every key"));
    assert!(told("peers", "without TLS: whoever reaches it can act as a machine of the cluster"));
    let line = server.announced.iter().find(|line| line.contains("of clients")).unwrap();
    let port = line.split_once("0.0.0.0:").unwrap().1.split_once(',').unwrap().0.to_owned();
    server.url = format!("http://127.0.0.1:{port}");
    assert_eq!(server.get("/v1/machines").body, "http://node1.example:4001");
    // Others than this computer may call it anything.
    assert_eq!(server.ask("GET", "/version", &[("host", "any.example")]).status, 200);
}
