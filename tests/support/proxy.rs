//! A network of machines, each behind a proxy, from which machines can be cut off in
//! both directions or in one, and whose links can be slow.
//!
//! ```text
//! machine ─▶ proxy of the one it calls ─▶ that one
//!              │ the first frame says who calls (src/peers/frame.rs)
//!              └ passes nothing on if either of the two is cut off
//! ```
//!
//! Whoever does not say who he is, a client of HTTP, passes unless the one that he
//! calls is cut off.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// What a frame begins with.
const MAGIC: &[u8] = b"etcd";

/// Where a frame says from whom it is, and where that ends.
const SENDER: (usize, usize) = (20, 28);

/// How often a connection that is quiet is looked at: it may be cut.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How much is passed on at once over a slow link: what is behind waits for it.
const QUANTUM: usize = 16 << 10;

/// How a machine is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its connections are closed, and so are new ones.
    Closed,
    /// Its connections stay open, and nothing passes. What was held back comes late.
    Late,
    /// The same, but whatever was connected then stays silent for ever.
    Silent,
}

/// The proxies. They go on until the test ends.
#[derive(Default)]
pub struct Network {
    addresses: Vec<String>,
    machines: Arc<Machines>,
}

/// What is known of all machines, in the order of their proxies.
#[derive(Default)]
struct Machines {
    known: Mutex<Vec<Machine>>,
    /// A cut has ended.
    healed: Condvar,
    /// How many bytes a second each link carries, if it is slow.
    rate: Mutex<Option<u32>>,
    /// When each link, from one machine to another, has carried what was sent so far.
    busy_until: Mutex<HashMap<(u64, usize, Way), Instant>>,
    /// How many bytes all links have carried.
    carried: AtomicU64,
}

#[derive(Default)]
struct Machine {
    /// What it calls itself in frames, once that is known.
    id: Option<u64>,
    cut: Option<Cut>,
    /// Whether nothing reaches it, though what it sends arrives.
    is_deaf: bool,
}

/// In which direction something goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// To the machine that was called.
    Forth,
    /// To the machine that has called.
    Back,
}

impl Network {
    /// Puts a proxy before the next machine, and begins to pass on what comes.
    pub fn add(&mut self, to: String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let called = self.addresses.len();
        self.addresses.push(listener.local_addr().unwrap().to_string());
        self.machines.lock().push(Machine::default());
        let machines = Arc::clone(&self.machines);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (to, machines) = (to.clone(), Arc::clone(&machines));
                // Either side may end at any moment.
                thread::spawn(move || pass(stream, &to, machines, called).is_ok());
            }
        });
    }

    /// Where a machine's proxy listens.
    pub fn address(&self, at: usize) -> &str {
        &self.addresses[at]
    }

    /// Learns what a machine calls itself.
    pub fn name(&self, at: usize, id: u64) {
        self.machines.lock()[at].id = Some(id);
    }

    /// Cuts a machine off: nothing that is sent from now on passes.
    pub fn cut(&self, at: usize, cut: Cut) {
        let mut machines = self.machines.lock();
        assert!(machines[at].id.is_some(), "what it sends could not be told from others");
        machines[at].cut = Some(cut);
    }

    /// Loses all that is sent to a machine, be it an answer; what it sends arrives.
    pub fn deafen(&self, at: usize) {
        let mut machines = self.machines.lock();
        assert!(machines[at].id.is_some(), "what is sent to it could not be told from others");
        machines[at].is_deaf = true;
    }

    /// Makes all links carry so many bytes a second.
    pub fn slow_down(&self, bytes_per_second: u32) {
        *self.machines.rate.lock().unwrap() = Some(bytes_per_second);
    }

    /// How many bytes all links have carried so far.
    pub fn carried(&self) -> u64 {
        self.machines.carried.load(Ordering::Relaxed)
    }

    /// Lets a machine be reached, and reach others, again.
    pub fn heal(&self, at: usize) {
        let mut machines = self.machines.lock();
        (machines[at].cut, machines[at].is_deaf) = (None, false);
        self.machines.healed.notify_all();
    }
}

impl Machines {
    fn lock(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.known.lock().unwrap()
    }
}

/// The way from one machine to another.
#[derive(Clone)]
struct Link {
    machines: Arc<Machines>,
    /// Who has connected, if it is a machine.
    sender: Option<u64>,
    called: usize,
}

impl Link {
    fn cut(&self, machines: &[Machine]) -> Option<Cut> {
        let sender = machines.iter().find(|one| one.id.is_some() && one.id == self.sender);
        machines[self.called].cut.or(sender.and_then(|sender| sender.cut))
    }

    /// Whether what goes this way is lost.
    fn is_lost(&self, way: Way) -> bool {
        let machines = self.machines.lock();
        match way {
            Way::Forth => machines[self.called].is_deaf,
            Way::Back => {
                machines.iter().any(|one| one.is_deaf && one.id.is_some() && one.id == self.sender)
            }
        }
    }

    /// Waits until the link has carried so many bytes more.
    fn carry(&self, bytes: usize, way: Way) {
        self.machines.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        let Some(rate) = *self.machines.rate.lock().unwrap() else { return };
        let link = (self.sender.unwrap_or(0), self.called, way);
        let mut busy_until = self.machines.busy_until.lock().unwrap();
        let until = busy_until.entry(link).or_insert_with(Instant::now);
        *until = (*until).max(Instant::now()) + Duration::from_secs(bytes as u64) / rate;
        let until = *until;
        drop(busy_until);
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// Waits as long as what comes is held back, and returns how else the link is cut.
    fn wait(&self) -> Option<Cut> {
        let is_late = |machines: &mut Vec<Machine>| self.cut(machines) == Some(Cut::Late);
        let machines = self.machines.healed.wait_while(self.machines.lock(), is_late).unwrap();
        self.cut(&machines)
    }
}

/// Passes on a connection, in both directions, as soon as it is known whose it is.
fn pass(mut from: TcpStream, to: &str, machines: Arc<Machines>, called: usize) -> io::Result<()> {
    let (mut opening, sender) = opening(&mut from)?;
    let link = Link { machines, sender, called };
    match link.wait() {
        Some(Cut::Closed) => return Ok(()),
        Some(Cut::Silent) => return swallow(from),
        Some(Cut::Late) | None => {}
    }
    if link.is_lost(Way::Forth) {
        return swallow(from);
    }
    if has_ended(&mut from, &mut opening)? {
        return Ok(());
    }
    let mut to = TcpStream::connect(to)?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    to.write_all(&opening)?;
    let (back, forth) = ((to.try_clone()?, from.try_clone()?), link.clone());
    thread::spawn(move || copy(back.0, back.1, &forth, Way::Back).is_ok());
    copy(from, to, &link, Way::Forth)
}

/// Reads what else has come, and returns whether that was all: whoever was held back may
/// have given up. Many may have, and must not all come at once.
fn has_ended(from: &mut TcpStream, opening: &mut Vec<u8>) -> io::Result<bool> {
    from.set_nonblocking(true)?;
    let ended = match from.read_to_end(opening) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => return Err(error),
    };
    from.set_nonblocking(false)?;
    Ok(ended)
}

/// Reads until it is known who calls, or that it is no machine.
fn opening(from: &mut TcpStream) -> io::Result<(Vec<u8>, Option<u64>)> {
    let (begin, end) = SENDER;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 64]);
    loop {
        let length = from.read(&mut buffer)?;
        bytes.extend(&buffer[..length]);
        let is_frame = MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]);
        if length == 0 || !is_frame {
            return Ok((bytes, None));
        }
        if let Some(id) = bytes.get(begin..end) {
            let id = u64::from_le_bytes(id.try_into().expect("eight bytes"));
            return Ok((bytes, Some(id)));
        }
    }
}

/// Copies until one side ends or the link is cut.
fn copy(mut from: TcpStream, mut to: TcpStream, link: &Link, way: Way) -> io::Result<()> {
    from.set_read_timeout(Some(LOOK_AGAIN))?;
    let mut buffer = vec![0; QUANTUM];
    loop {
        let read = from.read(&mut buffer);
        // Asked after reading: what is sent once a machine is cut off must not slip
        // through.
        match (link.wait(), read) {
            // The other side is not told: it stays open as long as this one does.
            (Some(Cut::Silent), _) => return swallow(from),
            (Some(Cut::Closed), _) | (_, Ok(0)) => break,
            (_, Ok(_)) if link.is_lost(way) => {}
            (_, Ok(length)) => {
                link.carry(length, way);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (_, Err(_)) => break,
        }
    }
    // They may be gone already.
    let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    Ok(())
}

/// Takes what comes, and gives nothing back.
fn swallow(mut from: TcpStream) -> io::Result<()> {
    from.set_read_timeout(None)?;
    io::copy(&mut from, &mut io::sink()).map(drop)
}
