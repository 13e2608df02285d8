//! How far long work has come: a bar on the standard error, if that is a terminal.

use std::time::{Duration, Instant};

use etcd_log::Index;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::source::Source;

/// What takes no longer than this shows nothing.
const BEGINS_AFTER: Duration = Duration::from_millis(500);

/// How often it is looked whether there is something to show, in steps.
const STEPS: u32 = 256;

/// How far work has come that goes through a log.
pub(super) struct Progress {
    what: &'static str,
    last: Index,
    begun: Instant,
    steps: u32,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins work that goes up to a command; up to nobody knows where, if that is zero.
    pub(super) fn new(what: &'static str, last: Index) -> Self {
        Self { what, last, begun: Instant::now(), steps: 0, bar: None }
    }

    /// Begins work that goes through a whole log.
    pub(super) fn of(what: &'static str, source: &Source) -> Self {
        let last = source.directory().map_or(Index(0), |opened| opened.log.last_command());
        Self::new(what, last)
    }

    /// Notes how far it has come.
    pub(super) fn reach(&mut self, index: Index) {
        self.steps += 1;
        if !self.steps.is_multiple_of(STEPS) || self.begun.elapsed() < BEGINS_AFTER {
            return;
        }
        self.bar.get_or_insert_with(|| bar(self.what, self.last)).set_position(index.0);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns a bar, which is not drawn where nobody sees it.
fn bar(what: &'static str, last: Index) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(last.0), ProgressDrawTarget::stderr_with_hz(10));
    let style = match last {
        Index(0) => "{msg} {spinner} {human_pos} commands",
        _ => "{msg} {bar:30} {human_pos}/{human_len} commands, {eta} left",
    };
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what);
    bar
}
