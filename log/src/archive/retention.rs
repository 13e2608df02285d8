//! Retention: how much of history is kept.
//!
//! An age is counted twice, and both must be over:
//!
//! ```text
//! in the log         from the file's last logged time to that of the newest entry
//! on this machine    from when the file was written here to now, where now is what the
//!                    clock said when the log was opened, and the time since
//! ```
//!
//! So no clock that jumps ahead empties the archive, neither the leader's nor this
//! machine's: what was written an hour ago is an hour old, whatever a clock says. What
//! is left is kept too long at worst.
//!
//! Limit: a machine that is started while its clock is wrong, in a log that ran ahead
//! as well, believes it.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::types::LogTime;

/// How much of history is kept: `10GiB` of sealed files, `30d`, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// All of it.
    Forever,
    /// So many bytes of sealed files.
    Bytes(u64),
    /// What was written within this time, by the logged time or by this machine's.
    Age(Duration),
}

/// A sealed file, as retention sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aged {
    /// Its length.
    pub(crate) bytes: u64,
    /// Its last logged time.
    pub(crate) logged: LogTime,
    /// When it was written on this machine.
    pub(crate) written: LogTime,
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The logged time of the newest entry.
    pub(crate) logged: LogTime,
    /// This machine's time.
    pub(crate) here: LogTime,
}

impl Retain {
    /// What is kept unless somebody wants it otherwise.
    pub const DEFAULT: Self = Self::Bytes(10 << 30);

    /// Returns how many of the oldest files are more than is wanted.
    pub(crate) fn excess(self, files: &[Aged], now: Now) -> usize {
        match self {
            Self::Forever => 0,
            Self::Bytes(most) => {
                let mut kept = 0;
                let fits = |file: &&Aged| {
                    kept += file.bytes;
                    kept <= most
                };
                files.len() - files.iter().rev().take_while(fits).count()
            }
            Self::Age(age) => {
                let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
                let is_over = |since: LogTime, now: LogTime| now.0.saturating_sub(since.0) > age;
                let is_old = |file: &&Aged| {
                    is_over(file.logged, now.logged) && is_over(file.written, now.here)
                };
                files.iter().take_while(is_old).count()
            }
        }
    }
}

/// A text does not say how much is to be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRetain {
    /// It is a number, and may stand for anything.
    #[error("a number wants a unit: {0}GiB of files, {0}d, {0}h or {0}w of age, or forever")]
    NoUnit(u64),
    /// It is something else.
    #[error("expected a size like 10GiB, an age like 30d, 12h or 2w, or forever")]
    Unknown,
}

impl FromStr for Retain {
    type Err = InvalidRetain;

    fn from_str(text: &str) -> Result<Self, InvalidRetain> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        if let Some(age) = parse_age(text) {
            return Ok(Self::Age(age));
        }
        if let Ok(number) = text.parse() {
            return Err(InvalidRetain::NoUnit(number));
        }
        let size: ByteSize = text.parse().map_err(|_| InvalidRetain::Unknown)?;
        Ok(Self::Bytes(size.as_u64()))
    }
}

/// A whole number of hours, days or weeks.
fn parse_age(text: &str) -> Option<Duration> {
    let hours = match text.as_bytes().last()? {
        b'h' => 1,
        b'd' => 24,
        b'w' => 24 * 7,
        _ => return None,
    };
    let count: u64 = text[..text.len() - 1].parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(hours * 3600)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_understood() {
        let day = Duration::from_hours(24);
        for (text, retain) in [
            ("forever", Retain::Forever),
            ("10GiB", Retain::DEFAULT),
            ("1500B", Retain::Bytes(1500)),
            ("2MB", Retain::Bytes(2_000_000)),
            ("30d", Retain::Age(30 * day)),
            ("12h", Retain::Age(day / 2)),
            ("2w", Retain::Age(14 * day)),
        ] {
            assert_eq!(text.parse(), Ok(retain), "{text}");
        }
    }

    const HOUR: u64 = 3_600_000_000_000;

    /// Five files, an hour each, written when they were logged.
    fn files() -> Vec<Aged> {
        let file = |hour| Aged { bytes: 100, logged: LogTime(hour), written: LogTime(hour) };
        (1..=5).map(|hour| file(hour * HOUR)).collect()
    }

    fn at(logged: u64, here: u64) -> Now {
        Now { logged: LogTime(logged * HOUR), here: LogTime(here * HOUR) }
    }

    fn hours(hours: u64) -> Retain {
        Retain::Age(Duration::from_hours(hours))
    }

    #[test]
    fn oldest_files_are_the_excess() {
        for (retain, excess) in [
            (Retain::Forever, 0),
            (Retain::Bytes(500), 0),
            (Retain::Bytes(499), 1),
            (Retain::Bytes(0), 5),
            (hours(9), 0),
            (hours(4), 0),
            (hours(3), 1),
            (hours(0), 4),
        ] {
            assert_eq!(retain.excess(&files(), at(5, 5)), excess, "{retain:?}");
        }
    }

    /// A year, whichever clock jumps.
    #[test]
    fn clock_that_jumps_ahead_makes_nothing_old() {
        let year = 365 * 24;
        assert_eq!(hours(9).excess(&files(), at(year, 5)), 0);
        assert_eq!(hours(9).excess(&files(), at(5, year)), 0);
        assert_eq!(hours(3).excess(&files(), at(year, 5)), 1);
        assert_eq!(hours(9).excess(&files(), at(year, year)), 5);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "d", "-1d", "30 days", "GiB", "10XB", "99999999999999999w", "é", "-1"] {
            assert_eq!(text.parse::<Retain>(), Err(InvalidRetain::Unknown), "{text}");
        }
        let error = "10".parse::<Retain>().unwrap_err().to_string();
        assert_eq!(
            error,
            "a number wants a unit: 10GiB of files, 10d, 10h or 10w of age, or forever"
        );
    }
}
