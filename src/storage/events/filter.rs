//! The filter of a block: which keys it does not hold anything at or below.
//!
//! A Bloom filter over the hashes of all keys in the block *and of every directory above
//! them*, so that "may there be anything at `/a/b` or below it" is one lookup. Ten bits a
//! key and seven probes make it wrong one time in a hundred: then a block is read in vain.
//!
//! It is our own, for it lies on disk: what its bits mean must not change with another
//! version of somebody's crate. The hash is xxh3, whose results are fixed.

use std::collections::HashSet;

use etcd_log::KeyPath;
use xxhash_rust::xxh3::xxh3_64;

const BITS_A_KEY: usize = 10;
const PROBES: u32 = 7;

/// The keys of a block that is being filled, and all directories above them.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    hashes: HashSet<u64>,
}

impl KeySet {
    /// Adds a key.
    pub(super) fn add(&mut self, key: &KeyPath) {
        // Each by itself: that a hash is known does not say that its path is.
        self.hashes.extend(key.ancestors().map(|path| xxh3_64(path.as_bytes())));
    }

    /// Writes the filter: nothing, if there is no key.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + (self.hashes.len() * BITS_A_KEY).div_ceil(8), 0);
        let filter = &mut out[start..];
        let bits = filter.len() as u64 * 8;
        for bit in self.hashes.iter().flat_map(|hash| probes(*hash, bits)) {
            filter[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.hashes.clear();
    }
}

/// Returns whether a block with this filter may hold something at a key or below it.
pub(super) fn may_hold(filter: &[u8], key: &KeyPath) -> bool {
    let hash = xxh3_64(key.as_str().as_bytes());
    let is_set = |bit: usize| filter[bit / 8] & (1 << (bit % 8)) != 0;
    !filter.is_empty() && probes(hash, filter.len() as u64 * 8).all(is_set)
}

fn probes(hash: u64, bits: u64) -> impl Iterator<Item = usize> {
    let step = hash.rotate_left(32) | 1;
    (0..PROBES).map(move |probe| {
        let mixed = hash.wrapping_add(step.wrapping_mul(u64::from(probe)));
        let bit = (u128::from(mixed) * u128::from(bits)) >> 64;
        usize::try_from(bit).expect("a filter is in memory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> KeyPath {
        KeyPath::clean(path).unwrap()
    }

    fn filter(keys: impl IntoIterator<Item = KeyPath>) -> Vec<u8> {
        let mut set = KeySet::default();
        keys.into_iter().for_each(|key| set.add(&key));
        let mut filter = Vec::new();
        set.write(&mut filter);
        filter
    }

    /// Two paths may have one hash: what lies above one need not lie above the other.
    #[test]
    fn known_hash_leaves_no_directory_out() {
        let key = KeyPath::clean("/audited/a").unwrap();
        let mut set = KeySet::default();
        set.hashes.insert(xxh3_64(key.as_str().as_bytes()));
        set.add(&key);
        assert!(set.hashes.contains(&xxh3_64(b"/audited")));
    }

    #[test]
    fn directories_above_a_key_are_in_it() {
        let filter = filter([key("/a/b/c"), key("/a/d")]);
        for path in ["/", "/a", "/a/b", "/a/b/c", "/a/d"] {
            assert!(may_hold(&filter, &key(path)), "{path}");
        }
        assert!(!may_hold(&filter, &key("/b")));
        assert!(!may_hold(&[], &key("/")));
    }

    #[test]
    fn other_keys_are_seldom_in_it() {
        let filter = filter((0..4000).map(|number| key(&format!("/in/{number}"))));
        let wrong = (0..10_000).filter(|number| may_hold(&filter, &key(&format!("/out/{number}"))));
        let wrong = wrong.count();
        assert!(wrong < 200, "{wrong} of 10000");
        assert!(filter.len() < 4100 * BITS_A_KEY / 8);
    }

    /// The format: a filter that was written once is read for ever.
    #[test]
    fn bits_are_those_that_they_were() {
        assert_eq!(filter([key("/a")]), [90, 24, 57]);
    }
}
