//! What benchmarks share: a machine of this program in a process of its own, and
//! the load generator `wrk`.
#![allow(dead_code, reason = "each benchmark uses a part of this")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A machine of this program, in a process of its own.
pub struct Machine {
    child: Child,
    /// Where clients reach it.
    pub url: String,
    /// Where other machines reach it: `host:port`.
    pub peer: String,
    /// How long it took from its start until it could serve.
    pub healthy_after: Duration,
}

impl Machine {
    /// Starts on a directory.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// Starts on a directory with further arguments.
    pub fn start_with(dir: &Path, args: &[&str]) -> Self {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_etcd"))
            .args(["-c", "0", "-s", "0", "-d"])
            .arg(dir)
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut url, mut peer) = (String::new(), String::new());
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("INFO clients: ") {
                let (clients, peers) = rest.split_once("  peers: http://").unwrap();
                (url, peer) = (clients.to_owned(), peers.to_owned());
            }
            if line.contains("ready in") {
                break;
            }
            assert!(!line.starts_with("etcd:"), "{line}");
        }
        while believing().get(format!("{url}/health")).call().is_err() {
            let exited = child.try_wait().unwrap();
            assert!(exited.is_none(), "the machine has stopped: {exited:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { child, url, peer, healthy_after: started.elapsed() }
    }

    /// How much memory the process has, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// How much memory the process had at most since [`Self::forget_peak`], in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// How much time of a core the process takes while so much time passes.
    pub fn cpu_time(&self, passes: Duration) -> Duration {
        let before = self.cpu();
        std::thread::sleep(passes);
        self.cpu().saturating_sub(before)
    }

    /// How much time of a core the process has taken so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        let ticks: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
        // A hundred in a second, wherever Linux runs.
        Duration::from_millis(10 * ticks)
    }

    /// Makes the peak of memory begin anew.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Makes sure that it leads: the figures are those of a leader.
    pub fn assert_leads(&self) {
        let mut leader = ureq::get(format!("{}/leader", self.url)).call().unwrap();
        let leader = leader.body_mut().read_to_string().unwrap();
        assert_eq!(leader.trim_end(), format!("http://{}", self.peer));
    }

    /// Asks the process to stop, and waits until it has.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have been stopped before.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// 10,000 keys, in an order that is not that of their names; 256-byte values. `PUT once` is
/// under the id of a request, which none before it had.
const LOAD: &str = r#"
local n, value, method, run = 0, string.rep("v", 256), METHOD, os.time()
local headers = {["Content-Type"] = "application/x-www-form-urlencoded"}
request = function()
  n = n + 1
  if method == "PUT once" then headers["X-Request-Id"] = run .. "-" .. n end
  local path = "/v1/keys/bench/key-" .. (n * 7919 % 10000)
  if method == "GET" then return wrk.format("GET", path) end
  return wrk.format("PUT", path, headers, "value=" .. value)
end
"#;

/// How to measure.
pub struct Load<'a> {
    dir: &'a Path,
    runs: usize,
    seconds: usize,
}

impl<'a> Load<'a> {
    /// Measures as often and as long as the command line says, and tells the title of the
    /// rows. Scripts go into this directory.
    pub fn of_command_line(dir: &'a Path) -> Self {
        let (runs, seconds) = runs_and_seconds();
        println!(
            "{runs} runs of {seconds} s each; median requests/s, and 99th percentile of the latency"
        );
        Self { dir, runs, seconds }
    }

    /// Measures, and tells the median.
    pub fn row(&self, name: &str, method: &str, connections: usize, url: &str) {
        self.rows(&[(name, method, connections, url)]);
    }

    /// Measures several things in turns, so that they have the same weather, and tells the
    /// median of each: a name, a method, how many connections, and where.
    pub fn rows(&self, rows: &[(&str, &str, usize, &str)]) {
        let mut measured = vec![Vec::new(); rows.len()];
        for _ in 0..self.runs {
            for ((_, method, connections, url), measured) in rows.iter().zip(&mut measured) {
                measured.push(self.measure(method, *connections, url));
            }
        }
        for ((name, ..), mut measured) in rows.iter().zip(measured) {
            measured.sort_by(|left, right| left.0.total_cmp(&right.0));
            let (rate, latency) = &measured[measured.len() / 2];
            println!("{name:<40} {rate:>9.0}/s  {latency}");
        }
    }

    fn measure(&self, method: &str, connections: usize, url: &str) -> (f64, String) {
        let script = self.dir.join(format!("{method}.lua"));
        std::fs::write(&script, load_script(method)).unwrap();
        let text = wrk(&script, connections, self.seconds, url);
        assert!(!text.contains("Non-2xx"), "not all were answered: {text}");
        (after(&text, "Requests/sec:").parse().unwrap(), after(&text, "\n     99%"))
    }
}

/// The script of an ordinary load with this method.
fn load_script(method: &str) -> String {
    LOAD.replace("METHOD", &format!("{method:?}"))
}

/// How many runs are wanted, and how many seconds each takes: five of each unless the
/// command line has two numbers. Cargo adds `--bench` to them.
pub fn runs_and_seconds() -> (usize, usize) {
    let mut numbers =
        std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    (numbers.next().unwrap_or(5), numbers.next().unwrap_or(5))
}

/// Runs `wrk` with a script, and returns what it says.
pub fn wrk(script: &Path, connections: usize, seconds: usize, url: &str) -> String {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}"), "--latency"])
        .arg("-s")
        .arg(script)
        .arg(url)
        .output()
        .expect("wrk is on the path");
    String::from_utf8(output.stdout).unwrap()
}

/// The word behind a label in what `wrk` says.
pub fn after(text: &str, label: &str) -> String {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("no {label}: {text}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// A client that believes whatever certificate it is shown.
fn believing() -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ureq::tls::TlsConfig::builder().disable_verification(true);
    let tls = tls.unversioned_rustls_crypto_provider(provider).build();
    ureq::Agent::config_builder().tls_config(tls).build().new_agent()
}
