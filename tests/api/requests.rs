//! Requests under an id: whoever asks again gets the first answer, to the byte, and nothing
//! happens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::support::{PATIENCE, Reply, Server, etcd, eventually};

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    (dir, server)
}

/// Asks for something under an id.
fn under(server: &Server, id: &str, method: &str, path: &str) -> Reply {
    server.ask(method, path, &[("x-request-id", id)])
}

fn is_replayed(reply: &Reply) -> bool {
    reply.header("x-etcd-replayed") == "true"
}

/// Asks twice, and returns the first answer: the second one is the same, and says so.
fn twice(server: &Server, id: &str, method: &str, path: &str) -> Reply {
    let first = under(server, id, method, path);
    assert!(!is_replayed(&first), "{}", first.body);
    let event = server.get("/v1/keys/_etcd/cluster").number("x-etcd-index");
    let again = under(server, id, method, path);
    assert_eq!((again.status, &again.body), (first.status, &first.body), "{method} {path}");
    assert_eq!(again.header("x-etcd-event"), first.header("x-etcd-event"));
    assert!(is_replayed(&again), "{}", again.body);
    assert_eq!(again.number("x-etcd-index"), event + 1, "it takes an index");
    first
}

#[test]
fn second_answer_is_the_first_one() {
    let (_dir, server) = fresh();
    let set = twice(&server, "1", "PUT", "/v1/keys/a?value=x&ttl=100");
    assert!(set.body.contains(r#""newKey":true"#) && set.body.contains(r#""ttl":99"#));
    assert!(set.body.ends_with(",\"index\":3}\n"), "{}", set.body);
    for (id, method, path, status, body) in [
        ("2", "POST", "/v1/testAndSet/a?prevValue=y&value=z", 400, "Test x==y fails\n"),
        ("3", "PUT", "/v1/keys/a?value=y&prevExist=false", 400, "Key Already Exists: /a\n"),
        ("4", "DELETE", "/v1/keys/b", 404, "404 page not found\n"),
        ("5", "PUT", "/v1/keys/a/b?value=y", 400, "Not A Directory: /a\n"),
    ] {
        let refused = twice(&server, id, method, path);
        assert_eq!((refused.status, &*refused.body), (status, body));
    }
    let deleted = twice(&server, "~!@", "DELETE", "/v1/keys/a?prevValue=x");
    assert!(deleted.body.contains(r#""action":"DELETE""#), "{}", deleted.body);
    assert_eq!(server.get("/v1/keys/a").status, 404);
    let events = server.get("/v1/history/a").body;
    assert_eq!(events.lines().count(), 2, "{events}");
}

/// Neither in another process of the machine is an id forgotten.
#[test]
fn id_is_remembered_over_a_restart() {
    let (dir, server) = fresh();
    let path = "/v1/keys/a?value=x";
    let first = under(&server, "1", "PUT", path);
    server.stop("-TERM");
    let server = Server::start(dir.path());
    let again = under(&server, "1", "PUT", path);
    assert!(is_replayed(&again) && again.body == first.body, "{}", again.body);
    server.kill();
    let server = Server::start(dir.path());
    assert!(is_replayed(&under(&server, "1", "PUT", path)));
}

#[test]
fn other_command_under_the_same_id_is_refused() {
    let (_dir, server) = fresh();
    assert_eq!(under(&server, "1", "PUT", "/v1/keys/a?value=x").status, 200);
    for (method, path) in [
        ("PUT", "/v1/keys/a?value=y"),
        ("PUT", "/v1/keys/b?value=x"),
        ("PUT", "/v1/keys/a?value=x&ttl=1"),
        ("PUT", "/v1/keys/a?value=x&prevValue=x"),
        ("DELETE", "/v1/keys/a"),
        ("POST", "/v1/restore/a?at=2"),
    ] {
        let refused = under(&server, "1", method, path);
        assert_eq!(
            (refused.status, &*refused.body),
            (409, "Request Id Was Used For Another Command\n"),
            "{method} {path}"
        );
    }
    // How long it may take is no part of what is to be done.
    assert!(is_replayed(&under(&server, "1", "PUT", "/v1/keys/a?value=x&timeout=30")));
    assert_eq!(server.get("/v1/history/?recursive=true&from=3").body.lines().count(), 1);
}

#[test]
fn id_that_is_none_is_refused() {
    let (_dir, server) = fresh();
    let (long, longest) = ("x".repeat(65), "x".repeat(64));
    for id in ["", "a b", "\u{e4}", &long] {
        for (method, path) in [
            ("PUT", "/v1/keys/a?value=x"),
            ("POST", "/v1/testAndSet/a?value=x&prevValue=y"),
            ("DELETE", "/v1/keys/a"),
            ("POST", "/v1/restore/a?at=1"),
        ] {
            let refused = under(&server, id, method, path);
            let why = "X-Request-Id Must Have 1 To 64 Visible ASCII Characters\n";
            assert_eq!((refused.status, &*refused.body), (400, why), "{id:?} {path}");
        }
    }
    let two = [("x-request-id", "a"), ("x-request-id", "b")];
    assert_eq!(server.ask("PUT", "/v1/keys/a?value=x", &two).status, 400);
    assert_eq!(under(&server, &longest, "PUT", "/v1/keys/a?value=x").status, 200);
    // Whoever reads may say what he likes: proxies put an id on everything.
    assert_eq!(under(&server, "a b", "GET", "/v1/keys/a").status, 200);
}

/// Also of what was worked out from what was there, and would come to something else by now.
#[test]
fn restore_is_done_once() {
    let (_dir, server) = fresh();
    let set = |key: &str, value: &str| server.post(&format!("/v1/keys{key}"), &[("value", value)]);
    for (key, value) in [("/p/a", "1"), ("/p/b", "1"), ("/p/a", "2"), ("/p/new/c", "2")] {
        assert_eq!(set(key, value).status, 200);
    }
    let at = "/v1/restore/p?at=4&if_index=6";
    let first = under(&server, "r", "POST", at);
    let body = "{\"action\":\"RESTORE\",\"key\":\"/p\",\"at\":4,\"changed\":2,\"index\":7}\n";
    assert_eq!((first.status, &*first.body), (200, body));
    set("/p/a", "3");
    // It was changed after 6, by the restore itself and since then.
    let again = under(&server, "r", "POST", at);
    assert_eq!((again.status, &*again.body, is_replayed(&again)), (200, body, true));
    assert!(server.get("/v1/keys/p/a").body.contains(r#""value":"3""#));
    // There was nothing to do: that is an answer, too.
    let nothing = "/v1/restore/q?at=4";
    let first = under(&server, "n", "POST", nothing);
    assert!(first.body.contains(r#""changed":0"#) && !is_replayed(&first), "{}", first.body);
    set("/q", "1");
    let again = under(&server, "n", "POST", nothing);
    assert!(is_replayed(&again) && again.body == first.body, "{}", again.body);
    assert_eq!(server.get("/v1/keys/q").status, 200);
    // What expired before it was done is no key that it has changed.
    set("/e/a", "1");
    let at = server.post("/v1/keys/e/b", &[("value", "1")]).number("x-etcd-index");
    for key in ["/e/a", "/e/b"] {
        server.post(&format!("/v1/keys{key}"), &[("value", "2"), ("ttl", "1")]);
    }
    eventually("they expire", || server.get("/v1/keys/e/a").status == 404);
    let back = format!("/v1/restore/e?at={at}");
    let first = under(&server, "e", "POST", &back);
    let again = under(&server, "e", "POST", &back);
    assert!(first.status == 200 && is_replayed(&again) && again.body == first.body);
    // A span of time says the same, whenever it is said.
    let first = under(&server, "s", "POST", "/v1/restore/p?at=-0s");
    set("/p/a", "4");
    let again = under(&server, "s", "POST", "/v1/restore/p?at=-0s");
    assert!(is_replayed(&again) && again.body == first.body, "{}", again.body);
}

/// Nobody is told that it cannot be done because it was.
#[test]
fn restore_that_many_ask_for_at_once_is_done_once() {
    let (_dir, server) = fresh();
    for value in ["1", "2"] {
        server.post("/v1/keys/p/a", &[("value", value)]);
    }
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = || under(&server, "r", "POST", "/v1/restore/p?at=3&if_index=4");
        let asking: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let body = "{\"action\":\"RESTORE\",\"key\":\"/p\",\"at\":3,\"changed\":1,\"index\":5}\n";
    for answer in &answers {
        assert_eq!((answer.status, &*answer.body), (200, body));
    }
    assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1);
}

/// A dry run does nothing, so it is no request that is remembered.
#[test]
fn dry_run_uses_no_id() {
    let (_dir, server) = fresh();
    for value in ["1", "2"] {
        server.post("/v1/keys/p/a", &[("value", value)]);
    }
    let dry = under(&server, "r", "POST", "/v1/restore/p?at=3&dry_run=true");
    assert_eq!(dry.body, "{\"key\":\"/p/a\",\"from\":\"2\",\"to\":\"1\"}\n");
    let restored = under(&server, "r", "POST", "/v1/restore/p?at=3");
    assert!(restored.status == 200 && !is_replayed(&restored), "{}", restored.body);
}

/// More than the state remembers is in the log; and why something was refused is not.
#[test]
fn answer_that_was_let_go_is_read_from_the_log() {
    let (_dir, server) = fresh();
    let large = "x".repeat(1_000_000);
    let post = |id: &str, path: &str, form: &[(&str, &str)]| {
        let request = server.agent(PATIENCE).post(format!("{}{path}", server.url));
        let mut reply = request.header("x-request-id", id).send_form(form.iter().copied()).unwrap();
        let is_replayed = reply.headers().contains_key("x-etcd-replayed");
        let body = reply.body_mut().with_config().limit(4 << 20).read_to_string().unwrap();
        (reply.status().as_u16(), body, is_replayed)
    };
    let set = |number: usize| {
        let value = format!("{number}{large}");
        post(&number.to_string(), "/v1/keys/a", &[("value", &value)])
    };
    let test = || post("test", "/v1/testAndSet/a", &[("prevValue", "y"), ("value", "z")]);
    let (first, refused) = (set(0), test());
    assert_eq!((first.0, refused.0), (200, 400));
    for number in 1..20 {
        assert_eq!(set(number).0, 200);
    }
    let again = set(0);
    assert!(again.0 == 200 && again.2 && again.1 == first.1, "the same, and replayed");
    let last = set(19);
    assert!(last.0 == 200 && last.2 && last.1.contains("\"index\":"), "kept, and replayed");
    let why = "It Was Refused Before, By 4; Why Is No Longer Kept\n";
    assert_eq!(test(), (409, why.to_owned(), true));
}

/// Many ask at once under one id: one of them is the first.
#[test]
fn asked_by_many_at_once_it_is_done_once() {
    let (_dir, server) = fresh();
    let first = AtomicUsize::new(0);
    let answers: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let reply = under(&server, "x", "PUT", "/v1/keys/a?value=x");
                    first.fetch_add(usize::from(!is_replayed(&reply)), Ordering::Relaxed);
                    reply.body
                })
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    assert_eq!(first.into_inner(), 1);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(server.get("/v1/history/a").body.lines().count(), 1);
}

/// The log says who asked for what, and that it was not done twice.
#[test]
fn log_tells_of_requests() {
    let (dir, server) = fresh();
    under(&server, "job-17", "PUT", "/v1/keys/a?value=x");
    under(&server, "job-17", "PUT", "/v1/keys/a?value=x");
    server.stop("-TERM");
    let shown = etcd(&["log", "show", "-d"]).arg(dir.path()).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let told: Vec<_> = shown.lines().filter(|line| line.contains("job-17")).collect();
    assert!(told[0].ends_with("set /a = \"x\", request job-17, new"), "{shown}");
    let refused = "set /a = \"x\", request job-17, refused: it was asked for before, by #3";
    assert!(told[1].ends_with(refused), "{shown}");
}
