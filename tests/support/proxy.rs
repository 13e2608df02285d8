//! A network of machines, each behind a proxy, from which machines can be cut off in
//! both directions.
//!
//! ```text
//! machine ─▶ proxy of the one it calls ─▶ that one
//!              │ the first frame says who calls (src/peers/frame.rs)
//!              └ passes nothing on if either of the two is cut off
//! ```
//!
//! Whoever does not say who he is, a client of HTTP, passes unless the one that he
//! calls is cut off.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What a frame begins with.
const MAGIC: &[u8] = b"etcd";

/// Where a frame says from whom it is, and where that ends.
const SENDER: (usize, usize) = (20, 28);

/// How often a connection that is quiet is looked at: it may be cut.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
}

#[derive(Default)]
struct Machine {
    /// What it calls itself in frames, once that is known.
    id: Option<u64>,
    cut: Option<Cut>,
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

    /// Lets a machine be reached, and reach others, again.
    pub fn heal(&self, at: usize) {
        self.machines.lock()[at].cut = None;
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
    if has_ended(&mut from, &mut opening)? {
        return Ok(());
    }
    let mut to = TcpStream::connect(to)?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    to.write_all(&opening)?;
    let (back, forth) = ((to.try_clone()?, from.try_clone()?), link.clone());
    thread::spawn(move || copy(back.0, back.1, &forth).is_ok());
    copy(from, to, &link)
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
fn copy(mut from: TcpStream, mut to: TcpStream, link: &Link) -> io::Result<()> {
    from.set_read_timeout(Some(LOOK_AGAIN))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer);
        // Asked after reading: what is sent once a machine is cut off must not slip
        // through.
        match (link.wait(), read) {
            // The other side is not told: it stays open as long as this one does.
            (Some(Cut::Silent), _) => return swallow(from),
            (Some(Cut::Closed), _) | (_, Ok(0)) => break,
            (_, Ok(length)) if to.write_all(&buffer[..length]).is_ok() => {}
            (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (_, Ok(_) | Err(_)) => break,
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
