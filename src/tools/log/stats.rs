//! `etcd log stats`: how much of what a log holds, and when it came.
//!
//! ```text
//! commands: 4211, 12 of them refused; set 4000, delete 150, testAndSet 61
//! events:   4230, 31 of them expiries
//! …
//! 2026-11-22T12:30:00Z  ████████▌ 512
//! 2026-11-22T12:31:00Z  █▎ 77
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use chrono::SecondsFormat;
use etcd_log::{KeyPath, LogTime, Payload};
use etcd_projections::What;
use serde::Serialize;

use super::ToolError;
use super::action::Action;
use super::look::Look;
use super::progress::Progress;
use super::show::{Told, told};
use super::source::{LogPath, Source};
use super::text::write_json;
use crate::util::printable::Printable;

/// How many keys and directories are named.
const BUSIEST: usize = 10;

/// How many spans of time there are at most in the chart.
const MOST_SPANS: usize = 24;

/// How wide the longest bar is, in characters.
const BAR_WIDTH: u64 = 50;

/// What a log holds, in numbers.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    commands: u64,
    refused: u64,
    events: u64,
    expired: u64,
    /// About how many bytes all commands take as they are written.
    bytes: u64,
    /// The logged time at the first command, and at the last one.
    first: LogTime,
    last: LogTime,
    by_action: BTreeMap<&'static str, u64>,
    busiest_keys: Vec<Busy>,
    busiest_directories: Vec<Busy>,
    rate: Rate,
    #[serde(skip)]
    by_key: HashMap<String, u64>,
    #[serde(skip)]
    by_directory: HashMap<String, u64>,
}

/// A key or a directory, and how many commands and expiries concerned it.
#[derive(Debug, Serialize)]
struct Busy {
    key: String,
    count: u64,
}

/// How many commands came in each span of time. Spans double as the log goes on, so that
/// there are never more than so many.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    /// Where the first span begins.
    from: LogTime,
    /// How long each is.
    seconds: u64,
    commands: Vec<u64>,
}

/// Counts what a log holds, and prints it as text or as a line of JSON.
///
/// # Errors
///
/// If the log cannot be read, or the output not be written.
pub fn stats(
    from: &LogPath,
    (json, look): (bool, Look),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let source = Source::open(from)?;
    let mut walk = source.walk(1)?.shown(Progress::of("stats", &source));
    let (mut stats, mut before) = (Stats::default(), walk.position());
    while let Some(step) = walk.next(None)? {
        if let Payload::Batch(batch) = &step.payload {
            told(batch, before, &step.outcomes).for_each(|told| stats.take(&told));
        }
        before = walk.position();
    }
    if stats.commands == 0 {
        return Err(ToolError::Nothing(source.path().to_owned()));
    }
    stats.busiest_keys = busiest(&stats.by_key);
    stats.busiest_directories = busiest(&stats.by_directory);
    if json { write_json(out, &stats) } else { stats.print(look, out) }
}

impl Stats {
    fn take(&mut self, told: &Told<'_>) {
        let key = told.key.as_ref().map(KeyPath::as_str);
        self.count_outcome(told);
        if let (Some(command), Some(action)) = (told.command, told.action) {
            self.count(told.outcome.position.time, action, command.written_size() as u64);
            self.count_key(key);
        } else if told.action == Some(Action::Expire) {
            self.expired += 1;
            self.count_key(key);
        }
    }

    fn count_outcome(&mut self, told: &Told<'_>) {
        match &told.outcome.what {
            What::Event(_) => self.events += 1,
            What::Rejection(_) => self.refused += 1,
            What::Tick => {}
        }
    }

    fn count(&mut self, time: LogTime, action: Action, bytes: u64) {
        if self.commands == 0 {
            (self.first, self.rate.from) = (time, time);
        }
        self.last = time;
        self.commands += 1;
        self.bytes += bytes;
        *self.by_action.entry(action.name()).or_default() += 1;
        self.rate.count(time);
    }

    fn count_key(&mut self, key: Option<&str>) {
        let Some((directory, _)) = key.and_then(|key| key.rsplit_once('/')) else { return };
        *self.by_directory.entry(format!("{directory}/")).or_default() += 1;
        *self.by_key.entry(key.unwrap_or_default().to_owned()).or_default() += 1;
    }

    fn print(&self, look: Look, out: &mut dyn Write) -> Result<(), ToolError> {
        let title = look.title();
        let kinds: Vec<_> =
            self.by_action.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let Self { commands, refused, events, expired, bytes, first, last, .. } = self;
        writeln!(out, "commands: {commands}, {refused} of them refused; {}", kinds.join(", "))?;
        writeln!(out, "events:   {events}, {expired} of them expiries")?;
        writeln!(out, "bytes:    {bytes}, about, as they are written")?;
        writeln!(out, "time:     {first} to {last}")?;
        for (what, busiest) in
            [("keys", &self.busiest_keys), ("directories", &self.busiest_directories)]
        {
            writeln!(out, "{title}busiest {what}:{title:#}")?;
            for Busy { key, count } in busiest {
                writeln!(out, "{count:>8}  {}", Printable(key))?;
            }
        }
        self.rate.print(look, out)
    }
}

/// Returns those with the most, and among equals in the order of their names.
fn busiest(counts: &HashMap<String, u64>) -> Vec<Busy> {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(key, count)| (Reverse(**count), *key));
    let busy = |(key, count): (&String, &u64)| Busy { key: key.clone(), count: *count };
    sorted.into_iter().take(BUSIEST).map(busy).collect()
}

impl Default for Rate {
    fn default() -> Self {
        Self { from: LogTime(0), seconds: 1, commands: Vec::new() }
    }
}

impl Rate {
    fn count(&mut self, time: LogTime) {
        let seconds = time.0.saturating_sub(self.from.0) / 1_000_000_000;
        while seconds / self.seconds >= MOST_SPANS as u64 {
            self.commands = self.commands.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.seconds *= 2;
        }
        let span = usize::try_from(seconds / self.seconds).unwrap_or(MOST_SPANS - 1);
        if self.commands.len() <= span {
            self.commands.resize(span + 1, 0);
        }
        self.commands[span] += 1;
    }

    fn print(&self, look: Look, out: &mut dyn Write) -> Result<(), ToolError> {
        let (title, come) = (look.title(), look.come());
        let most = self.commands.iter().copied().max().unwrap_or_default().max(1);
        writeln!(out, "{title}commands in each {} s:{title:#}", self.seconds)?;
        for (at, count) in (0..).zip(&self.commands) {
            let begins = self.from.plus_seconds(at * self.seconds).to_utc();
            let begins = begins.to_rfc3339_opts(SecondsFormat::Secs, true);
            writeln!(out, "  {begins}  {come}{}{come:#} {count}", bar(*count, most))?;
        }
        Ok(())
    }
}

/// Returns a bar as long as its part of the most, to an eighth of a character.
fn bar(count: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = u128::from(count) * u128::from(BAR_WIDTH) * 8 / u128::from(most);
    let eighths = usize::try_from(eighths).unwrap_or_default();
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_double_and_lose_nothing() {
        let mut rate = Rate::default();
        for second in [0, 1, 1, 23, 24, 1000, 1000, 100_000] {
            rate.count(LogTime(0).plus_seconds(second));
            assert!(rate.commands.len() <= MOST_SPANS, "{rate:?}");
        }
        assert_eq!(rate.commands.iter().sum::<u64>(), 8);
        assert_eq!((rate.seconds, rate.commands.last()), (8192, Some(&1)));
    }

    #[test]
    fn bar_is_as_long_as_its_part() {
        assert_eq!((&*bar(0, 7), &*bar(1, 400)), ("", "▏"));
        assert_eq!(bar(3, 3).chars().count() as u64, BAR_WIDTH);
        assert_eq!(bar(u64::MAX, u64::MAX), bar(1, 1));
    }
}
