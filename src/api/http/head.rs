//! The head of a request, looked at before hyper reads it.
//!
//! hyper takes what a careful server refuses: a request without a `Host`, lines that
//! end with a bare LF, `Transfer-Encoding: gzip, chunked`, a length beside chunks. Of
//! these each may be read in two ways, and where two programs on the way differ, one
//! request can be smuggled in another. What else hyper refuses, it refuses without a
//! word.
//!
//! This is no parser: it looks at the ends of lines, the version, and three fields, and
//! says how long the request is. Whether names, values and the target are well-formed
//! is for hyper alone to say.

/// The longest head of a request, in bytes.
pub(in crate::api) const HEAD_BYTES: usize = 16 << 10;

/// The most fields in a head: more, and hyper refuses it.
const MOST_FIELDS: usize = 100;

/// A head that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Head {
    /// Its length, in bytes.
    pub(in crate::api) length: usize,
    /// What follows it.
    pub(in crate::api) body: Body,
}

/// The body of a request, as its head announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Body {
    /// So many bytes.
    Bytes(u64),
    /// Chunks, up to an empty one.
    Chunks,
}

/// Why a request is refused before it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no request, or of a form that this program does not read.
    Malformed,
    /// It does not say which host it is for, or says so twice.
    Host,
    /// A line of its head ends with LF alone.
    BareLineFeed,
    /// Its length is not one number.
    Length,
    /// Its body is coded in another way than in chunks.
    Coding,
    /// It has both a length and chunks.
    LengthAndCoding,
    /// It is of a version of HTTP that is not spoken here.
    Version,
    /// Its head is too long, or has too many fields.
    TooLarge,
    /// Its head did not come in time.
    Slow,
}

/// Looks at what has come of a head: it may be whole, or in order so far.
///
/// # Errors
///
/// If the request is to be refused, whatever else may come.
pub(in crate::api) fn judge(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    // Some clients send an empty line behind a body.
    let mut at = bytes.chunks_exact(2).take_while(|line| line == b"\r\n").count() * 2;
    let method = bytes[at..].split(|byte| b" \r\n".contains(byte)).next().unwrap_or_default();
    if bytes.get(at) == Some(&b' ') || !method.iter().all(u8::is_ascii_graphic) {
        // Such as the greeting of TLS, or of another machine, which may have no line at all.
        return Err(Refusal::Malformed);
    }
    let mut fields: Option<Fields> = None;
    loop {
        let Some(length) = memchr::memchr(b'\n', &bytes[at..]) else {
            return if bytes.len() < HEAD_BYTES { Ok(None) } else { Err(Refusal::TooLarge) };
        };
        let line = bytes[at..at + length].strip_suffix(b"\r").ok_or(Refusal::BareLineFeed)?;
        at += length + 1;
        if at > HEAD_BYTES {
            return Err(Refusal::TooLarge);
        }
        match &mut fields {
            None => fields = Some(Fields::below(line)?),
            Some(fields) if line.is_empty() => {
                return Ok(Some(Head { length: at, body: fields.body()? }));
            }
            Some(fields) => fields.add(line)?,
        }
    }
}

/// What the fields of a head have said so far.
#[derive(Debug, Default)]
struct Fields {
    /// Whether the request is of HTTP/1.1, and not of 1.0.
    is_1_1: bool,
    count: usize,
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
}

impl Fields {
    /// Begins with the line that stands above all fields.
    fn below(request_line: &[u8]) -> Result<Self, Refusal> {
        let version = request_line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        match version {
            b"HTTP/1.1" => Ok(Self { is_1_1: true, ..Self::default() }),
            b"HTTP/1.0" => Ok(Self::default()),
            // Not least the preface of HTTP/2: `PRI * HTTP/2.0`.
            _ if version.starts_with(b"HTTP/") => Err(Refusal::Version),
            _ => Err(Refusal::Malformed),
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MOST_FIELDS {
            return Err(Refusal::TooLarge);
        }
        if value_of(line, b"host").is_some() {
            self.hosts += 1;
        } else if let Some(value) = value_of(line, b"content-length") {
            let is_first = self.length.is_none();
            self.length = number(value).filter(|_| is_first);
            self.length.ok_or(Refusal::Length)?;
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            if self.is_chunked || !self.is_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Coding);
            }
            self.is_chunked = true;
        }
        Ok(())
    }

    /// Returns what follows the head, now that all of it has been seen.
    fn body(&self) -> Result<Body, Refusal> {
        if self.hosts > 1 || (self.is_1_1 && self.hosts == 0) {
            return Err(Refusal::Host);
        }
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Refusal::LengthAndCoding),
            (None, true) => Ok(Body::Chunks),
            (length, false) => Ok(Body::Bytes(length.unwrap_or(0))),
        }
    }
}

/// Returns the value of a field, if a line is one of this name.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    if !found.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// Reads a number: digits only, where `parse` would take a plus sign as well.
pub(in crate::api) fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::fuzz::fuzz;

    /// What is let in or refused stays so, whatever else comes; and where hyper's own parser
    /// finds a whole head in what is let in, it ends in the same place.
    #[test]
    fn fuzzed_heads_are_judged_for_good() {
        let good = [
            "GET /v1/keys/a?stale=true HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
            "PUT / HTTP/1.1\r\nhost: x\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\nvalue=abcdef",
            "POST / HTTP/1.1\r\nhost:\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n",
            "\r\nGET / HTTP/1.0\r\n\r\n",
        ];
        let words = [
            "\r\n",
            "\n",
            "\r",
            " ",
            "\t",
            ":",
            "\0",
            "Host: y\r\n",
            "Content-Length: 5\r\n",
            "Content-Length:",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "HTTP/1.1",
            "HTTP/2.0",
            "\r\n\r\n",
        ];
        fuzz(&good, &words, |bytes| {
            let whole = judge(bytes);
            for length in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
                match judge(&bytes[..length]) {
                    Ok(None) => {}
                    judged => assert_eq!(judged, whole, "at {length}"),
                }
            }
            let Ok(Some(head)) = whole else { return };
            let mut fields = [httparse::EMPTY_HEADER; 2 * MOST_FIELDS];
            let mut request = httparse::Request::new(&mut fields);
            if let Ok(httparse::Status::Complete(length)) = request.parse(bytes) {
                assert_eq!(head.length, length);
                let named = |name: &str| {
                    let is_named =
                        move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
                    request.headers.iter().filter(is_named).count()
                };
                assert!(named("host") <= 1 && named("content-length") <= 1);
                let is_chunked = named("transfer-encoding") == 1;
                assert_eq!(is_chunked, head.body == Body::Chunks);
            }
        });
    }

    const START: &str = "GET / HTTP/1.1\r\nHost: x\r\n";

    fn judge_text(text: &str) -> Result<Option<Head>, Refusal> {
        judge(text.as_bytes())
    }

    fn whole(length: usize, body: Body) -> Head {
        Head { length, body }
    }

    #[test]
    fn whole_head_says_what_follows() {
        let head = "PUT / HTTP/1.1\r\nHost:\r\nContent-Length: 12 \r\n\r\n";
        assert_eq!(judge_text(head), Ok(Some(whole(head.len(), Body::Bytes(12)))));
        assert_eq!(
            judge_text(&format!("{head}value=a b\nc")),
            Ok(Some(whole(head.len(), Body::Bytes(12))))
        );
        let head = "PUT / HTTP/1.1\r\ntransfer-encoding:\tChunked\r\nHOST: x\r\n\r\n";
        assert_eq!(judge_text(head), Ok(Some(whole(head.len(), Body::Chunks))));
        let head = "\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        assert_eq!(judge_text(head), Ok(Some(whole(head.len(), Body::Bytes(0)))));
        let head = format!("{START}Hostess: y\r\nContent-Lengths: z\r\n\r\n");
        assert_eq!(judge_text(&head), Ok(Some(whole(head.len(), Body::Bytes(0)))));
    }

    #[test]
    fn head_cut_short_anywhere_is_in_order_so_far() {
        let head = "\r\nPUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(judge_text(&head[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (fields, refusal) in [
            ("Host: x\r\n", Refusal::Host),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Refusal::Length),
            ("Content-Length: 1, 1\r\n", Refusal::Length),
            ("Content-Length: +1\r\n", Refusal::Length),
            ("Content-Length:\r\n", Refusal::Length),
            ("Content-Length: 18446744073709551616\r\n", Refusal::Length),
            ("Transfer-Encoding: gzip, chunked\r\n", Refusal::Coding),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Refusal::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refusal::Coding),
            ("Transfer-Encoding: \u{b}chunked\r\n", Refusal::Coding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Refusal::LengthAndCoding),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Refusal::LengthAndCoding),
            ("X: y\n", Refusal::BareLineFeed),
            ("\n", Refusal::BareLineFeed),
        ] {
            assert_eq!(judge_text(&format!("{START}{fields}\r\n")), Err(refusal), "{fields}");
        }
        assert_eq!(judge_text("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::Host));
        assert_eq!(judge_text("GET / HTTP/1.1\n"), Err(Refusal::BareLineFeed));
        assert_eq!(judge_text("\nGET / HTTP/1.1\r\n"), Err(Refusal::BareLineFeed));
        let coded = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(judge_text(coded), Err(Refusal::Coding));
    }

    #[test]
    fn other_versions_and_other_protocols_are_told_apart() {
        assert_eq!(judge_text("PRI * HTTP/2.0\r\n"), Err(Refusal::Version));
        assert_eq!(judge_text("GET / HTTP/1.2\r\n"), Err(Refusal::Version));
        for text in [
            "GET /\r\n",
            "nonsense\r\n",
            "\u{16}\u{3}\u{1}",
            "\r\n\0",
            " GET / HTTP/1.1",
            "etcd\u{1}",
        ] {
            assert_eq!(judge_text(text), Err(Refusal::Malformed), "{text:?}");
        }
    }

    #[test]
    fn head_may_be_as_long_as_it_says_here() {
        let padded = |length: usize| {
            let rest = length - START.len() - "X: \r\n\r\n".len();
            format!("{START}X: {}\r\n\r\n", "x".repeat(rest))
        };
        assert_eq!(judge_text(&padded(HEAD_BYTES)), Ok(Some(whole(HEAD_BYTES, Body::Bytes(0)))));
        assert_eq!(judge_text(&padded(HEAD_BYTES + 1)), Err(Refusal::TooLarge));
        assert_eq!(judge_text(&padded(HEAD_BYTES + 9)[..HEAD_BYTES]), Err(Refusal::TooLarge));
        assert_eq!(judge_text(&format!("{START}{}\r\n", "X:\r\n".repeat(99))).map(|_| ()), Ok(()));
        let many = format!("{START}{}\r\n", "X:\r\n".repeat(100));
        assert_eq!(judge_text(&many), Err(Refusal::TooLarge));
    }
}
