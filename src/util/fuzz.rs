//! Fuzzing: what anybody may send, made up by changing what is good, and looked at for a while.
//!
//! ```text
//! cargo test --lib fuzz                                      a second each
//! FUZZ_SECONDS=600 cargo test --release --lib fuzz           longer
//! FUZZ_SEED=17 cargo test --lib fuzz                         other ones; the seed is told
//! ```
//!
//! What fails is told whole, so that it can become a test of its own. There is no guidance by
//! what code is reached: these parsers are small, and what they are given is made of their own
//! words.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// For how long each target is fuzzed.
const SECONDS: f64 = 1.0;

/// How many inputs are kept to be changed further, beside the good ones.
const KEPT: usize = 64;

/// No input becomes longer: most faults show in few bytes.
const MOST_BYTES: usize = 4096;

/// Numbers that are at the border of something.
const BORDERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// Makes up inputs out of good ones, and of words that mean something, for a while.
///
/// # Panics
///
/// If `look` does, with what it was given.
pub(crate) fn fuzz<G: AsRef<[u8]>>(good: &[G], words: &[&str], look: impl Fn(&[u8])) {
    super::limit::begin();
    let lasts = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let lasts = Duration::from_secs_f64(lasts.unwrap_or(SECONDS));
    // Any number is as good as another, and this one is another one each time.
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(random);
    let good: Vec<_> = good.iter().map(|good| good.as_ref().to_vec()).collect();
    let mut maker = Maker { dice: Dice(seed), words, inputs: good.clone(), good: good.len() };
    let begun = Instant::now();
    for good in &good {
        let _told = Told { seed, input: good };
        look(good);
    }
    while begun.elapsed() < lasts {
        for _ in 0..64 {
            let input = maker.make();
            {
                let _told = Told { seed, input: &input };
                look(&input);
            }
            maker.keep(input);
        }
    }
}

fn random() -> u64 {
    getrandom::u64().expect("the operating system gives random numbers")
}

/// Tells what was looked at if looking at it fails.
struct Told<'i> {
    seed: u64,
    input: &'i [u8],
}

impl Drop for Told<'_> {
    #[expect(clippy::print_stderr, reason = "a test tells why it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut hex = String::new();
            self.input.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a text grows"));
            let text = self.input.escape_ascii();
            eprintln!("FUZZ_SEED={}: it fails with b\"{text}\", in hex {hex}", self.seed);
        }
    }
}

/// Makes inputs.
struct Maker<'w> {
    dice: Dice,
    words: &'w [&'w str],
    /// The good ones, and some that were made of them.
    inputs: Vec<Vec<u8>>,
    /// How many are good.
    good: usize,
}

impl Maker<'_> {
    fn make(&mut self) -> Vec<u8> {
        let mut input = self.dice.pick(&self.inputs).clone();
        for _ in 0..=self.dice.below(6) {
            self.change(&mut input);
        }
        input.truncate(MOST_BYTES);
        input
    }

    /// Keeps one to be changed further, in the place of another one.
    fn keep(&mut self, input: Vec<u8>) {
        if self.inputs.len() < self.good + KEPT {
            self.inputs.push(input);
        } else {
            let at = self.good + self.dice.below(KEPT);
            self.inputs[at] = input;
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let dice = &mut self.dice;
        let at = dice.below(input.len() + 1);
        let upto = (at + dice.below(16)).min(input.len());
        match dice.below(9) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.next().to_le_bytes()[0],
            2 => drop(input.drain(at..upto)),
            3 => input.truncate(at),
            4 => {
                let part = input[at..upto].to_vec();
                let to = dice.below(input.len() + 1);
                drop(input.splice(to..to, part));
            }
            5 if !self.words.is_empty() => {
                let word = dice.pick(self.words).bytes();
                drop(input.splice(at..at, word));
            }
            6 => {
                // A number as text, as it stands in a form or in JSON.
                let number = dice.pick(&BORDERS).to_string().into_bytes();
                drop(input.splice(at..upto, number));
            }
            7 => {
                // The same as bytes, as it stands in a frame.
                let bytes = dice.pick(&BORDERS).to_le_bytes();
                let count = [1, 2, 4, 8][dice.below(4)];
                let upto = (at + count).min(input.len());
                drop(input.splice(at..upto, bytes[..count].iter().copied()));
            }
            _ => {
                let other = dice.pick(&self.inputs);
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// Random numbers: `SplitMix64` (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).expect("it is below a size")
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "found it")]
    fn fuzzing_finds_what_is_there_to_be_found() {
        let finds = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let number = text.split('=').nth(1).and_then(|text| text.parse::<u64>().ok());
            assert!(number < Some(1 << 40), "found it");
        };
        fuzz(&["limit=5"], &["&", "="], finds);
    }
}
