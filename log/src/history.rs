//! Whatever is kept of a log, opened by its path, as one stream of batches.
//!
//! ```text
//! a machine's directory   archive/ │ wal/     the whole of it; only while no machine runs there
//! an archive/, or a copy  archive/            settled history, whether a machine runs or not
//! an exported log         log.jsonl           checked line by line: see `recording`
//! ```
//!
//! Of a directory, only what is certain to be committed is given out.
//!
//! What may change below a reader's feet, and what is done about it:
//!
//! * **Segments** are written, cut off, and used again by the machine that runs there. So its
//!   directory is locked, and refused while it runs; the machine does not start meanwhile.
//! * **Sealed files** never change, and get their names once they are whole. So the archive of
//!   a machine that runs can be read. What is sealed later is not part of it.
//! * **Retention** takes the oldest sealed files away. One that is gone before it was opened
//!   ends the stream with an error: there is never a gap.
//!
//! Deliberately not here: what comes of the batches (`etcd-projections`), and what a running
//! machine has not sealed yet (`etcd-follow` asks it).

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;

use crate::error::LogError;
use crate::files::IoError;
use crate::reader::LogReader;
use crate::recording::{End, RecordingError, RecordingReader};
use crate::types::{Entry, Index, IndexedBatch};

/// How many batches a stream is ahead of its reader. Most have some KiB, those of a machine
/// under load 4 MiB; a single line of a recording may have 32.
const AHEAD: usize = 4;

/// How often the archive of a machine that runs is looked at anew when retention has taken
/// away a file between two looks.
const LOOKS: usize = 5;

/// A log to be read from its first batch that is kept to its last.
#[derive(Debug)]
pub struct History {
    batches: Batches,
}

/// Why a log cannot be read by its path.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A machine runs on the directory.
    #[error("{} is in use: what runs there can be followed, or its archive/ be read", .0.display())]
    InUse(PathBuf),
    /// It is no log.
    #[error("{} holds no log: no wal, no archive, no sealed file", .0.display())]
    Nothing(PathBuf),
    /// A sealed file was there, and is no longer: less history is kept by now.
    #[error("{} is gone: it was dropped while it was read", .0.display())]
    Dropped(PathBuf),
    /// The segments or the sealed files cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The recorded log cannot be read.
    #[error("{}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordingError,
    },
    /// The recorded log breaks off.
    #[error("{}: breaks off after command {last}, without an end", path.display())]
    NoEnd {
        /// The file.
        path: PathBuf,
        /// Its last command.
        last: Index,
    },
}

/// The batches of a log, for callers that may block. It ends after the first error.
#[derive(Debug)]
pub struct Batches {
    source: Source,
    is_over: bool,
}

enum Source {
    Entries(Entries),
    Recorded { path: PathBuf, reader: RecordingReader<BufReader<File>>, needs_end: bool },
}

/// The batches of a directory.
struct Entries {
    log: LogReader,
    settled: Box<dyn Iterator<Item = Result<Arc<Entry>, LogError>> + Send>,
    /// The last command that was passed.
    last: Index,
    /// Held for as long as a machine must not start there.
    _lock: Option<File>,
}

impl History {
    /// Opens a machine's data directory, a copy of one, an `archive` directory or a copy of
    /// it, or an exported log. Changes nothing there. Every byte of the segments is checked
    /// here, and what is sealed or recorded as it is read.
    ///
    /// ```
    /// # let line = r#"{"index":1,"time":"2013-07-11T20:31:07Z","commands":[{"delete":{"key":"/a"}}]}
    /// # {"end":{"index":1,"time":"2013-07-11T20:31:07Z"}}"#;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log.jsonl");
    /// # std::fs::write(&path, line)?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use etcd_log::History;
    /// use tokio_stream::StreamExt as _;
    ///
    /// let mut batches = History::open(&path)?.stream();
    /// while let Some(read) = batches.next().await.transpose()? {
    ///     println!("{} at {}: {:?}", read.index, read.batch.time, read.batch.commands);
    /// #   assert_eq!(read.batch.commands.len(), 1);
    /// }
    /// # Ok::<(), etcd_log::HistoryError>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a machine runs there, if there is no log, or if it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, HistoryError> {
        let path = path.as_ref();
        let source = if path.is_dir() {
            Source::Entries(open_directory(path)?)
        } else {
            let file = File::open(path).map_err(IoError::at("open", path)).map_err(LogError::from);
            let reader = RecordingReader::new(BufReader::new(file?));
            Source::Recorded { path: path.to_owned(), reader, needs_end: true }
        };
        Ok(Self { batches: Batches { source, is_over: false } })
    }

    /// Takes a recorded log without an end as it is: one that was cut off, or made by a
    /// version that wrote none. Otherwise that is its last error.
    pub fn without_end(mut self) -> Self {
        if let Source::Recorded { needs_end, .. } = &mut self.batches.source {
            *needs_end = false;
        }
        self
    }

    /// Streams the batches from a thread of those that may block.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn stream(self) -> ReceiverStream<Result<IndexedBatch, HistoryError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            for batch in self.batches {
                if sender.blocking_send(batch).is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}

impl IntoIterator for History {
    type Item = Result<IndexedBatch, HistoryError>;
    type IntoIter = Batches;

    fn into_iter(self) -> Batches {
        self.batches
    }
}

impl Batches {
    /// Returns the end of a recorded log once it has been read; nothing for a directory, and
    /// for a recording that has none.
    pub fn end(&self) -> Option<End> {
        match &self.source {
            Source::Recorded { reader, .. } => reader.end(),
            Source::Entries(_) => None,
        }
    }

    fn read(&mut self) -> Result<Option<IndexedBatch>, HistoryError> {
        match &mut self.source {
            Source::Entries(entries) => entries.read(),
            Source::Recorded { path, reader, needs_end } => {
                let failed = |source| HistoryError::Recording { path: path.clone(), source };
                let batch = reader.next().transpose().map_err(failed)?;
                if batch.is_none() && *needs_end && reader.end().is_none() {
                    let last = reader.last_command();
                    return Err(HistoryError::NoEnd { path: path.clone(), last });
                }
                Ok(batch)
            }
        }
    }
}

impl Iterator for Batches {
    type Item = Result<IndexedBatch, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

impl Entries {
    /// Opens what is there; and says whether segments of a machine are.
    fn open(wal: &Path, archive: &Path, lock: Option<File>) -> Result<(Self, bool), LogError> {
        let (log, recovered, settled) = LogReader::open_settled(wal, archive)?;
        let last = log.state().oldest.1;
        let settled = Box::new(log.iter(settled));
        Ok((Self { log, settled, last, _lock: lock }, recovered.node.is_some()))
    }

    /// Returns the next entry that carries a batch.
    fn read(&mut self) -> Result<Option<IndexedBatch>, HistoryError> {
        for entry in self.settled.by_ref() {
            let entry = entry.map_err(dropped)?;
            if let Some(batch) = entry.batch() {
                let index = self.last.next();
                self.last = Index(self.last.0 + entry.commands());
                let (entry, batch) = (Some(entry.id.index), Arc::clone(batch));
                return Ok(Some(IndexedBatch { index, entry, batch }));
            }
        }
        Ok(None)
    }
}

/// Opens a machine's directory, or an archive's.
fn open_directory(path: &Path) -> Result<Entries, HistoryError> {
    let (wal, archive) = (path.join("wal"), path.join("archive"));
    if wal.exists() || archive.exists() {
        let (entries, has_segments) = Entries::open(&wal, &archive, lock(path)?)?;
        if !has_segments && path.join("node.json").exists() {
            // Not a copy of an archive, but a machine that has lost its segments.
            return Err(LogError::Missing(wal).into());
        }
        return if has_segments { Ok(entries) } else { something(entries, path) };
    }
    for _ in 1..LOOKS {
        match Entries::open(&wal, path, None) {
            Err(error) if is_gone(&error).is_some() => {}
            opened => return something(opened?.0, path),
        }
    }
    something(Entries::open(&wal, path, None).map_err(dropped)?.0, path)
}

/// Refuses a directory in which there is nothing to read.
fn something(entries: Entries, path: &Path) -> Result<Entries, HistoryError> {
    let is_empty = entries.log.archived().0 == 0;
    if is_empty { Err(HistoryError::Nothing(path.to_owned())) } else { Ok(entries) }
}

/// Keeps a machine from starting on its directory; and refuses it, if one runs there.
fn lock(dir: &Path) -> Result<Option<File>, HistoryError> {
    let path = dir.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        // A copy need not have one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::from(IoError::at("read", &path)(error)).into()),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(HistoryError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => {
            Err(LogError::from(IoError::at("lock", &path)(error)).into())
        }
    }
}

/// Returns the sealed file that is gone, if that is what the error says.
fn is_gone(error: &LogError) -> Option<&Path> {
    match error {
        LogError::Io(IoError { path, source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Some(path)
        }
        _ => None,
    }
}

fn dropped(error: LogError) -> HistoryError {
    match is_gone(&error).map(Path::to_owned) {
        Some(path) => HistoryError::Dropped(path),
        None => error.into(),
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(Entries { log, last, .. }) => {
                f.debug_struct("Entries").field("log", log).field("last", last).finish()
            }
            Self::Recorded { path, .. } => f.debug_tuple("Recorded").field(path).finish(),
        }
    }
}
