//! A proxy in front of a machine's peer port, that can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A proxy. It goes on until the test ends.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    is_cut: Arc<AtomicBool>,
}

impl Proxy {
    /// Begins to pass on what comes to another address.
    pub fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (to, cut) = (to.clone(), Arc::clone(&cut));
                thread::spawn(move || pass(&stream, &to, &cut));
            }
        });
        Self { address, is_cut }
    }

    /// Cuts all connections, and lets no new ones through; or does so again.
    pub fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

fn pass(stream: &TcpStream, to: &str, cut: &Arc<AtomicBool>) -> Option<()> {
    if cut.load(Ordering::SeqCst) {
        return None;
    }
    let other = TcpStream::connect(to).ok()?;
    let (from, back) = (stream.try_clone().ok()?, other.try_clone().ok()?);
    let is_cut = Arc::clone(cut);
    thread::spawn(move || copy(from, back, &is_cut));
    copy(other, stream.try_clone().ok()?, cut);
    Some(())
}

/// Copies until one side ends or the proxy is cut.
fn copy(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = vec![0; 64 << 10];
    while !cut.load(Ordering::SeqCst) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => break,
        }
    }
    // They may be gone already.
    let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
