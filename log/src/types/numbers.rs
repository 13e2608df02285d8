//! The numbers of the log, each a type of its own, so that none is taken for
//! another.
//!
//! ```text
//! Raft index   0   1   2   3   4        one for every entry of the Raft log
//! payload      M   B   3   0   2        M membership, B blank, n commands
//! Index                1-3     4-5      one for every command
//! ```

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the number after this one; the last one there is has none but itself.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

counter! {
    /// The number of a command, from 1, without gaps; 0 is "before the first".
    /// Clients see it as the `index`.
    Index, "#{}"
}

counter! {
    /// The number of an event, from 1, without gaps; 0 is "before the first".
    EventNumber, "e{}"
}

counter! {
    /// The place of an entry in the Raft log, from 0, without gaps.
    RaftIndex, "r{}"
}

counter! {
    /// A Raft term, from 1; 0 is "before the first election" (Raft, section 5.1).
    Term, "t{}"
}

/// Serializes a type as the text that it is shown as.
macro_rules! serialize_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Written as 16 hexadecimal digits, for 64 bits do not survive every
        /// JSON reader's numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Mints a random identity, never zero.
            ///
            /// # Panics
            ///
            /// If the operating system has no random numbers to give.
            pub fn random() -> Self {
                let number = getrandom::u64().expect("the operating system gives random numbers");
                Self(number.max(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u64::from_str_radix(text, 16).map(Self)
            }
        }

        serialize_as_text!($name);
    };
}

identity! {
    /// Who a machine is: minted once for a data directory, and never reused.
    NodeId
}

identity! {
    /// Which cluster a machine, a log or a message belongs to.
    ClusterId
}

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident, $number:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$number>::from_str_radix(text, 16).map(Self)
            }
        }

        serialize_as_text!($name);
    };
}

hash! {
    /// A hash over the whole history up to some point, to compare machines by.
    /// Written as 32 hexadecimal digits.
    Digest, u128, "{:032x}"
}

hash! {
    /// A hash over what a client has said, to tell whether he says it again. Written as
    /// 16 hexadecimal digits.
    RequestHash, u64, "{:016x}"
}

/// Logged time: nanoseconds since the Unix epoch, as the leader read its clock
/// when it proposed the batch. Good until the year 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(pub u64);

impl LogTime {
    /// The last time that can be written; a deadline beyond it is this one.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Returns the time `seconds` later, or [`LogTime::MAX`] if that is sooner.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(self.0)).min(Self::MAX)
    }

    /// Returns this time as a calendar's.
    pub fn to_utc(self) -> DateTime<Utc> {
        let nanos = i64::try_from(self.0).unwrap_or(i64::MAX);
        DateTime::from_timestamp_nanos(nanos)
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::Nanos, true))
    }
}

impl FromStr for LogTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|error| error.to_string())?;
        time.timestamp_nanos_opt()
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map(Self)
            .ok_or_else(|| format!("{text} is not between the years 1970 and 2262"))
    }
}

serialize_as_text!(LogTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_survives_its_text_to_the_nanosecond() {
        for nanos in [0, 1, 1_373_599_872_156_146_039, LogTime::MAX.0] {
            let text = LogTime(nanos).to_string();
            assert_eq!(text.parse(), Ok(LogTime(nanos)), "{text}");
        }
    }

    #[test]
    fn deadline_beyond_the_calendar_is_the_last_time() {
        assert_eq!(LogTime(7).plus_seconds(u64::MAX), LogTime::MAX);
        assert_eq!(LogTime::MAX.plus_seconds(1), LogTime::MAX);
    }

    #[test]
    fn identity_survives_its_text() {
        let id = NodeId(0x00ff_0000_dead_beef);
        assert_eq!(id.to_string(), "00ff0000deadbeef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
