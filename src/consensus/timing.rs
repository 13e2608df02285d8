//! How long leaders and followers wait for each other.

use std::time::Duration;

/// The times of Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader says that it leads.
    pub heartbeat: Duration,
    /// How long a follower waits for a word of its leader before it looks for
    /// another one: at least, and at most. Each time it is a random time between.
    pub election: (Duration, Duration),
    /// What the random times come from; from the operating system, if absent.
    pub seed: Option<u64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(600), Duration::from_millis(1200)),
            seed: None,
        }
    }
}

/// Random times. Not random enough to keep a secret (splitmix64; Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// Makes jitter that falls the same way for the same seed.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(seed.unwrap_or_else(|| {
            getrandom::u64().expect("the operating system gives random numbers")
        }))
    }

    /// Returns a time between two.
    pub(crate) fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let range = most.saturating_sub(least).as_micros().max(1);
        let micros = u64::try_from(u128::from(mixed) % range).unwrap_or(0);
        least + Duration::from_micros(micros)
    }
}
