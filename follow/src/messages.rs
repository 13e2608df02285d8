//! Server-sent events out of bytes that come in any pieces.
//!
//! ```text
//! id: 7\ndata: {…}\n\n      a message, which counts from its empty line on
//! :\n\n                     a sign of life
//! :\nid: 39\n\n             another, and all that is wanted was given up to there
//! id: 8\ndata: {…           nothing yet, and nothing ever if the connection ends here
//! ```

use std::collections::VecDeque;

use etcd_log::EventNumber;

use crate::error::Fault;

/// The longest line. Two values of 1 MiB grow sixfold at worst when JSON escapes all of them.
const LINE_BYTES: usize = 16 << 20;

/// Something that was said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A message, and which event it says it is.
    Event { id: EventNumber, data: Vec<u8> },
    /// All events that are wanted were given up to this one, which may be none of them.
    Seen(EventNumber),
    /// A sign of life.
    Comment,
}

/// Puts messages together.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// The line that is not at its end yet.
    line: Vec<u8>,
    id: Option<EventNumber>,
    data: Option<Vec<u8>>,
    whole: VecDeque<Message>,
}

impl Messages {
    /// Returns the next message that is whole.
    pub(crate) fn next(&mut self) -> Option<Message> {
        self.whole.pop_front()
    }

    /// Takes in what has come.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            let line = std::mem::take(&mut self.line);
            self.take_line(line.strip_suffix(b"\r").unwrap_or(&line))?;
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > LINE_BYTES {
            return Err(Fault::Unreadable(format!("a line has more than {LINE_BYTES} bytes")));
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => {
                self.whole.push_back(Message::Comment);
                return Ok(());
            }
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" => self.end_message()?,
            b"id" => self.id = Some(number(value)?),
            b"data" if self.data.is_none() => self.data = Some(value.to_vec()),
            b"data" => return Err(Fault::Unreadable("two lines in one message".to_owned())),
            // The standard has it that others are passed over.
            _ => {}
        }
        Ok(())
    }

    fn end_message(&mut self) -> Result<(), Fault> {
        match (self.id.take(), self.data.take()) {
            (Some(id), Some(data)) => self.whole.push_back(Message::Event { id, data }),
            // The empty line behind a sign of life.
            (None, None) => {}
            (None, Some(_)) => return Err(Fault::Unreadable("a message has no id".to_owned())),
            (Some(id), None) => self.whole.push_back(Message::Seen(id)),
        }
        Ok(())
    }
}

fn number(text: &[u8]) -> Result<EventNumber, Fault> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let wrong = || Fault::Unreadable(format!("id {}", text.escape_ascii()));
    number.map(EventNumber).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] =
        b":\n\nid: 7\ndata: {\"a\":1}\n\n:\nid: 39\n\nid:40\r\nevent: x\r\ndata:b\r\n\r\n";

    fn event(id: u64, data: &str) -> Message {
        Message::Event { id: EventNumber(id), data: data.as_bytes().to_vec() }
    }

    fn all(pieces: &[&[u8]]) -> Result<Vec<Message>, Fault> {
        let mut messages = Messages::default();
        pieces.iter().try_for_each(|piece| messages.feed(piece))?;
        Ok(std::iter::from_fn(|| messages.next()).collect())
    }

    #[test]
    fn message_counts_from_its_empty_line_on() {
        let (alive, seen) = (Message::Comment, Message::Seen(EventNumber(39)));
        let whole = [Message::Comment, event(7, "{\"a\":1}"), alive, seen, event(40, "b")];
        for cut in 0..=TEXT.len() {
            let (first, second) = TEXT.split_at(cut);
            assert_eq!(all(&[first, second]).unwrap(), whole);
            let count = all(&[first]).unwrap().len();
            assert_eq!(all(&[first]).unwrap(), whole[..count]);
        }
        assert_eq!(all(&[&TEXT[..TEXT.len() - 2]]).unwrap().len(), 4);
    }

    #[test]
    fn what_no_machine_says_is_refused() {
        for text in ["id: x\n", "data: a\n\n", "id: 7\ndata: a\ndata: b\n\n"] {
            assert!(all(&[text.as_bytes()]).is_err(), "{text:?}");
        }
        assert!(all(&[&vec![b'x'; LINE_BYTES + 1]]).is_err());
    }

    proptest! {
        /// Whatever the bytes, reading them does not panic.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _judged = all(&[&bytes]);
        }
    }
}
