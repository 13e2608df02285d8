//! Reading a sealed file: a block at a time, from anywhere.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::footer::{Block, Footer};
use crate::error::{Damage, LogError};
use crate::files::IoError;
use crate::segments::frame::{self, EntryHead};
use crate::types::{Digest, Entry, Index, RaftIndex};

/// A file that is open for reading.
#[derive(Debug)]
pub(crate) struct SealedReader {
    path: PathBuf,
    file: File,
    blocks: Vec<Block>,
    /// The last entry in the file.
    pub(crate) last: RaftIndex,
}

impl SealedReader {
    pub(super) fn new(path: PathBuf, file: File, footer: Footer) -> Self {
        Self { path, file, blocks: footer.blocks, last: footer.last.index }
    }

    /// Reads all blocks as they lie there, each checked.
    pub(super) fn compressed_blocks(&self) -> impl Iterator<Item = Result<Vec<u8>, LogError>> {
        (0..self.blocks.len()).map(|at| self.compressed(at))
    }

    /// Returns the entries from `index` on, to the end of their block.
    ///
    /// # Errors
    ///
    /// If they cannot be read back as they were written.
    ///
    /// # Panics
    ///
    /// If the entry is not in this file.
    pub(crate) fn entries(&self, index: RaftIndex) -> Result<Vec<Arc<Entry>>, LogError> {
        let at = self.blocks.partition_point(|block| block.first <= index);
        let at = at.checked_sub(1).expect("the file holds the entry");
        let raw = self.decompressed(at)?;
        let mut entries = Vec::new();
        for payload in Payloads::new(&raw) {
            let payload = payload.map_err(|what| self.damage(at, what))?;
            let head = EntryHead::read(payload).map_err(|what| self.damage(at, what))?;
            if head.id.index >= index {
                let entry = frame::decode_entry(payload).map_err(|what| self.damage(at, what))?;
                entries.push(Arc::new(entry));
            }
        }
        if entries.first().is_none_or(|entry| entry.id.index != index) {
            return Err(self.damage(at, format!("entry {index} is not there")));
        }
        Ok(entries)
    }

    /// Returns the entry that holds the command `index`, and the last command
    /// before that entry.
    ///
    /// # Errors
    ///
    /// As [`Self::entries`].
    ///
    /// # Panics
    ///
    /// If the command comes before this file.
    pub(crate) fn find(&self, index: Index) -> Result<(RaftIndex, Index), LogError> {
        let at = self.blocks.partition_point(|block| block.before < index);
        let at = at.checked_sub(1).expect("the file holds the command");
        let raw = self.decompressed(at)?;
        let mut before = self.blocks[at].before;
        for payload in Payloads::new(&raw) {
            let head = payload.and_then(EntryHead::read).map_err(|what| self.damage(at, what))?;
            let last = Index(before.0 + u64::from(head.commands));
            if last >= index {
                return Ok((head.id.index, before));
            }
            before = last;
        }
        Err(self.damage(at, format!("command {index} is not there")))
    }

    fn decompressed(&self, at: usize) -> Result<Vec<u8>, LogError> {
        let compressed = self.compressed(at)?;
        let size = self.blocks[at].size as usize;
        match zstd::bulk::decompress(&compressed, size) {
            Ok(raw) if raw.len() == size => Ok(raw),
            Ok(raw) => {
                Err(self.damage(at, format!("block has {} bytes, expected {size}", raw.len())))
            }
            Err(error) => Err(self.damage(at, format!("block cannot be decompressed: {error}"))),
        }
    }

    /// Reads a block as it lies there, and checks its hash.
    fn compressed(&self, at: usize) -> Result<Vec<u8>, LogError> {
        let block = &self.blocks[at];
        let mut compressed = vec![0; block.length as usize];
        let read = self.file.read_exact_at(&mut compressed, block.offset);
        read.map_err(IoError::at("read", &self.path))?;
        let found = Digest(xxh3_128(&compressed));
        if found != block.hash {
            let expected = block.hash;
            return Err(self.damage(at, format!("block has hash {found}, expected {expected}")));
        }
        Ok(compressed)
    }

    fn damage(&self, at: usize, what: String) -> LogError {
        let block = &self.blocks[at];
        Damage::at(&self.path, block.offset, (block.first, block.before.next()), what)
    }
}

/// The entries of a block, one after the other.
struct Payloads<'a> {
    rest: &'a [u8],
}

impl<'a> Payloads<'a> {
    fn new(raw: &'a [u8]) -> Self {
        Self { rest: raw }
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = Result<&'a [u8], String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some((length, behind)) = rest.split_first_chunk::<4>() else {
            return Some(Err(format!("{} bytes stand behind the last entry", rest.len())));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((payload, behind)) = behind.split_at_checked(length) else {
            return Some(Err(format!("entry has {length} bytes, {} are left", behind.len())));
        };
        self.rest = behind;
        Some(Ok(payload))
    }
}
