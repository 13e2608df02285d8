//! What many who watch cost: memory and time while they wait, writes beside them, and how
//! soon all of them have an event. How many writes there are in a second depends on what
//! else runs there; how much of a core's time each takes of the machine, hardly.
//!
//! ```text
//! cargo bench --bench watchers                 10,000 of each kind, 5 s of load
//! cargo bench --bench watchers -- 1000 2       1,000 of each kind, 2 s of load
//! ```
//!
//! All of them are clients of one machine, in this process, and share its cores. Twice as
//! many files as there are watchers have to be allowed (`ulimit -n`).
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::Machine;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// How many connections write.
const WRITERS: usize = 64;

/// How often all are told of an event.
const EVENTS: usize = 5;

/// How long the machine is looked at while nothing happens.
const IDLE: Duration = Duration::from_secs(20);

/// How long a machine is written to before it is looked at: what the first requests need is
/// nobody's.
const WARMING_UP: Duration = Duration::from_millis(500);

/// How long anything may take: reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let watchers = numbers.next().unwrap_or(10_000);
    let load = Duration::from_secs(numbers.next().unwrap_or(5) as u64);
    let clients = Clients { runtime: Builder::new_current_thread().enable_all().build().unwrap() };
    println!("{watchers} watchers of one key; {WRITERS} connections write elsewhere");
    println!(
        "{:<28} {:>12} {:>8} {:>12} {:>12} {:>12}",
        "", "KiB each", "CPU", "PUT/s", "CPU each", "all told"
    );
    let dir = TempDir::new().unwrap();
    let machine = Machine::start(&dir.path().join("none"));
    clients.puts(&machine, WARMING_UP);
    let (puts, cost) = clients.puts(&machine, load);
    println!("{:<28} {:>12} {:>8} {puts:>12.0} {cost:>9.1} µs {:>12}", "nobody", "", "", "");
    machine.stop();
    for (name, request) in [
        ("long polls", "GET /v1/watch/w HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("lines of JSON", "GET /v1/watch/w?stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (
            "server-sent events",
            "GET /v1/watch/w HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
        ),
        (
            "a subtree, followed",
            "GET /v1/keys/w/?recursive=true&stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ),
    ] {
        let machine = Machine::start(&dir.path().join(name));
        clients.measure(name, &machine, request, watchers, load);
        machine.stop();
    }
}

fn address(machine: &Machine) -> SocketAddr {
    machine.url.trim_start_matches("http://").parse().unwrap()
}

/// All clients, on one thread.
struct Clients {
    runtime: Runtime,
}

impl Clients {
    /// Measures what so many who send this request cost, and tells a row.
    fn measure(
        &self,
        name: &str,
        machine: &Machine,
        request: &'static str,
        watchers: usize,
        load: Duration,
    ) {
        let address = address(machine);
        self.puts(machine, WARMING_UP);
        let before = machine.resident_kib();
        let mut streams = self.runtime.block_on(async {
            let mut streams = Vec::with_capacity(watchers);
            for _ in 0..watchers {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                streams.push(stream);
            }
            streams
        });
        // The last one is served once the machine has nothing left to do.
        while machine.cpu_time(Duration::from_millis(500)) > Duration::from_millis(20) {}
        let each = (machine.resident_kib() - before) as f64 / watchers as f64;
        let idle = machine.cpu_time(IDLE).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        let (puts, cost) = self.puts(machine, load);
        let mut took: Vec<_> = (0..EVENTS)
            .map(|_| {
                let (took, told) = self.tell(address, std::mem::take(&mut streams), request);
                streams = told;
                took
            })
            .collect();
        took.sort();
        let took = took[EVENTS / 2].as_millis();
        println!("{name:<28} {each:>12.1} {idle:>6.2} % {puts:>12.0} {cost:>9.1} µs {took:>9} ms");
    }

    /// Writes what all watch, and returns how long it took until all had it.
    fn tell(
        &self,
        address: SocketAddr,
        streams: Vec<TcpStream>,
        request: &'static str,
    ) -> (Duration, Vec<TcpStream>) {
        let is_stream = !request.starts_with("GET /v1/watch/w HTTP") || request.contains("Accept");
        self.runtime.block_on(async {
            let mut waiting = JoinSet::new();
            for mut stream in streams {
                waiting.spawn(async move {
                    read_event(&mut stream).await;
                    let told = Instant::now();
                    if !is_stream {
                        stream.write_all(request.as_bytes()).await.unwrap();
                    }
                    (told, stream)
                });
            }
            // Until all of them wait.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let begun = Instant::now();
            put(&mut TcpStream::connect(address).await.unwrap(), "w/key").await;
            let told = tokio::time::timeout(PATIENCE, waiting.join_all()).await.unwrap();
            // Until those who ask again are heard.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let last = told.iter().map(|(told, _)| *told).max().unwrap();
            (last - begun, told.into_iter().map(|(_, stream)| stream).collect())
        })
    }

    /// Writes for so long where nobody watches, and returns how many were answered a
    /// second, and how many microseconds of a core each has taken of the machine.
    fn puts(&self, machine: &Machine, load: Duration) -> (f64, f64) {
        let before = machine.cpu();
        let written = f64::from(self.write(address(machine), load));
        let took = machine.cpu().saturating_sub(before);
        (written / load.as_secs_f64(), took.as_secs_f64() * 1e6 / written)
    }

    /// Writes for so long where nobody watches, and returns how many were answered.
    fn write(&self, address: SocketAddr, load: Duration) -> u32 {
        self.runtime.block_on(async {
            let until = Instant::now() + load;
            let mut writers = JoinSet::new();
            for writer in 0..WRITERS {
                writers.spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let mut written = 0_u32;
                    while Instant::now() < until {
                        put(&mut stream, &format!("elsewhere/{writer}/{}", written % 100)).await;
                        written += 1;
                    }
                    written
                });
            }
            writers.join_all().await.into_iter().sum()
        })
    }
}

/// Sets a key to 256 bytes.
async fn put(stream: &mut TcpStream, key: &str) {
    let body = format!("value={}", "v".repeat(256));
    let head = format!(
        "PUT /v1/keys/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    read_until(stream, b"}\n").await;
}

/// Reads up to the end of an event's line.
async fn read_event(stream: &mut TcpStream) {
    read_until(stream, b"\"SET\",\"key\":\"/w/key\"").await;
}

/// Reads until something has come.
async fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    let mut piece = [0; 2048];
    while !read.windows(end.len()).any(|found| found == end) {
        let length = stream.read(&mut piece).await.unwrap();
        assert!(length > 0, "the machine has closed a connection");
        read.extend_from_slice(&piece[..length]);
    }
}
