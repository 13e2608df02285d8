//! How output looks on a terminal: plain, or in colour.

use std::fmt::{self, Write as _};
use std::io;

use anstyle::{AnsiColor, Style};
use etcd_log::{Index, LogTime};

/// How output looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether it is in colour.
    pub colour: bool,
}

impl Look {
    fn style(self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }

    fn in_colour(self, colour: AnsiColor) -> Style {
        self.style(Style::new().fg_color(Some(colour.into())))
    }

    /// What stands beside what matters.
    pub(super) fn aside(self) -> Style {
        self.style(Style::new().dimmed())
    }

    /// A title.
    pub(super) fn title(self) -> Style {
        self.style(Style::new().bold())
    }

    /// What has come.
    pub(super) fn come(self) -> Style {
        self.in_colour(AnsiColor::Green)
    }

    /// What has gone.
    pub(super) fn gone(self) -> Style {
        self.in_colour(AnsiColor::Red)
    }

    /// What has changed.
    pub(super) fn changed(self) -> Style {
        self.in_colour(AnsiColor::Yellow)
    }

    /// Writes what happened, on one line: the command's index, if it is one; the time; and
    /// the text, whose first word says what it was.
    pub(super) fn line(
        self,
        out: &mut dyn io::Write,
        index: Option<Index>,
        time: LogTime,
        text: &impl fmt::Display,
    ) -> io::Result<()> {
        let index = index.map(|index| index.0.to_string()).unwrap_or_default();
        if !self.colour {
            return writeln!(out, "{index:>8}  {time}  {text}");
        }
        let mut whole = String::new();
        write!(whole, "{text}").map_err(io::Error::other)?;
        let (verb, rest) = whole.split_once(' ').unwrap_or((&whole, ""));
        let (aside, verb_style) = (self.aside(), self.of_verb(verb));
        write!(out, "{index:>8}  {aside}{time}{aside:#}  {verb_style}{verb}{verb_style:#} ")?;
        match rest.rsplit_once(", refused: ") {
            Some((command, why)) => {
                let gone = self.gone();
                writeln!(out, "{command}, {gone}refused: {why}{gone:#}")
            }
            None => writeln!(out, "{rest}"),
        }
    }

    fn of_verb(self, verb: &str) -> Style {
        match verb {
            "set" | "testAndSet" => self.come(),
            "delete" => self.gone(),
            "expire" | "restore" => self.changed(),
            _ => self.title(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(look: Look, text: &str) -> String {
        let mut out = Vec::new();
        look.line(&mut out, Some(Index(7)), LogTime(0), &text).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn colour_changes_no_text() {
        let text = "delete /a, refused: key not found";
        let plain = line(Look { colour: false }, text);
        assert_eq!(plain, format!("       7  1970-01-01T00:00:00.000000000Z  {text}\n"));
        let coloured = line(Look { colour: true }, text);
        assert!(coloured.contains("\u{1b}[31mdelete\u{1b}[0m "), "{coloured:?}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
    }
}
