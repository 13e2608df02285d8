//! Retention: how much of history is kept.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::LogTime;

/// How much of history is kept: `10GiB` of sealed files, `30d`, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// All of it.
    Forever,
    /// So many bytes of sealed files.
    Bytes(u64),
    /// What was written within this time: by the logged time, and this machine's clock.
    Age(Duration),
}

impl Retain {
    /// What is kept unless somebody wants it otherwise.
    pub const DEFAULT: Self = Self::Bytes(10 << 30);

    /// Returns how many of the oldest files are more than is wanted, of files with
    /// these lengths and last logged times.
    pub(crate) fn excess(self, files: &[(u64, LogTime)], now: LogTime) -> usize {
        match self {
            Self::Forever => 0,
            Self::Bytes(most) => {
                let mut kept = 0;
                let fits = |(bytes, _): &&(u64, LogTime)| {
                    kept += bytes;
                    kept <= most
                };
                files.len() - files.iter().rev().take_while(fits).count()
            }
            Self::Age(age) => {
                let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
                let oldest = LogTime(now.0.saturating_sub(age));
                files.partition_point(|(_, time)| *time < oldest)
            }
        }
    }
}

/// A text does not say how much is to be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a size like 10GiB, an age like 30d, 12h or 2w, or forever")]
pub struct InvalidRetain;

impl FromStr for Retain {
    type Err = InvalidRetain;

    fn from_str(text: &str) -> Result<Self, InvalidRetain> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        if let Some(age) = parse_age(text) {
            return Ok(Self::Age(age));
        }
        let size: ByteSize = text.parse().map_err(|_| InvalidRetain)?;
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
            ("1500", Retain::Bytes(1500)),
            ("2MB", Retain::Bytes(2_000_000)),
            ("30d", Retain::Age(30 * day)),
            ("12h", Retain::Age(day / 2)),
            ("2w", Retain::Age(14 * day)),
        ] {
            assert_eq!(text.parse(), Ok(retain), "{text}");
        }
    }

    #[test]
    fn oldest_files_are_the_excess() {
        let files: Vec<_> = (1..=5).map(|hour| (100, LogTime(hour * 3_600_000_000_000))).collect();
        let now = LogTime(5 * 3_600_000_000_000);
        let hours = |hours| Retain::Age(Duration::from_hours(hours));
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
            assert_eq!(retain.excess(&files, now), excess, "{retain:?}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "d", "-1d", "30 days", "GiB", "10XB", "99999999999999999w", "é"] {
            assert_eq!(text.parse::<Retain>(), Err(InvalidRetain), "{text}");
        }
    }
}
