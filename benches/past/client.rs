//! Clients of a machine, over plain sockets: they cost as little as they can, for they
//! share its cores.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client waits for bytes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(2);

/// A request on a connection of its own, and what has come of it.
pub(crate) struct Asked {
    stream: TcpStream,
    buffer: Vec<u8>,
    begun: Instant,
    /// How many lines of JSON have come so far.
    pub(crate) lines: u64,
    /// The last byte that came.
    last: u8,
}

impl Asked {
    /// Sends a GET.
    pub(crate) fn get(address: SocketAddr, path: &str) -> Self {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Self { stream, buffer: vec![0; 64 << 10], begun, lines: 0, last: 0 }
    }

    /// Waits until so many lines of JSON have come, and returns how long that took since
    /// it was asked.
    pub(crate) fn until_lines(&mut self, lines: u64) -> Duration {
        while self.lines < lines {
            let length = self.stream.read(&mut self.buffer).unwrap();
            assert!(length > 0, "the machine has closed a connection after {} lines", self.lines);
            let came = &self.buffer[..length];
            // Each line ends with a brace and a newline, and nothing else has both.
            let within = memchr::memmem::find_iter(came, b"}\n").count() as u64;
            let across = u64::from(self.last == b'}' && came[0] == b'\n');
            self.lines += within + across;
            self.last = came[length - 1];
        }
        self.begun.elapsed()
    }
}

/// Returns how long it takes until a GET has its whole answer, which is to be a line at
/// least, or none.
pub(crate) fn time_of_get(url: &str) -> Duration {
    let begun = Instant::now();
    let mut answer = ureq::get(url).call().unwrap();
    drop(answer.body_mut().with_config().limit(u64::MAX).read_to_vec().unwrap());
    begun.elapsed()
}

/// Those who write as fast as they can, until they are told to stop.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writers {
    /// Starts so many connections, each of which sets keys to 64 bytes in turn.
    pub(crate) fn start(address: SocketAddr, connections: usize) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let mut streams: Vec<_> =
                (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut buffer = [0; 4096];
            let mut turn = 0;
            // All ask before the first is heard: so they are written together.
            while !stopped.load(Ordering::Relaxed) {
                for (number, stream) in streams.iter_mut().enumerate() {
                    put(stream, &format!("elsewhere/{number}/{}", turn % 100));
                }
                for stream in &mut streams {
                    read_answer(stream, &mut buffer);
                }
                count.fetch_add(connections as u64, Ordering::Relaxed);
                turn += 1;
            }
        });
        Self { stop, written, thread }
    }

    /// Returns how many writes are answered a second while so much time passes.
    pub(crate) fn rate(&self, passes: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.written.load(Ordering::Relaxed));
        std::thread::sleep(passes);
        let written = self.written.load(Ordering::Relaxed) - before;
        written as f64 / begun.elapsed().as_secs_f64()
    }

    /// Stops them.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn put(stream: &mut TcpStream, key: &str) {
    let value = "v".repeat(64);
    let head =
        format!("PUT /v1/keys/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70\r\n\r\n");
    stream.write_all(format!("{head}value={value}").as_bytes()).unwrap();
}

fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut length = 0;
    while !buffer[..length].ends_with(b"}\n") {
        let more = stream.read(&mut buffer[length..]).unwrap();
        assert!(more > 0, "the machine has closed a connection");
        length += more;
    }
}
