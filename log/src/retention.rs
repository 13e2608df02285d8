//! Retention: how much of history is kept.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// How much of history is kept: `10GiB` of sealed files, `30d`, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// All of it.
    Forever,
    /// So many bytes of sealed files.
    Bytes(u64),
    /// What was sealed within this time.
    Age(Duration),
}

impl Retain {
    /// What is kept unless somebody wants it otherwise.
    pub const DEFAULT: Self = Self::Bytes(10 << 30);
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
    fn other_texts_are_refused() {
        for text in ["", "d", "-1d", "30 days", "GiB", "10XB", "99999999999999999w", "é"] {
            assert_eq!(text.parse::<Retain>(), Err(InvalidRetain), "{text}");
        }
    }
}
