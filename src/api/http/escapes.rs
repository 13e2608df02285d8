//! How text is escaped in JSON: as Go's `encoding/json` did it in 2013.
//!
//! The bytes of the first etcd's answers are a part of the contract. Go wrote as
//! `\u00XX` what a browser could take for markup (`<`, `>`, `&`), and of the control
//! characters all but `\n` and `\r`, where serde has short forms for a few more; and
//! U+2028 and U+2029, which end a line of JavaScript. Any JSON parser reads the same
//! text out of either.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// Writes a value as one line of JSON.
///
/// # Panics
///
/// If the value cannot be written as JSON. Plain data can.
pub(in crate::api) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    let mut serializer = Serializer::with_formatter(&mut line, AsGoDid);
    value.serialize(&mut serializer).expect("a line is plain data");
    line
}

struct AsGoDid;

impl Formatter for AsGoDid {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !needs_a_look(fragment.as_bytes()) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut written = 0;
        for (at, text) in fragment.match_indices(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&fragment.as_bytes()[written..at])?;
            let code = text.chars().next().map_or(0, u32::from);
            write!(writer, "\\u{code:04x}")?;
            written = at + text.len();
        }
        writer.write_all(&fragment.as_bytes()[written..])
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(br#"\""#),
            CharEscape::ReverseSolidus => writer.write_all(br"\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::LineFeed => writer.write_all(br"\n"),
            CharEscape::CarriageReturn => writer.write_all(br"\r"),
            CharEscape::Backspace => writer.write_all(br"\u0008"),
            CharEscape::Tab => writer.write_all(br"\u0009"),
            CharEscape::FormFeed => writer.write_all(br"\u000c"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }
}

/// Returns whether there may be something to escape. Looks at all bytes whatever it
/// finds: so it goes over many at a time, and values are long.
fn needs_a_look(bytes: &[u8]) -> bool {
    // The two separators, and nothing else that is common in Europe, begin with E2.
    bytes.iter().fold(false, |found, byte| found | matches!(byte, b'<' | b'>' | b'&' | 0xE2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        String::from_utf8(to_vec(&text)).unwrap()
    }

    #[test]
    fn markup_and_line_separators_are_escaped() {
        assert_eq!(json("<a&b>"), r#""\u003ca\u0026b\u003e""#);
        assert_eq!(json("x\u{2028}y\u{2029}"), r#""x\u2028y\u2029""#);
        // They begin as the separators do.
        assert_eq!(json("\u{2027}\u{202a} – €"), "\"\u{2027}\u{202a} – €\"");
    }

    #[test]
    fn control_characters_have_no_short_forms_but_two() {
        assert_eq!(json("\n\r"), r#""\n\r""#);
        assert_eq!(json("\t\u{8}\u{c}\0\u{1f}"), r#""\u0009\u0008\u000c\u0000\u001f""#);
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        assert_eq!(json("a/'ä🗝\u{7f}"), "\"a/'ä🗝\u{7f}\"");
        assert_eq!(json(r#"say "a\b""#), r#""say \"a\\b\"""#);
    }

    #[test]
    fn every_character_is_read_back_as_it_was() {
        let text: String = ('\0'..'\u{3000}').collect();
        assert_eq!(serde_json::from_slice::<String>(&to_vec(&text)).unwrap(), text);
    }
}
