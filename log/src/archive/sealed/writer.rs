//! Writing a sealed file: entries in, blocks out, and a footer at the end.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::footer::{Block, Footer};
use super::{BLOCK_BYTES, END, FORMAT, HEADER, MAGIC, Predecessor, Sealed, draft, path};
use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, LogError};
use crate::files::IoError;
use crate::segments::frame::{self, EntryHead};
use crate::types::{Check, Digest, Index, LogId, LogTime, Membership, RaftIndex};

/// How hard zstd tries. Beyond it the gain in room is small, and the cost is not.
const LEVEL: i32 = 1;

/// A file that is being written, under a temporary name.
pub(crate) struct SealedWriter<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
    draft: PathBuf,
    file: Box<dyn DiskFile>,
    compressor: zstd::bulk::Compressor<'static>,
    offset: u64,
    content: Xxh3,
    footer: Footer,
    /// The entries of the block that is being filled.
    raw: Vec<u8>,
    /// What the block begins with, once it holds an entry.
    block: Option<Block>,
}

/// What the payload of an entry says that the footer wants to know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Glimpse {
    Blank,
    Membership(Membership),
    Batch(BatchGlimpse),
}

#[derive(Deserialize)]
struct BatchGlimpse {
    time: LogTime,
    #[serde(rename = "commands")]
    _commands: IgnoredAny,
    #[serde(default)]
    check: Option<Check>,
}

impl<'d> SealedWriter<'d> {
    /// Begins a file in a directory.
    pub(crate) fn create(
        disk: &'d dyn Disk,
        dir: &Path,
        from: Predecessor,
    ) -> Result<Self, IoError> {
        let draft = draft(dir);
        let mut file = disk.create(&draft).map_err(IoError::at("create", &draft))?;
        let header = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &[0; 4]].concat();
        file.write_at(&header, 0).map_err(IoError::at("write", &draft))?;
        let compressor = zstd::bulk::Compressor::new(LEVEL);
        let footer = Footer {
            format: FORMAT,
            first: RaftIndex(0),
            last: LogId::default(),
            before: from.before,
            index: from.before,
            time: from.time,
            membership: from.membership,
            previous: from.previous,
            content: Digest::default(),
            blocks: Vec::new(),
        };
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            file,
            compressor: compressor.map_err(IoError::at("compress", &draft))?,
            draft,
            offset: HEADER as u64,
            content: Xxh3::new(),
            footer,
            raw: Vec::new(),
            block: None,
        })
    }

    /// Adds the next entry: the payload of its frame.
    ///
    /// # Errors
    ///
    /// If the disk refuses, or the payload is no entry's.
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<(), LogError> {
        let (head, glimpse) = self.glimpse(payload)?;
        if self.block.is_none() {
            self.begin_block(&head);
        }
        match glimpse {
            Glimpse::Blank => {}
            Glimpse::Membership(membership) => self.footer.membership = Some(membership),
            Glimpse::Batch(batch) => {
                self.footer.time = self.footer.time.max(batch.time);
                let block = self.block.as_mut().expect("begun above");
                block.check = block.check.or(batch.check);
            }
        }
        let is_first = self.footer.blocks.is_empty() && self.raw.is_empty();
        let follows = is_first || head.id.index == self.footer.last.index.next();
        assert!(follows, "entry {} sealed behind {}", head.id, self.footer.last);
        self.footer.index = Index(self.footer.index.0 + u64::from(head.commands));
        self.footer.last = head.id;
        let length = u32::try_from(payload.len()).expect("payloads are bounded");
        self.raw.extend_from_slice(&length.to_le_bytes());
        self.raw.extend_from_slice(payload);
        if self.raw.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    fn glimpse(&self, payload: &[u8]) -> Result<(EntryHead, Glimpse), LogError> {
        let wrong = |what: String| {
            let next = (self.footer.last.index.next(), self.footer.index.next());
            Damage::at(&self.draft, self.offset, next, what)
        };
        let head = EntryHead::read(payload).map_err(wrong)?;
        let glimpse = serde_json::from_slice(frame::json_of_entry(payload));
        glimpse
            .map(|glimpse| (head, glimpse))
            .map_err(|error| wrong(format!("entry {} cannot be read: {error}", head.id)))
    }

    fn begin_block(&mut self, head: &EntryHead) {
        if self.footer.blocks.is_empty() {
            self.footer.first = head.id.index;
        }
        self.block = Some(Block {
            offset: self.offset,
            length: 0,
            size: 0,
            first: head.id.index,
            before: self.footer.index,
            time: self.footer.time,
            check: None,
            hash: Digest::default(),
        });
    }

    fn end_block(&mut self) -> Result<(), IoError> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        let compressed = self.compressor.compress(&self.raw);
        let compressed = compressed.map_err(IoError::at("compress", &self.draft))?;
        let written = self.file.write_at(&compressed, self.offset);
        written.map_err(IoError::at("write", &self.draft))?;
        block.length = u32::try_from(compressed.len()).expect("blocks are bounded");
        block.size = u32::try_from(self.raw.len()).expect("blocks are bounded");
        block.hash = Digest(xxh3_128(&compressed));
        self.content.update(&compressed);
        self.offset += compressed.len() as u64;
        self.footer.blocks.push(block);
        self.raw.clear();
        Ok(())
    }

    /// Ends the file and gives it its name. It is durable then, name and all.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    ///
    /// # Panics
    ///
    /// If there is no command in it: its name could be another's.
    pub(crate) fn finish(mut self) -> Result<Sealed, LogError> {
        self.end_block()?;
        self.footer.content = Digest(self.content.digest128());
        assert!(self.footer.index > self.footer.before, "a sealed file without a command");
        let path = path(&self.dir, self.footer.before.next(), self.footer.index);
        let text = serde_json::to_vec(&self.footer).expect("a footer is plain data");
        let hash = xxh3_128(&text);
        let length = u32::try_from(text.len()).expect("footers are bounded");
        let end = [&*text, &length.to_le_bytes(), &hash.to_le_bytes(), END].concat();
        self.file.write_at(&end, self.offset).map_err(IoError::at("write", &self.draft))?;
        self.file.sync().map_err(IoError::at("sync", &self.draft))?;
        self.disk.rename(&self.draft, &path).map_err(IoError::at("rename", &self.draft))?;
        self.disk.sync_dir(&self.dir).map_err(IoError::at("sync", &self.dir))?;
        let bytes = self.offset + end.len() as u64;
        Ok(Sealed::new(path, bytes, Digest(hash), self.footer))
    }
}
