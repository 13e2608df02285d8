//! The commands of a script.

/// The commands of a script.
#[derive(Debug, goldenscript::Command)]
pub(super) enum Action {
    Start {
        #[arg(key, optional)]
        machines: Option<usize>,
        #[arg(key, optional)]
        ring: Option<usize>,
        #[arg(key, optional)]
        checkpoint: Option<usize>,
    },
    Introduce,
    Stop {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Restart {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Set {
        #[arg(key, optional)]
        ttl: Option<u64>,
        #[arg(key, optional)]
        limit: Option<u64>,
        #[arg(key, optional)]
        bytes: Option<usize>,
        #[arg(key, optional)]
        only_in: Option<u64>,
        #[arg(key, optional)]
        id: Option<String>,
        #[arg(key, optional)]
        on: Option<String>,
        pairs: Vec<(String, String)>,
    },
    Delete {
        key: String,
        #[arg(key, optional)]
        on: Option<String>,
    },
    Many {
        count: usize,
        key: String,
        #[arg(key, optional)]
        ttl: Option<u64>,
        #[arg(key, optional)]
        bytes: Option<usize>,
        #[arg(key, optional)]
        batch: Option<usize>,
        #[arg(key, optional)]
        every: Option<u64>,
        #[arg(key, optional)]
        on: Option<String>,
    },
    Group {
        #[arg(key, optional)]
        bytes: Option<usize>,
        #[arg(key, optional)]
        on: Option<String>,
        pairs: Vec<(String, String)>,
    },
    GiveUp(String),
    Sleep(u64),
    Pause {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Resume {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Cut {
        one: String,
        other: String,
    },
    Heal,
    Roles,
    Get {
        #[arg(key, optional)]
        on: Option<String>,
        keys: Vec<String>,
    },
    Ring {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Expired {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Log {
        #[arg(key, optional)]
        on: Option<String>,
    },
    Checkpoint {
        #[arg(key, optional)]
        on: Option<String>,
    },
    KeepFrom {
        entry: u64,
        #[arg(key, optional)]
        on: Option<String>,
    },
    Watch {
        name: String,
        key: Option<String>,
        #[arg(key, optional)]
        from: Option<u64>,
        #[arg(key, optional)]
        after: Option<u64>,
        #[arg(key, optional)]
        children: Option<bool>,
        #[arg(key, optional)]
        only: Option<String>,
        #[arg(key, optional)]
        on: Option<String>,
    },
    Next {
        name: String,
        #[arg(key, optional)]
        count: Option<usize>,
    },
    Rest(String),
    Follow(String),
    Seen(String),
    Drop(String),
    Close {
        #[arg(key, optional)]
        on: Option<String>,
    },
}
