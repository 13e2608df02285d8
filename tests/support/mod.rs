//! A real process of this program, on ports that were free, and an ordinary
//! HTTP client to talk to it.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

pub mod certs;
pub mod cluster;
pub mod limit;
pub mod proxy;
pub mod scripts_are_tests;

use std::io::{BufRead as _, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A process of this program that serves.
pub struct Server {
    child: Child,
    /// What it goes on to say.
    lines: Mutex<Receiver<String>>,
    /// Where clients reach it.
    pub url: String,
    /// Where other machines would.
    pub peer_url: String,
    /// How its client is to speak TLS, if it does.
    pub trust: Option<ureq::tls::TlsConfig>,
    /// What it said at its start.
    pub announced: Vec<String>,
}

/// The program, with these arguments.
pub fn etcd(args: &[&str]) -> Command {
    limit::begin();
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    /// Starts on a directory, on any free ports.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["-c", "0", "-s", "0"])
    }

    /// Starts on a directory with further arguments.
    ///
    /// # Panics
    ///
    /// If the process ends before it is ready.
    pub fn start_with(dir: &Path, args: &[&str]) -> Self {
        Self::hear_out(etcd(args).arg("-d").arg(dir))
    }

    /// Starts on a directory, with so many open files at most.
    pub fn start_limited(dir: &Path, files: u32) -> Self {
        let program = env!("CARGO_BIN_EXE_etcd");
        let script =
            format!("ulimit -n {files} && exec {program:?} -c 0 -s 0 -d {}", dir.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::null()).stderr(Stdio::piped());
        Self::hear_out(&mut command)
    }

    /// Runs a command that serves, and hears it out until it is ready.
    pub fn hear_out(command: &mut Command) -> Self {
        let mut server = Self::launch(command);
        server.wait_until_ready();
        server
    }

    /// Hears the process out until it is ready.
    ///
    /// # Panics
    ///
    /// If it ends before.
    pub fn wait_until_ready(&mut self) {
        while !self.announced.last().is_some_and(|line| line.contains("ready in")) {
            self.hear();
        }
    }

    /// Runs a command that serves, and waits for nothing.
    pub fn launch(command: &mut Command) -> Self {
        limit::begin();
        let mut child = command.process_group(0).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines: Mutex::new(lines),
            url: String::new(),
            peer_url: String::new(),
            trust: None,
            announced: Vec::new(),
        }
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Asks for a path; nothing, if there is no answer.
    pub fn try_get(&self, path: &str) -> Option<Reply> {
        Reply::read(self.agent(PATIENCE).get(format!("{}{path}", self.url)).call()).ok()
    }

    /// Takes in one line of what a process says at its start.
    fn hear(&mut self) {
        let line = self.lines.lock().unwrap().recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("not ready: {:#?}", self.announced));
        if let Some((_, urls)) = line.split_once("INFO clients: ") {
            let (clients, peers) = urls.split_once("  peers: ").unwrap();
            (self.url, self.peer_url) = (clients.to_owned(), peers.to_owned());
        }
        self.announced.push(line);
    }

    /// Asks for a path.
    pub fn get(&self, path: &str) -> Reply {
        let url = format!("{}{path}", self.url);
        let result = self.agent(PATIENCE).get(&url).call();
        Reply::of(result, || format!("GET {url}"))
    }

    /// Sends a form.
    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        let url = format!("{}{path}", self.url);
        let result = self.agent(PATIENCE).post(&url).send_form(form.iter().copied());
        Reply::of(result, || format!("POST {url} {form:?}"))
    }

    /// Deletes.
    pub fn delete(&self, path: &str) -> Reply {
        let url = format!("{}{path}", self.url);
        let result = self.agent(PATIENCE).delete(&url).call();
        Reply::of(result, || format!("DELETE {url}"))
    }

    /// Asks for a path with a method and headers.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = ureq::http::Request::builder().method(method);
        let request = headers
            .iter()
            .fold(request.uri(format!("{}{path}", self.url)), |request, (name, value)| {
                request.header(*name, *value)
            });
        let agent = self.agent(PATIENCE);
        let request = agent.configure_request(request.body(()).unwrap());
        let result = agent.run(request.allow_non_standard_methods(true).build());
        Reply::of(result, || format!("{method} {path} {headers:?}"))
    }

    /// Opens a stream, and reads it line by line.
    pub fn lines(&self, path: &str, headers: &[(&str, &str)]) -> Lines {
        let url = format!("{}{path}", self.url);
        let mut request = self.agent(PATIENCE).get(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = request.call().unwrap_or_else(|error| panic!("GET {url}: {error}"));
        assert_eq!(reply.status(), 200, "GET {url}");
        Lines { lines: BufReader::new(Box::new(reply.into_body().into_reader())) }
    }

    /// A client of this machine, that waits so long for an answer.
    pub fn agent(&self, limit: Duration) -> ureq::Agent {
        let config = config(limit);
        match &self.trust {
            Some(trust) => config.tls_config(trust.clone()).build().new_agent(),
            None => config.build().new_agent(),
        }
    }

    /// The ports for clients and for other machines.
    pub fn ports(&self) -> (String, String) {
        let port = |url: &str| url.rsplit(':').next().unwrap().to_owned();
        (port(&self.url), port(&self.peer_url))
    }

    /// The cluster that the machine said it is of.
    pub fn cluster(&self) -> &str {
        let named = self.announced.iter().find_map(|line| line.split_once(" of cluster "));
        named.unwrap().1
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a form, and gives it so long; nothing, if there is no answer.
    pub fn try_post(&self, path: &str, form: &[(&str, &str)], limit: Duration) -> Option<Reply> {
        let url = format!("{}{path}", self.url);
        Reply::read(self.agent(limit).post(&url).send_form(form.iter().copied())).ok()
    }

    /// How much memory the process has, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What the process has open: the names of files, and `socket:` with a number.
    pub fn open_files(&self) -> Vec<String> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        // One may have been closed since.
        let names = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        names.map(|name| name.display().to_string()).collect()
    }

    /// Kills the process with a signal that it cannot catch.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the process to stop, and returns how it ended.
    pub fn stop(mut self, signal: &str) -> (ExitStatus, Vec<String>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let status = self.wait();
        (status, self.last_words())
    }

    /// What the process has said since its start, and since this was asked last.
    pub fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap().try_iter().collect()
    }

    /// What a process that has ended had said since its start.
    pub fn last_words(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().collect()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended before; if not, neither it nor what it has started may
        // outlive its test.
        let group = format!("-{}", self.child.id());
        let _ended =
            Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _reaped = self.child.wait();
    }
}

/// What a client gets: the beginning of an answer, or why there is none.
type Answered = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: String,
    headers: ureq::http::HeaderMap,
}

impl Reply {
    /// Takes in the answer to a request.
    ///
    /// # Panics
    ///
    /// If there is none.
    fn of(result: Answered, request: impl FnOnce() -> String) -> Self {
        Self::read(result).unwrap_or_else(|error| panic!("{}: {error}", request()))
    }

    fn read(result: Answered) -> Result<Self, ureq::Error> {
        let (parts, mut body) = result?.into_parts();
        let body = body.with_config().limit(1 << 30).read_to_string()?;
        Ok(Self { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// A header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A header's value as a number.
    pub fn number(&self, name: &str) -> u64 {
        self.header(name).parse().unwrap_or_else(|_| panic!("{name}: {:?}", self.header(name)))
    }
}

/// A stream, line by line.
pub struct Lines {
    lines: BufReader<Box<dyn Read + Send>>,
}

impl Lines {
    /// Whether the stream ends as one that was cut off.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn ends_in_failure(mut self) -> bool {
        let ended = self.lines.read_to_end(&mut Vec::new());
        ended.is_err_and(|error| {
            let cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(cut.contains(&error.kind()), "it goes on: {error:?}");
            true
        })
    }
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0)
            .then(|| line.trim_end_matches('\n').to_owned())
    }
}

/// A client of HTTP that takes any status for an answer, and waits so long for it.
pub fn agent(limit: Duration) -> ureq::Agent {
    config(limit).build().new_agent()
}

fn config(limit: Duration) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(limit))
}

/// How long the threads of a process have waited for a core, all in all.
pub fn waited_for_a_core(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may have ended since.
    let waited = threads.filter_map(|thread| {
        let times = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        times.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}

/// What a start that is refused says, or a tool.
///
/// # Panics
///
/// If it is not refused.
pub fn refusal(args: &[&str]) -> String {
    let output = etcd(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

/// The last line of it, without advice.
pub fn last_fault(args: &[&str]) -> String {
    let text = refusal(args);
    let mut lines = text.lines().filter(|line| !line.starts_with("etcd: what to do: "));
    lines.next_back().unwrap_or_default().to_owned()
}

/// Waits until something is so.
///
/// # Panics
///
/// If it is not so after a long time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
