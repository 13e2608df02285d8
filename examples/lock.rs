//! For whoever needs a lock that no dead holder keeps: testAndSet, a time to live, a watch.
//!
//! ```sh
//! curl 127.0.0.1:4001/v1/keys/lock/holder -d value=nobody      # once, before all else
//! cargo run --example lock -- http://127.0.0.1:4001 alice
//! ```
//!
//! `/lock/holder` says who has it; `/lock/alive/NAME` is there while that one renews it.
//! Each name is used once, and `nobody` never lives.

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
        loop {
            let held = self.ask("keys/lock/holder", &[])?.ok_or("/lock/holder was never set")?;
            let holder = held["value"].as_str().unwrap_or_default();
            if self.ask(&format!("keys/lock/alive/{holder}"), &[])?.is_none() {
                self.ask(&format!("keys/lock/alive/{}", self.me), &[("value", "yes"), TTL])?;
                // Of all who find nobody alive, the first one gets it.
                let form = [("prevValue", holder), ("value", &*self.me)];
                if let Some(taken) = self.ask("testAndSet/lock/holder", &form)? {
                    return taken["index"].as_u64().ok_or_else(|| "no index".into());
                }
            }
            events.next().ok_or("the watch has ended")??;
        }
    }

    /// Lives on, unless it is too late: what has expired cannot be tested.
    pub(crate) fn renew(&self) -> Result<(), Box<dyn Error>> {
        let form = [("prevValue", "yes"), ("value", "yes"), TTL];
        let renewed = self.ask(&format!("testAndSet/lock/alive/{}", self.me), &form)?;
        renewed.map(drop).ok_or_else(|| "the lock is lost".into())
    }

    /// Gives the lock to nobody, if it is still held.
    pub(crate) fn release(&self) -> Result<(), Box<dyn Error>> {
        self.ask("testAndSet/lock/holder", &[("prevValue", &self.me), ("value", "nobody")])
            .map(drop)
    }

    /// Gets, or posts a form; nothing, where there is no such key, or another value.
    fn ask(&self, path: &str, form: &[(&str, &str)]) -> Result<Option<Value>, Box<dyn Error>> {
        let url = format!("{}/v1/{path}", self.url);
        let get = || ureq::get(&url).call();
        match if form.is_empty() { get() } else { ureq::post(&url).send_form(form.to_vec()) } {
            Ok(answer) => Ok(serde_json::from_str(&answer.into_body().read_to_string()?)?),
            Err(ureq::Error::StatusCode(400 | 404)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
