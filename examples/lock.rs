//! For whoever needs a lock that no dead holder keeps: a key that is created, and lives for
//! a while.
//!
//! ```sh
//! cargo run --example lock -- http://127.0.0.1:4001 alice
//! ```
//!
//! `/lock` says who has it, and is there for as long as that one renews it.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};

use serde_json::Value;

/// After so many seconds of silence a holder has the lock no longer.
const TTL: (&str, &str) = ("ttl", "10");

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let lock = Lock { url: words.next().ok_or("URL?")?, me: words.next().ok_or("NAME?")? };
    let index = lock.acquire()?;
    writeln!(io::stdout(), "{} has the lock, by command {index}", lock.me)?;
    lock.renew()?; // as often as the work takes, well within the time
    lock.release()
}

/// A lock, and who wants it.
pub(crate) struct Lock {
    pub(crate) url: String,
    pub(crate) me: String,
}

impl Lock {
    /// Waits for the lock. The index grows from holder to holder: what the lock guards can
    /// turn away whoever comes with a lower one than it has seen.
    pub(crate) fn acquire(&self) -> Result<u64, Box<dyn Error>> {
        // The watch comes first, so that nothing happens between a look and the wait.
        let events = ureq::get(format!("{}/v1/watch/lock?stream=true", self.url)).call()?;
        let mut events = BufReader::new(events.into_body().into_reader()).lines();
        let create = [("value", &*self.me), ("prevExist", "false"), TTL];
        loop {
            if let Some(taken) = read(ureq::post(self.key()).send_form(create))? {
                return taken["index"].as_u64().ok_or_else(|| "no index".into());
            }
            events.next().ok_or("the watch has ended")??;
        }
    }

    /// Keeps the lock, unless it is too late: what has expired cannot be tested.
    pub(crate) fn renew(&self) -> Result<(), Box<dyn Error>> {
        let form = [("prevValue", &*self.me), ("value", &self.me), TTL];
        let renewed = read(ureq::post(self.key()).send_form(form))?;
        renewed.map(drop).ok_or_else(|| "the lock is lost".into())
    }

    /// Gives the lock back, if it is still held: nobody else's is deleted.
    pub(crate) fn release(&self) -> Result<(), Box<dyn Error>> {
        read(ureq::delete(self.key()).query("prevValue", &self.me).call()).map(drop)
    }

    fn key(&self) -> String {
        format!("{}/v1/keys/lock", self.url)
    }
}

/// Reads an answer; nothing, where the key is there, is not, or holds something else.
fn read(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Option<Value>, Box<dyn Error>> {
    match answer {
        Ok(answer) => Ok(serde_json::from_str(&answer.into_body().read_to_string()?)?),
        Err(ureq::Error::StatusCode(400 | 404)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
