//! The tools for the log beside machines that run: asking one, following it, looking at its
//! files; and a machine on a fork.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::support::{PATIENCE, Server, agent, etcd, eventually, limit, refusal};

/// What a verb says, in colour or not.
fn log(args: &[&str]) -> String {
    let output = etcd(&[&["log"], args].concat()).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Starts a machine that seals and checkpoints often, and writes so many keys below `/n`.
fn busy(dir: &Path, keys: usize) -> Server {
    let often = ["-c", "0", "-s", "0", "--segment-bytes", "4KiB", "--checkpoint-bytes", "2KiB"];
    let server = Server::start_with(dir, &often);
    for key in 0..keys {
        server.post(&format!("/v1/keys/n/{key}"), &[("value", &"x".repeat(100))]);
    }
    server
}

/// The lines of a tool that goes on.
struct Going(Child, Option<BufReader<ChildStdout>>);

impl Going {
    fn start(args: &[&str]) -> Self {
        Self::run(etcd(&[&["log"], args].concat()).stderr(Stdio::inherit()))
    }

    fn run(command: &mut Command) -> Self {
        limit::begin();
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, Some(out))
    }

    fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap().count()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a machine tells of its past is what its log says once it has stopped.
#[test]
fn running_machine_tells_what_its_log_says() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/d/a", &[("value", "1")]);
    server.post("/v1/keys/d/a%20b", &[("value", "2"), ("ttl", "1000")]);
    server.post("/v1/keys/d/a", &[("value", "3")]);
    server.delete("/v1/keys/d/a%20b");
    let url = server.url.clone();
    let verbs: [&[&str]; 7] = [
        &["history", "/d/a"],
        &["history", "/d/a b", "--json"],
        &["history", "/d", "-r", "--reverse", "--limit", "3"],
        &["history", "/", "-r", "--from", "4", "--to", "5"],
        &["diff", "3", "--key", "/d"],
        &["diff", "3", "5", "--json"],
        &["diff", "-1h", "-0s"],
    ];
    // The last goes back to before there was anything, which nobody knows.
    let told: Vec<_> =
        verbs[..6].iter().map(|verb| log(&[verb, &["-u", &url][..]].concat())).collect();
    let shown = log(&["show", "--key", "/d", "--action", "delete", "-u", &url]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    // Several addresses: the first machine that answers is asked.
    assert_eq!(log(&["history", "/d/a", "-u", &format!("127.0.0.1:1,{url}")]), told[0]);
    let gone = refusal(&["log", "history", "/d", "--from", "99", "-u", &url]);
    assert!(gone.contains("From: 99 Is Not Reached"), "{gone}");
    let peer = refusal(&["log", "history", "/d", "-u", &server.peer_url]);
    assert!(peer.contains("not the client port of a machine"), "{peer}");
    assert!(server.stop("-TERM").0.success());
    for (verb, told) in verbs.iter().zip(&told) {
        assert_eq!(log(&[verb, &["-d", text(dir.path())][..]].concat()), *told, "{verb:?}");
    }
}

/// An expiry has the index of the command before it, and is no part of the state right behind
/// that: whoever is asked, and whether the command is the last one or not.
#[test]
fn what_expired_behind_a_command_is_told_alike() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    for key in ["a", "b"] {
        let set = server.post(&format!("/v1/keys/{key}"), &[("value", "x"), ("ttl", "1")]);
        server.get(&format!("/v1/watch/{key}?after={}", set.number("x-etcd-event")));
    }
    let history = ["history", "/", "-r", "--from"];
    let verbs: [(&[&str], usize); 8] = [
        (&[&history[..], &["3", "--to", "3"]].concat(), 2),
        (&[&history[..], &["4", "--to", "4"]].concat(), 2),
        (&["diff", "3", "3"], 0),
        (&["diff", "3", "4"], 2),
        (&["diff", "4", "4"], 0),
        (&["diff", "2", "4"], 1),
        (&["diff", "4"], 1),
        (&["diff", "2"], 0),
    ];
    let url = server.url.clone();
    let told = verbs.map(|(verb, _)| log(&[verb, &["-u", &url][..]].concat()));
    assert!(server.stop("-TERM").0.success());
    for ((verb, lines), told) in verbs.iter().zip(told) {
        assert_eq!(told.lines().count(), *lines, "{verb:?}: {told}");
        assert_eq!(log(&[verb, &["-d", text(dir.path())][..]].concat()), told, "{verb:?}");
    }
}

/// The past, and what happens from then on, without a gap; and in a pipe that ends, quietly.
#[test]
fn what_happens_is_followed() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/d/a", &[("value", "1")]);
    let mut shown = Going::start(&["show", "-f", "--key", "/d", "-u", &server.url]);
    assert!(shown.line().ends_with("set /d/a = \"1\", new\n"));
    server.post("/v1/keys/e", &[("value", "2")]);
    server.post("/v1/keys/d/b", &[("value", "3")]);
    assert!(shown.line().ends_with("set /d/b = \"3\", new\n"));
    // From when on a tail is there, nobody but itself can say.
    let url = server.url.clone();
    let tail = Going::start(&["tail", "--json", "--action", "delete", "-u", &url]);
    let told = std::thread::spawn(move || {
        let mut tail = tail;
        let line = tail.line();
        // Whoever reads has seen enough.
        tail.1 = None;
        (line, tail)
    });
    while !told.is_finished() {
        server.post("/v1/keys/t", &[("value", "x")]);
        server.delete("/v1/keys/t");
    }
    let (line, mut tail) = told.join().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["action"], &line["key"]), (&"DELETE".into(), &"/t".into()));
    while tail.0.try_wait().unwrap().is_none() {
        server.post("/v1/keys/t", &[("value", "x")]);
        server.delete("/v1/keys/t");
    }
    assert!(tail.0.wait().unwrap().success());
}

#[test]
fn state_of_the_past_is_served_and_not_written() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/d/a", &[("value", "1")]);
    server.post("/v1/keys/d/e/b", &[("value", "<2>")]);
    server.post("/v1/keys/d/a", &[("value", "3")]);
    let paths = [
        "/v1/keys/d/a",
        "/v1/keys/d/",
        "/v1/list/d/",
        "/v1/keys/d?recursive=true",
        "/v1/keys/d/?limit=1",
        "/v1/keys/nowhere",
        "/v1/list/d/a",
    ];
    let at = |path: &str| format!("{path}{}at=4", if path.contains('?') { '&' } else { '?' });
    let then: Vec<_> = paths.iter().map(|path| server.get(&at(path))).collect();
    assert!(server.stop("-TERM").0.success());
    let args = ["replay", "--to", "4", "--serve", "0", "-d", text(dir.path())];
    let mut serving = Going::start(&args);
    assert!(serving.line().starts_with("the state behind command #4, at 20"));
    let line = serving.line();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let url = url.strip_suffix("/v1/keys/?recursive=true").unwrap();
    let ask = |path: &str| agent(PATIENCE).get(format!("{url}{path}")).call().unwrap();
    for (path, then) in paths.iter().zip(&then) {
        let mut reply = ask(path);
        let header = |name| reply.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(header("x-etcd-index").as_deref(), Some("4"), "{path}");
        assert_eq!(header("x-etcd-next").unwrap_or_default(), then.header("x-etcd-next"));
        assert_eq!(reply.status(), then.status, "{path}");
        assert_eq!(reply.body_mut().read_to_string().unwrap(), then.body, "{path}");
    }
    assert!(ask("/version").body_mut().read_to_string().unwrap().starts_with("etcd "));
    assert!(ask("/v1/machines").body_mut().read_to_string().unwrap().starts_with("http://"));
    assert_eq!(ask("/v1/keys/d/a?at=3").status(), 400);
    assert_eq!(ask("/v1/watch/d").status(), 404);
    for path in ["/v1/keys/d/a", "/v1/testAndSet/d/a", "/v1/restore/d"] {
        let form = [("value", "x"), ("at", "3")];
        let refused = agent(PATIENCE).post(format!("{url}{path}")).send_form(form).unwrap();
        assert_eq!(refused.status(), 405, "{path}");
        assert_eq!(refused.headers()["allow"], "GET, HEAD");
    }
}

/// As many connections as there is room for, and some more: room comes when they end.
#[test]
fn state_of_the_past_is_served_on_when_there_was_no_room() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "1")]);
    assert!(server.stop("-TERM").0.success());
    let program = env!("CARGO_BIN_EXE_etcd");
    let script =
        format!("ulimit -n 24 && exec {program:?} log replay --serve 0 -d {}", text(dir.path()));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut serving = Going::run(&mut command);
    serving.line();
    let line = serving.line();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let url = url.strip_suffix("/v1/keys/?recursive=true").unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    // It has come to the end of its files by the time that it says so.
    eventually("there is no room", || serving.open_files() >= 24);
    drop(idle);
    let mut reply = agent(PATIENCE).get(format!("{url}/v1/keys/a")).call().unwrap();
    assert!(reply.body_mut().read_to_string().unwrap().contains(r#""value":"1""#));
}

/// The name of the first sealed file.
fn first_sealed(dir: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(dir.join("archive")).ok()?;
    let files = files.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "sealed")).min()
}

#[test]
fn what_a_running_machine_has_sealed_is_verified_and_read() {
    limit::begin();
    let dir = TempDir::new().unwrap();
    let server = busy(dir.path(), 50);
    let mut key = 50;
    while first_sealed(dir.path()).is_none() {
        server.post(&format!("/v1/keys/n/{key}"), &[("value", &"x".repeat(100))]);
        key += 1;
    }
    let in_use = refusal(&["log", "verify", "-d", text(dir.path())]);
    assert!(in_use.contains("is in use: a machine runs there"), "{in_use}");
    let good = log(&["verify", "--live", "-d", text(dir.path())]);
    assert!(good.starts_with("good: ") && good.contains(" sealed files, "), "{good}");
    assert!(good.contains("\nnot looked at: wal/"), "{good}");
    // Its archive can be read as it is.
    let shown = log(&["show", "--key", "/n/0", "-d", text(&dir.path().join("archive"))]);
    assert!(shown.contains("  set /n/0 = \"xxx"), "{shown}");
    // A byte of it that is another one is found.
    let sealed = first_sealed(dir.path()).unwrap();
    let mut bytes = fs::read(&sealed).unwrap();
    bytes[100] ^= 1;
    fs::write(&sealed, bytes).unwrap();
    let damaged = refusal(&["log", "verify", "--live", "-d", text(dir.path())]);
    assert!(damaged.contains(text(&sealed)), "{damaged}");
}

/// Searched by halves over checkpoints, as if all had been looked through.
#[test]
fn bisect_finds_what_a_linear_search_finds() {
    let dir = TempDir::new().unwrap();
    let server = busy(dir.path(), 300);
    server.post("/v1/keys/last", &[("value", "y")]);
    assert!(server.stop("-TERM").0.success());
    let dir = text(dir.path());
    let whole = log(&["show", "--json", "--key", "/n", "-d", dir]);
    let whole = whole.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let indices: Vec<_> = whole.map(|line| line["index"].as_u64().unwrap()).collect();
    let mut checkpoints = 0;
    for at in [0_usize, 1, 77, 150, 299] {
        let (key, over) = (format!("/n/{at}"), at.to_string());
        let value = "x".repeat(100);
        for condition in [
            &["--exists", &key][..],
            &["--count", "/n", "--over", &over],
            &["--key", &key, "--value", &value],
        ] {
            let found = log(&[&["bisect", "--json", "-d", dir], condition].concat());
            let found: serde_json::Value = serde_json::from_str(&found).unwrap();
            assert_eq!(found["index"], indices[at], "{condition:?}: {found}");
            checkpoints += found["checkpoints"].as_u64().unwrap();
        }
    }
    assert!(checkpoints > 0, "no checkpoint was of use");
}

/// The log makes up for checkpoints that are damaged, in both searches.
#[test]
fn bisect_passes_damaged_checkpoints_over() {
    limit::begin();
    let (dir, forked) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    assert!(busy(dir.path(), 100).stop("-TERM").0.success());
    let (log_dir, into) = (text(dir.path()), text(forked.path()));
    log(&["fork", log_dir, "--at", "52", "-d", into]);
    let of_two = || log(&["bisect", "--json", log_dir, into]);
    let of_one = || log(&["bisect", "--json", "-d", log_dir, "--exists", "/n/77"]);
    let found = |json: String| {
        let found: serde_json::Value = serde_json::from_str(&json).unwrap();
        ["index", "checkpoints"].map(|name| found[name].as_u64().unwrap())
    };
    let [(parting, looked), (first, _)] = [of_two(), of_one()].map(found).map(Into::into);
    assert!(looked > 0, "no checkpoint was of use");
    for file in fs::read_dir(dir.path().join("checkpoints")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(found(of_two())[0], parting);
    assert_eq!(found(of_one())[0], first);
}

/// A fork has the keys and the history of then, and is a cluster of its own.
#[test]
fn machine_goes_on_from_a_fork() {
    let (dir, forked) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = busy(dir.path(), 100);
    let cluster = server.cluster().to_owned();
    assert!(server.stop("-TERM").0.success());
    let (dir, into) = (text(dir.path()), text(forked.path()));
    let said = log(&["fork", dir, "--at", "52", "-d", into]);
    assert!(said.starts_with("forked behind command #52, at 20"), "{said}");
    let parting = log(&["bisect", "--json", dir, into]);
    let parting: serde_json::Value = serde_json::from_str(&parting).unwrap();
    assert_eq!(parting["index"], 53, "{parting}");
    assert!(log(&["verify", "-d", into]).contains("; the last command is #54 at 20"));
    let server = Server::start(forked.path());
    assert_ne!(server.cluster(), cluster);
    assert_eq!(server.get("/v1/keys/n/49").status, 200);
    assert_eq!(server.get("/v1/keys/n/50").status, 404);
    let watched = server.get("/v1/watch/n?index=3").body;
    assert!(watched.contains(r#""key":"/n/0""#) && watched.contains(r#""index":3}"#), "{watched}");
    assert_eq!(server.post("/v1/keys/n/50", &[("value", "new")]).status, 200);
}

#[test]
fn what_a_machine_proposed_is_shown_by_its_name() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-n", "first"]);
    server.post("/v1/keys/a", &[("value", "1")]);
    assert!(server.stop("-TERM").0.success());
    let shown = |machine| log(&["show", "--machine", machine, "-d", text(dir.path())]);
    assert_eq!(shown("first").lines().count(), 3);
    assert_eq!(shown("other"), "");
}

#[test]
fn colour_is_for_terminals_and_can_be_refused() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "1")]);
    assert!(server.stop("-TERM").0.success());
    let shown = |variables: &[(&str, &str)]| {
        let mut show = etcd(&["log", "show", "-d", text(dir.path())]);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
            show.env_remove(name);
        }
        let output = show.envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = shown(&[]);
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let coloured = shown(&[("CLICOLOR_FORCE", "1")]);
    assert!(coloured.contains("\u{1b}[32mset\u{1b}[0m /a"), "{coloured}");
    assert_eq!(shown(&[("NO_COLOR", "1")]), plain);
}
