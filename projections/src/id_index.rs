//! The index of ids: which command an id was used for, by a hash of the id.
//!
//! ```text
//! fresh: a small map ─▶ runs, sorted and never changed: │ oldest, longest │ ··· │ newest │
//! ```
//!
//! What changes in a state that somebody reads is copied first. In one map of a hundred thousand
//! random keys, each change would copy a path of wide nodes: four times as much work as all else
//! that a set takes. Here it copies a part of a small map; the rest is merged now and then, as in
//! a log-structured merge tree (O'Neil et al. 1996).
//!
//! Nothing is taken out. What was forgotten is passed over, and goes when runs are merged. Most
//! ids are new, so each run has a filter that says so for nearly all of them (Bloom 1970): its
//! entries would have to come from memory.

use std::sync::Arc;

use etcd_log::Index;
use imbl::OrdMap;

/// How many ids the small map has before it becomes a run.
const FRESH: usize = 1024;

/// How many hashes share a word of a filter.
const IN_A_WORD: usize = 4;

/// Hashes and commands.
type Entries = Vec<(u128, Index)>;

/// What never changes.
#[derive(Debug)]
struct Run {
    /// By hash.
    entries: Entries,
    /// Each hash has some bits in one of its words.
    filter: Vec<u64>,
}

impl Run {
    fn new(entries: Entries) -> Self {
        let mut filter = vec![0; entries.len().div_ceil(IN_A_WORD)];
        for (hash, _) in &entries {
            let word = word_of(*hash, filter.len());
            filter[word] |= bits_of(*hash);
        }
        Self { entries, filter }
    }

    fn get(&self, hash: u128) -> Option<Index> {
        let bits = bits_of(hash);
        if self.filter.get(word_of(hash, self.filter.len()))? & bits != bits {
            return None;
        }
        let at = self.entries.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
        Some(self.entries[at].1)
    }
}

/// Returns the word of a filter that a hash has its bits in.
fn word_of(hash: u128, words: usize) -> usize {
    let part = hash & u128::from(u32::MAX);
    usize::try_from((part * words as u128) >> 32).expect("it is below a size")
}

/// Returns the bits that a hash has there: four, of which some may be the same.
fn bits_of(hash: u128) -> u64 {
    (0..4).map(|at| 1 << ((hash >> (32 + 6 * at)) & 63)).fold(0, |bits, bit: u64| bits | bit)
}

/// The index. Cloning it is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdIndex {
    fresh: OrdMap<u128, Index>,
    /// The longest first, each at least twice as long as the next.
    runs: Arc<Vec<Arc<Run>>>,
}

impl IdIndex {
    /// Returns the command that an id was used for last; nothing, or any from before what is
    /// forgotten, if it is.
    pub(crate) fn get(&self, hash: u128) -> Option<Index> {
        // The newer ones count.
        let in_runs = || self.runs.iter().rev().find_map(|run| run.get(hash));
        self.fresh.get(&hash).copied().or_else(in_runs)
    }

    /// Notes a command of an id, which comes after all others. What was used up to `forgotten`
    /// needs not be known any longer.
    pub(crate) fn insert(&mut self, hash: u128, index: Index, forgotten: Index) {
        self.fresh.insert(hash, index);
        if self.fresh.len() < FRESH {
            return;
        }
        let mut newest: Entries = std::mem::take(&mut self.fresh).into_iter().collect();
        let runs = Arc::make_mut(&mut self.runs);
        while let Some(older) = runs.pop_if(|older| older.entries.len() < 2 * newest.len()) {
            newest = merge(&older.entries, &newest);
            newest.retain(|(_, index)| *index > forgotten);
        }
        runs.push(Arc::new(Run::new(newest)));
    }
}

/// Merges two runs; of one hash, the newer run's command counts.
fn merge(older: &[(u128, Index)], newer: &[(u128, Index)]) -> Entries {
    let mut merged = Vec::with_capacity(older.len() + newer.len());
    let mut older = older.iter().peekable();
    for one in newer {
        while let Some(before) = older.next_if(|before| before.0 < one.0) {
            merged.push(*before);
        }
        let _replaced = older.next_if(|same| same.0 == one.0);
        merged.push(*one);
    }
    merged.extend(older);
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hash_of(id: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&id.to_le_bytes())
    }

    proptest! {
        /// Whatever was used since what is forgotten is found, by its last command; and of the
        /// rest, no more is kept than as much again.
        #[test]
        fn index_is_a_map(seed in any::<u64>(), ids in 1..60_000_u64, window in 1..5_000_u64) {
            let (mut index, mut model) = (IdIndex::default(), BTreeMap::new());
            let mut random = seed;
            for number in 1..=20_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let hash = hash_of((random >> 33) % ids);
                let forgotten = Index(number - number.min(window));
                index.insert(hash, Index(number), forgotten);
                model.insert(hash, Index(number));
            }
            let forgotten = Index(20_000 - window);
            let known = |found: Option<Index>| found.filter(|index| *index > forgotten);
            for (hash, last) in &model {
                prop_assert_eq!(known(index.get(*hash)), known(Some(*last)));
            }
            prop_assert_eq!(index.get(hash_of(ids)), None);
            let runs: Vec<_> = index.runs.iter().map(|run| run.entries.len()).collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0] >= 2 * pair[1]), "{runs:?}");
            let most = 2 * FRESH.max(usize::try_from(window).expect("a few thousand"));
            prop_assert!(runs.iter().sum::<usize>() <= most, "{runs:?}, {window} are known");
        }
    }
}
