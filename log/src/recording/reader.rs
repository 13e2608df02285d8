//! Reading a recorded log one batch at a time, whatever its length.
//!
//! A batch is given out once its line has been found to follow the one before; what comes
//! of its commands, and whether the digests are right, is for whoever folds it to say.

use std::io::{BufRead, Read as _};
use std::sync::Arc;

use super::{End, LINE_BYTES, Part, RecordedBatch, RecordedEnd, RecordedPart, RecordingError};
use crate::types::{Index, IndexedBatch};

/// An iterator over the batches of a recorded log. It ends after the first error.
#[derive(Debug)]
pub struct RecordingReader<R> {
    lines: R,
    text: Vec<u8>,
    /// How many lines have been read.
    line: usize,
    last: Index,
    end: Option<End>,
    is_over: bool,
}

/// What a line holds.
enum Line {
    Batch(RecordedBatch),
    End(End),
    Part(Part),
}

impl<R: BufRead> RecordingReader<R> {
    /// Reads from here on, which is where the recording begins.
    pub fn new(lines: R) -> Self {
        Self { lines, text: Vec::new(), line: 0, last: Index(0), end: None, is_over: false }
    }

    /// Returns the index of the last command so far; zero before the first.
    pub fn last_command(&self) -> Index {
        self.last
    }

    /// Returns the recording's end, once it has been read; nothing, if it has none.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Reads lines up to the next batch; nothing, at the end of the file.
    fn read(&mut self) -> Result<Option<IndexedBatch>, RecordingError> {
        loop {
            self.text.clear();
            self.line += 1;
            // With the end of the line, and one byte that shows that it is too long.
            let most = LINE_BYTES as u64 + 2;
            if (&mut self.lines).take(most).read_until(b'\n', &mut self.text)? == 0 {
                return Ok(None);
            }
            if let Some(batch) = self.take()? {
                return Ok(Some(batch));
            }
        }
    }

    /// Takes in the line that was read. An empty one says nothing.
    fn take(&mut self) -> Result<Option<IndexedBatch>, RecordingError> {
        let (line, last) = (self.line, self.last);
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        if self.end.is_some() {
            return Err(RecordingError::BehindEnd { line });
        }
        if text.len() > LINE_BYTES {
            return Err(RecordingError::TooLong { line, length: text.len() });
        }
        let read = Line::read(text);
        match read.map_err(|source| RecordingError::Unreadable { line, last, source })? {
            Line::Batch(batch) if batch.index != last.next() => {
                let (found, expected) = (batch.index, last.next());
                Err(RecordingError::Gap { line, found, expected })
            }
            Line::Batch(batch) => {
                self.last = Index(last.0 + batch.commands.len() as u64);
                let (index, batch) = (batch.index, Arc::new(batch.into_batch()));
                Ok(Some(IndexedBatch { index, entry: None, batch }))
            }
            Line::Part(Part { from }) => Err(RecordingError::Part { line, from }),
            Line::End(end) if end.index != last => {
                Err(RecordingError::OtherEnd { line, found: end.index, last })
            }
            Line::End(end) => {
                self.end = Some(end);
                Ok(None)
            }
        }
    }
}

impl<R: BufRead> Iterator for RecordingReader<R> {
    type Item = Result<IndexedBatch, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

impl Line {
    fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        // The first word of a batch is enough to see that it is no end.
        match serde_json::from_slice::<RecordedEnd>(text) {
            Ok(RecordedEnd { end }) => Ok(Self::End(end)),
            Err(_) => serde_json::from_slice(text).map(Self::Batch).or_else(|error| {
                let part = serde_json::from_slice(text);
                part.map_or(Err(error), |RecordedPart { part }| Ok(Self::Part(part)))
            }),
        }
    }
}
