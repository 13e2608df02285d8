//! Text from elsewhere, on a line of ours: a key, a name, an address, or an error that
//! quotes one.
//!
//! ```text
//! /a⏎       9  2026-11-22…  set /b = "x"    one key, which would pass for two lines
//! /a\n       9  2026-11-22…  set /b = "x"   what is shown of it
//! ```
//!
//! What a terminal would act on, or what would be read otherwise than it is written,
//! is shown as an escape: control characters, line and paragraph separators, marks
//! that turn the direction of text, marks that hide in the character before.

use std::fmt::{self, Write};

/// Shows something without what a terminal would act on.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Passes text on without what a terminal would act on.
pub(crate) struct Escaping<W>(pub(crate) W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, found)) = rest.char_indices().find(|(_, found)| !is_printable(*found)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", found.escape_debug())?;
            rest = &rest[at + found.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Returns whether a character stands for itself on a terminal.
pub(crate) fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // The standard library knows what is printable, and asks this of `Debug` only.
        other => other.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        for (text, shown) in [
            ("a\nb\r\t\0", r"a\nb\r\t\0"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("\u{7f}\u{85}\u{9b}31m", r"\u{7f}\u{85}\u{9b}31m"),
            (
                "\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}",
                r"\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}",
            ),
            ("\u{feff}\u{e0001}\u{301}", r"\u{feff}\u{e0001}\u{301}"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_printable_stays_as_it_is() {
        for text in ["", "it's \"a\" \\ b", "Grüße, мир, 世界, 🦀"] {
            assert_eq!(Printable(text).to_string(), text);
        }
    }
}
