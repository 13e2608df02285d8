//! A sealed file: entries that are settled, compressed, and never changed again.
//!
//! ```text
//! etcdseal │ format, 0 │ block │ block │ … │ footer, JSON │ its length │ its hash │ sealends
//!    8          8                                              4           16          8
//!
//! block = zstd of: length │ head of an entry │ JSON │ length │ head │ JSON │ …
//! ```
//!
//! * An entry's bytes are those of its frame in the segment, copied as they are.
//! * The footer names every block, its place and its hash, what the log said of
//!   positions in it, and the hash of the footer of the file before: a chain over
//!   the whole archive, of which each link vouches for all of its file.
//! * Nothing is decompressed before its hash was found right.
//!
//! Deliberately not here: which entries are settled (`archivist`), and how files
//! follow each other (`archive`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::disk::{Disk, DiskFile};
use crate::error::Damage;
use crate::frame::{self, EntryHead, MAX_PAYLOAD};
use crate::{
    Check, Digest, Entry, Index, IoError, LogError, LogId, LogTime, Membership, RaftIndex,
};

/// The version of this format.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"etcdseal";
const END: &[u8; 8] = b"sealends";

/// How long the file's own header is.
const HEADER: usize = 16;

/// How long the part behind the footer is.
const TRAILER: usize = 4 + 16 + 8;

/// How many bytes of entries go into a block: a reader that seeks has to read
/// one, and a larger one hardly compresses better.
const BLOCK_BYTES: usize = 256 << 10;

/// The most bytes that a block can have: all but full, and one entry more.
const MOST_BLOCK_BYTES: usize = BLOCK_BYTES + MAX_PAYLOAD;

/// The longest footer: bounds what a reader allocates.
const MOST_FOOTER_BYTES: usize = 64 << 20;

/// How hard zstd tries. Beyond it the gain in room is small, and the cost is not.
const LEVEL: i32 = 1;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Footer {
    format: u32,
    /// The first entry.
    pub(crate) first: RaftIndex,
    /// The last entry.
    pub(crate) last: LogId,
    /// The last command before the first entry.
    pub(crate) before: Index,
    /// The last command.
    pub(crate) index: Index,
    /// The logged time at the end.
    pub(crate) time: LogTime,
    /// The last membership up to the end.
    pub(crate) membership: Option<Membership>,
    /// The hash of the footer of the file before; none in the first of all.
    pub(crate) previous: Option<Digest>,
    /// The hash of all blocks.
    content: Digest,
    blocks: Vec<Block>,
}

/// Where a block lies, and what it begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    offset: u64,
    /// How many bytes it has in the file.
    length: u32,
    /// How many bytes it has decompressed.
    size: u32,
    /// Its first entry.
    first: RaftIndex,
    /// The last command before it.
    before: Index,
    /// The logged time before it.
    time: LogTime,
    /// The first position that a batch in it speaks of, with its event number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    hash: Digest,
}

/// What a new file goes on from.
#[derive(Clone, Debug, Default)]
pub(crate) struct GoesOn {
    pub(crate) before: Index,
    pub(crate) time: LogTime,
    pub(crate) membership: Option<Membership>,
    pub(crate) previous: Option<Digest>,
}

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
    pub(crate) fn create(disk: &'d dyn Disk, dir: &Path, from: GoesOn) -> Result<Self, IoError> {
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
            damage(&self.draft, self.offset, next, what)
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

/// A file that is whole as far as its footer goes.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    /// How long the file is.
    pub(crate) bytes: u64,
    /// The hash of its footer.
    pub(crate) hash: Digest,
    /// The footer, without its blocks: an archive has many files.
    pub(crate) footer: Footer,
}

/// Returns where a file lies while it is being written.
pub(crate) fn draft(dir: &Path) -> PathBuf {
    dir.join("draft.tmp")
}

/// Returns the path of the file with these commands.
pub(crate) fn path(dir: &Path, first: Index, last: Index) -> PathBuf {
    dir.join(format!("{:020}-{:020}.sealed", first.0, last.0))
}

impl Sealed {
    fn new(path: PathBuf, bytes: u64, hash: Digest, footer: Footer) -> Self {
        Self { path, bytes, hash, footer: Footer { blocks: Vec::new(), ..footer } }
    }

    /// Reads a file's footer, and checks that the file is laid out as it says.
    /// `next` is the entry and the command that should begin there.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is damaged, or of a later version.
    pub(crate) fn open(path: &Path, next: (RaftIndex, Index)) -> Result<Self, LogError> {
        let (file, bytes) = open_file(path)?;
        let (footer, hash) = read_checked(&file, path, bytes, next)?;
        Ok(Self::new(path.to_owned(), bytes, hash, footer))
    }

    /// Opens the file to read its entries.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no longer the file that was found.
    pub(crate) fn reader(&self) -> Result<SealedReader, LogError> {
        let (file, bytes) = open_file(&self.path)?;
        let next = (self.footer.first, self.footer.before.next());
        let (footer, hash) = read_checked(&file, &self.path, bytes, next)?;
        if hash != self.hash {
            let what = format!("the footer has hash {hash}, it was {}", self.hash);
            return Err(damage(&self.path, 0, next, what));
        }
        let (path, blocks) = (self.path.clone(), footer.blocks);
        Ok(SealedReader { path, file, blocks, last: self.footer.last.index })
    }

    /// Reads the whole file and compares it with its footer, unless it is to stop
    /// before.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not as it was written.
    pub(crate) fn verify(&self, is_to_stop: impl Fn() -> bool) -> Result<(), LogError> {
        let reader = self.reader()?;
        let mut content = Xxh3::new();
        for at in 0..reader.blocks.len() {
            if is_to_stop() {
                return Ok(());
            }
            content.update(&reader.compressed(at)?);
        }
        let (found, expected) = (Digest(content.digest128()), self.footer.content);
        if found == expected {
            return Ok(());
        }
        let next = (self.footer.first, self.footer.before.next());
        let what = format!("the blocks have hash {found}, expected {expected}");
        Err(damage(&self.path, HEADER as u64, next, what))
    }
}

fn open_file(path: &Path) -> Result<(File, u64), IoError> {
    let file = File::open(path).map_err(IoError::at("open", path))?;
    let bytes = file.metadata().map_err(IoError::at("read", path))?.len();
    Ok((file, bytes))
}

/// Reads a footer and its hash, and checks all that can be checked without the
/// blocks themselves.
fn read_checked(
    file: &File,
    path: &Path,
    bytes: u64,
    next: (RaftIndex, Index),
) -> Result<(Footer, Digest), LogError> {
    let wrong = |offset: u64, what: String| damage(path, offset, next, what);
    let (text, start) = read_footer(file, bytes).map_err(|fault| match fault {
        Fault::Io(error) => IoError::at("read", path)(error).into(),
        Fault::Wrong(offset, what) => wrong(offset, what),
        Fault::NewerFormat(found) => {
            LogError::NewerFormat { path: path.to_owned(), found, known: FORMAT }
        }
    })?;
    let footer: Footer = serde_json::from_slice(&text)
        .map_err(|error| wrong(start, format!("the footer cannot be read: {error}")))?;
    check_layout(&footer, start).map_err(|what| wrong(start, what))?;
    Ok((footer, Digest(xxh3_128(&text))))
}

/// Why a footer cannot be used.
enum Fault {
    Io(io::Error),
    Wrong(u64, String),
    NewerFormat(u32),
}

/// Returns the footer's text and where it begins.
fn read_footer(file: &File, bytes: u64) -> Result<(Vec<u8>, u64), Fault> {
    if bytes < (HEADER + TRAILER) as u64 {
        let what = format!("file has {bytes} bytes, the shortest has {}", HEADER + TRAILER);
        return Err(Fault::Wrong(0, what));
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(Fault::Io)?;
    let format = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    let trailer_at = bytes - TRAILER as u64;
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, trailer_at).map_err(Fault::Io)?;
    if &header[..8] != MAGIC {
        return Err(Fault::Wrong(0, format!("file begins with {:02x?}", &header[..8])));
    }
    if &trailer[20..] != END {
        return Err(Fault::Wrong(trailer_at, format!("file ends with {:02x?}", &trailer[20..])));
    }
    let length = u64::from(u32::from_le_bytes(trailer[..4].try_into().expect("four bytes")));
    if length > (trailer_at - HEADER as u64).min(MOST_FOOTER_BYTES as u64) {
        let what = format!("the footer says it has {length} bytes, the file has {bytes}");
        return Err(Fault::Wrong(trailer_at, what));
    }
    let start = trailer_at - length;
    let mut text = vec![0; usize::try_from(length).expect("bounded")];
    file.read_exact_at(&mut text, start).map_err(Fault::Io)?;
    let expected = u128::from_le_bytes(trailer[4..20].try_into().expect("sixteen bytes"));
    let found = xxh3_128(&text);
    if found != expected {
        let (found, expected) = (Digest(found), Digest(expected));
        let what = format!("the footer has hash {found}, expected {expected}");
        return Err(Fault::Wrong(start, what));
    }
    // The footer names the format too, under its hash: the header must agree.
    match frame::format_of(&text) {
        Some(named) if named == format && header[12..] == [0; 4] => {}
        named => {
            let named = named.unwrap_or_default();
            let what = format!("the header says format {format}, the footer {named}");
            return Err(Fault::Wrong(8, what));
        }
    }
    if format > FORMAT {
        return Err(Fault::NewerFormat(format));
    }
    Ok((text, start))
}

/// The blocks must fill the file up to the footer, and follow each other.
fn check_layout(footer: &Footer, end: u64) -> Result<(), String> {
    let mut offset = HEADER as u64;
    let mut before: Option<&Block> = None;
    for block in &footer.blocks {
        let follows = before
            .map_or((block.first, block.before) == (footer.first, footer.before), |before| {
                block.first > before.first && block.before >= before.before
            });
        if block.offset != offset || !follows || block.size as usize > MOST_BLOCK_BYTES {
            return Err(format!("the block of entry {} does not follow", block.first));
        }
        offset = offset.saturating_add(u64::from(block.length));
        before = Some(block);
    }
    let last = before.map(|block| (block.first, block.before));
    let ends = last.is_some_and(|(first, before)| {
        first <= footer.last.index && before <= footer.index && footer.before < footer.index
    });
    if offset != end || !ends {
        return Err(format!("the blocks end at byte {offset}, the footer begins at {end}"));
    }
    Ok(())
}

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
        damage(&self.path, block.offset, (block.first, block.before.next()), what)
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

fn damage(path: &Path, offset: u64, next: (RaftIndex, Index), what: String) -> LogError {
    let (raft_index, index) = next;
    LogError::Damage(Box::new(Damage { path: path.to_owned(), offset, raft_index, index, what }))
}
