//! Actions: the kinds of commands, and expiry, which none of them is.

use std::fmt;
use std::str::FromStr;

use etcd_log::Command;
use etcd_projections::{Change, Event, Outcome, What};

/// What happened, or was to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named after its command")]
pub enum Action {
    Set,
    Create,
    TestAndSet,
    Delete,
    DeleteDir,
    TestAndDelete,
    Restore,
    Expire,
    Sync,
    Join,
    Leave,
    Upgrade,
}

/// The actions by their names.
const NAMES: [(Action, &str); 12] = [
    (Action::Set, "set"),
    (Action::Create, "create"),
    (Action::TestAndSet, "testAndSet"),
    (Action::Delete, "delete"),
    (Action::DeleteDir, "deleteDir"),
    (Action::TestAndDelete, "testAndDelete"),
    (Action::Restore, "restore"),
    (Action::Expire, "expire"),
    (Action::Sync, "sync"),
    (Action::Join, "join"),
    (Action::Leave, "leave"),
    (Action::Upgrade, "upgrade"),
];

impl Action {
    /// Returns what a command is.
    pub(super) fn of_command(command: &Command) -> Self {
        match command {
            Command::Set { .. } => Self::Set,
            Command::Create { .. } => Self::Create,
            Command::TestAndSet(_) => Self::TestAndSet,
            Command::Delete { .. } => Self::Delete,
            Command::DeleteDir { .. } => Self::DeleteDir,
            Command::TestAndDelete { .. } => Self::TestAndDelete,
            Command::Restore(_) => Self::Restore,
            Command::Sync { .. } => Self::Sync,
            Command::Join(_) => Self::Join,
            Command::Leave { .. } => Self::Leave,
            Command::Upgrade { .. } => Self::Upgrade,
            Command::As(asked) => Self::of_command(&asked.command),
        }
    }

    /// Returns what an outcome is that has no command of its own: an expiry, or a further
    /// event of a restore.
    pub(super) fn of_outcome(outcome: &Outcome) -> Option<Self> {
        match &outcome.what {
            What::Event(event) if matches!(event.change, Change::Expire { .. }) => {
                Some(Self::Expire)
            }
            What::Event(_) => Some(Self::Restore),
            What::Rejection(_) | What::Tick => None,
        }
    }

    /// Returns what an event is whose command is not known: set, delete or expire.
    pub(super) fn of_event(event: &Event) -> Self {
        match event.change {
            Change::Set { .. } => Self::Set,
            Change::Delete { .. } | Change::DeleteDir => Self::Delete,
            Change::Expire { .. } => Self::Expire,
        }
    }

    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }

    /// Returns whether an event says of itself that it is this.
    pub fn is_of_events(self) -> bool {
        matches!(self, Self::Set | Self::Delete | Self::Expire)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(action, _)| *action).ok_or_else(|| {
            let names = NAMES.map(|(_, name)| name);
            format!("expected one of {}", names.join(", "))
        })
    }
}
