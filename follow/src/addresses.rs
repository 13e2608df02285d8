//! Which machine is asked next, and when.
//!
//! All are asked one after the other, the last good one's neighbour first; a *round* is over
//! when each was. After a round in vain there is a pause, which grows, and differs between
//! those who follow: they would all come back at the same moment otherwise.

use std::time::Duration;

/// The shortest pause, before it is shortened by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most machines that are learned of: whoever says that there are more is not believed.
const MOST_LEARNED: usize = 64;

/// The machines that can be asked.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Those that were given, and never forgotten.
    given: Vec<String>,
    /// Those that a machine has told.
    learned: Vec<String>,
    /// The one that is asked.
    current: String,
    /// Whether those that speak TLS can be asked.
    has_tls: bool,
    /// How many were asked in vain since the last good word.
    failed: usize,
    rounds: u32,
}

impl Addresses {
    /// Takes addresses as `http://host:port` or `host:port`; and as `https://host:port`, if TLS
    /// is spoken.
    ///
    /// # Errors
    ///
    /// With the first that is none; or with nothing, if there are none.
    pub(crate) fn new(given: &[String], has_tls: bool) -> Result<Self, String> {
        let given: Result<Vec<_>, _> =
            given.iter().map(|url| address(url, has_tls).ok_or_else(|| url.clone())).collect();
        let given = given?;
        let current = given.first().cloned().ok_or_else(String::new)?;
        Ok(Self { given, learned: Vec::new(), current, has_tls, failed: 0, rounds: 0 })
    }

    /// Returns the machine to ask: `host:port`.
    pub(crate) fn current(&self) -> &str {
        &self.current
    }

    /// Learns the machines of the cluster, as `/v1/machines` lists them.
    pub(crate) fn learn(&mut self, list: &str) {
        let told = list.split(',').filter_map(|url| address(url.trim(), self.has_tls));
        let new = told.filter(|address| !self.given.contains(address));
        self.learned = new.take(MOST_LEARNED).collect();
    }

    /// Notes that the current machine is as it should be.
    pub(crate) fn succeeded(&mut self) {
        (self.failed, self.rounds) = (0, 0);
    }

    /// Goes on to the next machine. Returns how many rounds are over, if one is by this.
    pub(crate) fn failed(&mut self) -> Option<u32> {
        let all: Vec<_> = self.given.iter().chain(&self.learned).collect();
        let at = all.iter().position(|address| **address == self.current);
        let (count, next) = (all.len(), at.map_or(0, |at| (at + 1) % all.len()));
        self.current = all[next].clone();
        self.failed += 1;
        if self.failed < count {
            return None;
        }
        self.failed = 0;
        self.rounds += 1;
        Some(self.rounds)
    }

    /// Returns how long to wait after so many rounds, by chance between half and all of it.
    ///
    /// # Panics
    ///
    /// If the operating system has no random numbers to give.
    pub(crate) fn pause(rounds: u32) -> Duration {
        let longer = FIRST_PAUSE.saturating_mul(1 << rounds.clamp(1, 10).saturating_sub(1));
        let longest = longer.min(LONGEST_PAUSE);
        let chance = getrandom::u32().expect("the operating system gives random numbers");
        longest / 2 + (longest / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

/// What stands before the address of a machine that speaks TLS.
pub(crate) const TLS_SCHEME: &str = "https://";

/// Returns how a machine is asked: at `host:port`, or `https://host:port` if it can be asked
/// there.
fn address(url: &str, has_tls: bool) -> Option<String> {
    match url.strip_prefix(TLS_SCHEME) {
        Some(rest) if has_tls => authority(rest).map(|it| format!("{TLS_SCHEME}{it}")),
        _ => authority(url),
    }
}

/// Returns the `host:port` of an address.
fn authority(url: &str) -> Option<String> {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let address = address.strip_suffix('/').unwrap_or(address);
    let (host, port) = address.rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ', ',']);
    (is_host && port.parse::<u16>().is_ok()).then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(given: &[&str]) -> Result<Addresses, String> {
        Addresses::new(&given.iter().map(ToString::to_string).collect::<Vec<_>>(), false)
    }

    #[test]
    fn all_are_asked_in_a_round() {
        let mut asked = addresses(&["http://a:1", "b:2/"]).unwrap();
        asked.learn("http://b:2, http://c:3, nonsense, https://d:4");
        let mut order = Vec::new();
        for round in [None, None, Some(1), None, None, Some(2)] {
            order.push(asked.current().to_owned());
            assert_eq!(asked.failed(), round, "{order:?}");
        }
        assert_eq!(order, ["a:1", "b:2", "c:3", "a:1", "b:2", "c:3"]);
        // One that was good, and is forgotten, is followed by the first.
        asked.succeeded();
        asked.failed();
        asked.failed();
        asked.learn("");
        asked.failed();
        assert_eq!(asked.current(), "a:1");
    }

    #[test]
    fn what_is_no_address_is_named() {
        assert_eq!(addresses(&[]).unwrap_err(), "");
        for wrong in ["", "a", "http://:1", "https://a:1", "http://a:1/v1", "a:70000", "u@a:1"] {
            assert_eq!(addresses(&["a:1", wrong]).unwrap_err(), wrong);
        }
        assert_eq!(addresses(&["http://[::1]:4001"]).unwrap().current(), "[::1]:4001");
    }

    #[test]
    fn pause_grows_to_its_longest() {
        for (rounds, longest) in [(1, 100), (2, 200), (3, 400), (7, 5000), (u32::MAX, 5000)] {
            let pause = Addresses::pause(rounds).as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{rounds}: {pause}");
        }
    }
}
