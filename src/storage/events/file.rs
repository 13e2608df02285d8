//! A file of events: its header, its blocks, and the table of them at its end.
//!
//! What is wrong with a file costs what lies behind: it is cut off where it stops being
//! what was written, and what was cut off comes again from the log.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_log::{ClusterId, IoError, NodeId};
use etcd_projections::Position;
use xxhash_rust::xxh3::xxh3_64;

use super::block::{BlockPlace, HEAD, Head, POSITION, position_at, position_bytes, u32_at, u64_at};
use super::filter::may_hold;
use super::open_files::{NamedFile, OpenFiles};
use super::record::{Interest, Stored};

const MAGIC: &[u8; 8] = b"etcdevts";
const END: &[u8; 8] = b"etcdends";

/// The version of the format.
const FORMAT: u32 = 0;

/// How long a file's own header is.
pub(super) const HEADER: usize = 56;

/// How long the part behind the table is.
const TRAILER: usize = 4 + 8 + 8;

/// How long a block's line in the table is.
const LINE: usize = 16 + 2 * POSITION;

/// A file of events. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct EventFile {
    file: Arc<NamedFile>,
}

/// What a file was found to hold.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: EventFile,
    /// The position before the first block.
    pub(super) before: Position,
    pub(super) blocks: Vec<BlockPlace>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is not what was written.
    #[error("{}: byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// Returns a path for a file that begins at a position: of its own, for whoever reads one that
/// was there before goes on with that.
fn path(dir: &Path, before: Position) -> PathBuf {
    let Position { index, event, .. } = before;
    dir.join(format!("{:020}-{}-{:016x}.events", index.0, event.0, NodeId::random().0))
}

impl EventFile {
    /// Begins a file for the outcomes behind a position.
    pub(super) fn create(
        dir: &Path,
        open_files: &OpenFiles,
        cluster: ClusterId,
        before: Position,
    ) -> Result<Self, IoError> {
        let file = open_files.named(&path(dir, before));
        file.create().map_err(IoError::at("create", file.path()))?;
        let file = Self { file };
        match file.write(&header(cluster, before), 0) {
            Ok(()) => Ok(file),
            Err(error) => {
                // Half of one is nobody's. If it stays, the next start removes it.
                let _removed = file.remove();
                Err(error)
            }
        }
    }

    /// Opens a file of a cluster, and finds its blocks: by its table, or by looking
    /// through it, up to where it stops being what was written.
    pub(super) fn open(
        path: &Path,
        open_files: &OpenFiles,
        cluster: ClusterId,
    ) -> Result<Found, FileFault> {
        let file = Self { file: open_files.named(path) };
        let length = file.length()?;
        let start = file.read(0, HEADER.min(usize::try_from(length).unwrap_or(HEADER)))?;
        let before = check_header(&start, cluster).map_err(|what| file.damaged(0, what))?;
        let blocks = match file.table(length, before)? {
            Some(blocks) => blocks,
            None => file.look_through(length, before)?,
        };
        Ok(Found { file, before, blocks })
    }

    /// Returns whether two handles are of the same file.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    fn opened(&self) -> Result<Arc<File>, IoError> {
        self.file.open().map_err(IoError::at("open", self.path()))
    }

    /// Writes bytes at an offset.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        let written = self.opened()?.write_all_at(bytes, offset);
        written.map_err(IoError::at("write", self.path()))
    }

    /// Writes the table behind the blocks: nothing will be added.
    pub(super) fn close(&self, blocks: &[BlockPlace]) -> Result<(), IoError> {
        let end = end_of(blocks);
        let table = table_bytes(blocks);
        self.write(&table, end)?;
        self.cut(end + table.len() as u64)
    }

    /// Cuts off what lies behind an offset.
    pub(super) fn cut(&self, length: u64) -> Result<(), IoError> {
        self.opened()?.set_len(length).map_err(IoError::at("cut", self.path()))
    }

    /// Takes the file away.
    pub(super) fn remove(&self) -> Result<(), IoError> {
        fs::remove_file(self.path()).map_err(IoError::at("remove", self.path()))
    }

    /// Reads what is of interest from a block, each outcome with the position before it.
    /// Nothing, if the filter says that there is nothing.
    pub(super) fn outcomes(
        &self,
        place: &BlockPlace,
        interest: &Interest,
    ) -> Result<Vec<(Position, Stored)>, FileFault> {
        let wrong = |what| self.damaged(place.offset, what);
        let bytes = self.read(place.offset, place.head_length())?;
        let head = Head::check(&bytes, place.offset).map_err(wrong)?;
        if head.place != *place {
            return Err(wrong(format!("block ends at {:?}", head.place.after)));
        }
        match interest {
            Interest::Below(key) if !may_hold(&bytes[HEAD..], key) => return Ok(Vec::new()),
            Interest::Below(_) | Interest::All => {}
        }
        let length = place.length as usize - place.head_length();
        let body = self.read(place.offset + place.head_length() as u64, length)?;
        head.decode(&body, interest).map_err(wrong)
    }

    fn damaged(&self, offset: u64, what: String) -> FileFault {
        FileFault::Damaged { path: self.path().to_owned(), offset, what }
    }

    fn length(&self) -> Result<u64, IoError> {
        let metadata = self.opened()?.metadata().map_err(IoError::at("read", self.path()))?;
        Ok(metadata.len())
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, IoError> {
        let mut bytes = vec![0; length];
        let read = self.opened()?.read_exact_at(&mut bytes, offset);
        read.map_err(IoError::at("read", self.path()))?;
        Ok(bytes)
    }

    /// Reads the table at the end; nothing, if there is none that is right.
    fn table(&self, length: u64, before: Position) -> Result<Option<Vec<BlockPlace>>, IoError> {
        let Some(trailer_at) = length.checked_sub(TRAILER as u64) else { return Ok(None) };
        let trailer = self.read(trailer_at, TRAILER)?;
        let bytes = u64::from(u32_at(&trailer, 0)) * LINE as u64;
        let start = trailer_at.checked_sub(bytes).filter(|start| *start >= HEADER as u64);
        let Some(start) = start.filter(|_| trailer[12..] == *END) else { return Ok(None) };
        let table = self.read(start, usize::try_from(bytes).expect("no longer than the file"))?;
        let blocks: Vec<_> = table.chunks_exact(LINE).map(read_line).collect();
        let is_right = xxh3_64(&table) == u64_at(&trailer, 4)
            && follow(&blocks, before)
            && end_of(&blocks) == start;
        Ok(is_right.then_some(blocks))
    }

    /// Finds the blocks of a file without a table, and cuts off what is none.
    fn look_through(&self, length: u64, before: Position) -> Result<Vec<BlockPlace>, IoError> {
        let mut blocks: Vec<BlockPlace> = Vec::new();
        loop {
            let offset = end_of(&blocks);
            let after = blocks.last().map_or(before, |block| block.after);
            match self.block_at(offset, length)? {
                Some(block) if block.before == after => blocks.push(block),
                Some(_) | None => break,
            }
        }
        self.cut(end_of(&blocks))?;
        Ok(blocks)
    }

    /// Reads and checks the block at an offset; nothing, if there is none.
    fn block_at(&self, offset: u64, end: u64) -> Result<Option<BlockPlace>, IoError> {
        let fits = |bytes: usize| offset + bytes as u64 <= end;
        if !fits(HEAD) {
            return Ok(None);
        }
        let head = self.read(offset, HEAD)?;
        let head = Head::read(head.first_chunk().expect("as many were read"), offset);
        let Some(place) = head.ok().map(|head| head.place) else { return Ok(None) };
        if !fits(place.length as usize) {
            return Ok(None);
        }
        let bytes = self.read(offset, place.length as usize)?;
        let (head, body) = bytes.split_at(place.head_length());
        let head = Head::check(head, offset);
        Ok(head.and_then(|head| head.check_body(body).map(|()| head.place)).ok())
    }
}

/// Returns where the next block goes.
pub(super) fn end_of(blocks: &[BlockPlace]) -> u64 {
    blocks.last().map_or(HEADER as u64, |block| block.offset + u64::from(block.length))
}

fn header(cluster: ClusterId, before: Position) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&cluster.0.to_le_bytes());
    header[24..48].copy_from_slice(&position_bytes(before));
    let sum = xxh3_64(&header[..48]);
    header[48..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Returns at which position a file begins. Fails with what is wrong with its header.
fn check_header(header: &[u8], cluster: ClusterId) -> Result<Position, String> {
    if header.len() < HEADER || header[..8] != *MAGIC {
        return Err("file does not begin as one of events".to_owned());
    }
    if u64_at(header, 48) != xxh3_64(&header[..48]) {
        return Err("header has another sum".to_owned());
    }
    let (format, found) = (u32_at(header, 8), ClusterId(u64_at(header, 16)));
    if format != FORMAT {
        return Err(format!("format is {format}, this version knows {FORMAT}"));
    }
    if found != cluster {
        return Err(format!("file is of cluster {found}, this is {cluster}"));
    }
    Ok(position_at(header, 24))
}

fn table_bytes(blocks: &[BlockPlace]) -> Vec<u8> {
    let mut table = Vec::with_capacity(blocks.len() * LINE + TRAILER);
    for block in blocks {
        table.extend_from_slice(&block.offset.to_le_bytes());
        table.extend_from_slice(&block.length.to_le_bytes());
        table.extend_from_slice(&block.filter.to_le_bytes());
        table.extend_from_slice(&position_bytes(block.before));
        table.extend_from_slice(&position_bytes(block.after));
    }
    let sum = xxh3_64(&table);
    let count = u32::try_from(blocks.len()).expect("a file is short");
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&sum.to_le_bytes());
    table.extend_from_slice(END);
    table
}

fn read_line(line: &[u8]) -> BlockPlace {
    BlockPlace {
        offset: u64_at(line, 0),
        length: u32_at(line, 8),
        filter: u32_at(line, 12),
        before: position_at(line, 16),
        after: position_at(line, 16 + POSITION),
    }
}

/// Returns whether blocks follow each other, in the file and in history.
fn follow(blocks: &[BlockPlace], before: Position) -> bool {
    let mut next = (HEADER as u64, before);
    blocks.iter().all(|block| {
        let follows = (block.offset, block.before) == next && block.before < block.after;
        next = (block.offset.saturating_add(u64::from(block.length)), block.after);
        follows && block.head_length() < block.length as usize
    })
}
