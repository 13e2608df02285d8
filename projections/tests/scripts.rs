//! Runs the golden scripts: commands in, outcomes and projections out.
//!
//! ```text
//! set KEY=VALUE… [ttl=S]     testandset KEY FROM TO [ttl=S]      delete KEY      deletedir KEY
//! create KEY VALUE [ttl=S]   testanddelete KEY FROM
//! put_back KEY [base=N] STEP…  a restore; a step is `KEY=VALUE`, `KEY=` (delete) or `KEY/=`
//! sync ID [format=N]   upgrade N   join NAME NODE [port=P]   leave NAME
//! sleep S  at S              the next batch is S seconds later; at this second
//! request ID [since=N]       the next command is asked for under this id, and was not tried up
//!                            to command N
//! tick                       a batch without commands
//! tree  list KEY  ring  since N  from_index N  deadlines  machines  format  requests
//! position  digest
//! restore [ring=N]           take the state apart, and put it together again
//! ```
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test -p etcd-projections --test scripts renew
//! UPDATE_GOLDENFILES=1 cargo test -p etcd-projections --test scripts
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.

#[path = "../../tests/support/limit.rs"]
mod limit;
#[path = "../../tests/support/scripts_are_tests.rs"]
mod scripts_are_tests;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use etcd_log::{
    Asked, Batch, ClusterId, Command, EventNumber, Index, InvalidKey, KeyPath, LogFormat, LogTime,
    Machine, NodeId, RequestHash, RequestId, Restore, RestoreChange, TestAndSet, Ttl,
};
use etcd_projections::{
    Came, Change, Event, FirstAnswer, Outcome, SnapshotItem, State, TreeNode, What,
};
use test_each_file::test_each_path;

test_each_path! { in "projections/tests/scripts" as scripts => run }

fn run(script: &Path) {
    limit::begin();
    let recorded = goldenscript::run(&mut Runner::new(), script);
    recorded.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

#[test]
fn every_script_is_a_test() {
    scripts_are_tests::check(Path::new(env!("CARGO_MANIFEST_DIR")), "tests/scripts", "scripts");
}

struct Runner {
    state: State,
    /// Seconds since the epoch, which the next batch carries.
    now: u64,
    /// Under which id the next command is asked for.
    request: Option<RequestId>,
    /// Since when it may have been tried; none, for not before.
    since: Option<Index>,
}

impl Runner {
    fn new() -> Self {
        Self { state: State::new(5), now: 0, request: None, since: None }
    }

    fn apply(&mut self, mut commands: Vec<Command>) -> String {
        if let Some(id) = self.request.take() {
            let since = self.since.take().unwrap_or(self.state.position().index);
            let asked = |command| asked(id.clone(), since, command);
            commands = commands.into_iter().map(asked).collect();
        }
        let time = LogTime(self.now * 1_000_000_000);
        let outcomes = self.state.apply(&Batch::new(time, commands));
        lines(outcomes.iter().map(shown))
    }

    fn query(&self, query: &Action) -> Result<String, Box<dyn Error>> {
        let state = &self.state;
        Ok(match query {
            Action::Tree => {
                lines(state.tree().iter().map(|(key, node)| format!("{key}{}", node_shown(node))))
            }
            Action::List(directory) => {
                let directory = KeyPath::clean(directory)?;
                let children = state.tree().children(&directory);
                lines(children.map(|(key, node)| format!("{}{}", key.name(), node_shown(node))))
            }
            Action::Ring => lines(state.ring().iter().map(|event| event_shown(event))),
            Action::Since(number) if state.ring().holds_from(EventNumber(*number)) => {
                lines(state.ring().since(EventNumber(*number)).map(|event| event_shown(event)))
            }
            Action::FromIndex(index) if state.ring().reaches_back_to(Index(*index)) => {
                format!("{}\n", state.ring().first_at(Index(*index)))
            }
            Action::Since(_) | Action::FromIndex(_) => "older than the ring\n".to_owned(),
            Action::Deadlines => lines(
                state.expiry().iter().map(|(deadline, key)| format!("{} {key}", seconds(deadline))),
            ),
            Action::Machines => lines(state.machines().iter().map(|machine| {
                let Machine { name, node, peer_url, client_url } = machine;
                format!("{name} {node} {peer_url} {client_url}")
            })),
            Action::Requests => lines(state.requests().iter().map(|first| first_answer(first))),
            Action::Format => format!("{}\n", state.format()),
            Action::Position => {
                let position = state.position();
                format!("{} {} {}\n", position.index, position.event, seconds(position.time))
            }
            Action::Digest => format!("{}\n", state.digest()),
            other => return Err(format!("no query: {other:?}").into()),
        })
    }
}

/// The commands of a script.
#[derive(Debug, goldenscript::Command)]
enum Action {
    Set {
        #[arg(key, optional)]
        ttl: Option<u64>,
        pairs: Vec<(String, String)>,
    },
    #[command(name = "testandset")]
    TestAndSet {
        key: String,
        from: String,
        to: String,
        #[arg(key, optional)]
        ttl: Option<u64>,
    },
    Create {
        key: String,
        value: String,
        #[arg(key, optional)]
        ttl: Option<u64>,
    },
    #[command(name = "testanddelete")]
    TestAndDelete {
        key: String,
        from: String,
    },
    PutBack {
        key: String,
        #[arg(key, optional)]
        base: Option<u64>,
        steps: Vec<(String, String)>,
    },
    Delete(String),
    #[command(name = "deletedir")]
    DeleteDir(String),
    Sync {
        cluster: u64,
        #[arg(key, optional)]
        format: Option<u32>,
    },
    Upgrade(u32),
    Join {
        name: String,
        node: u64,
        #[arg(key, optional)]
        port: Option<u16>,
    },
    Leave(String),
    Request {
        id: String,
        #[arg(key, optional)]
        since: Option<u64>,
    },
    Sleep(u64),
    At(u64),
    Tick,
    Restore {
        #[arg(key, optional)]
        ring: Option<usize>,
    },
    Tree,
    List(String),
    Ring,
    Since(u64),
    FromIndex(u64),
    Deadlines,
    Machines,
    Format,
    Requests,
    Position,
    Digest,
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let commands = match action {
            Action::Set { ttl, pairs } => {
                let set = |(key, value): &(String, String)| {
                    let (key, value) = (KeyPath::clean(key)?, Arc::from(&**value));
                    Ok(Command::Set { key, value, ttl: ttl.and_then(Ttl::new) })
                };
                pairs.iter().map(set).collect::<Result<_, InvalidKey>>()?
            }
            Action::TestAndSet { key, from, to, ttl } => {
                let (key, ttl) = (KeyPath::clean(key)?, ttl.and_then(Ttl::new));
                let (prev_value, value) = (Arc::from(&**from), Arc::from(&**to));
                vec![Command::TestAndSet(TestAndSet { key, prev_value, value, ttl })]
            }
            Action::Delete(key) => vec![Command::Delete { key: KeyPath::clean(key)? }],
            Action::DeleteDir(key) => vec![Command::DeleteDir { key: KeyPath::clean(key)? }],
            Action::Create { key, value, ttl } => {
                let (key, value) = (KeyPath::clean(key)?, Arc::from(&**value));
                vec![Command::Create { key, value, ttl: ttl.and_then(Ttl::new) }]
            }
            Action::TestAndDelete { key, from } => {
                let (key, prev_value) = (KeyPath::clean(key)?, Arc::from(&**from));
                vec![Command::TestAndDelete { key, prev_value }]
            }
            Action::PutBack { key, base, steps } => {
                let (key, last) = (KeyPath::clean(key)?, self.state.position().index);
                let base = base.map_or(last, Index);
                let changes = steps.iter().map(step).collect::<Result<_, _>>()?;
                vec![Command::Restore(Restore { key, at: Index(1), base, changes })]
            }
            Action::Sync { cluster, format } => {
                let format = format.map_or(LogFormat::FIRST, LogFormat);
                vec![Command::Sync { cluster: ClusterId(*cluster), format }]
            }
            Action::Upgrade(format) => vec![Command::Upgrade { format: LogFormat(*format) }],
            Action::Join { name, node, port } => vec![Command::Join(Machine {
                name: Arc::from(&**name),
                node: NodeId(*node),
                peer_url: Arc::from(format!("http://h:{}", port.unwrap_or(7001))),
                client_url: Arc::from("http://h:4001"),
            })],
            Action::Leave(name) => vec![Command::Leave { name: Arc::from(&**name) }],
            Action::Request { id, since } => {
                self.request = Some(id.parse()?);
                self.since = since.map(Index);
                return Ok(String::new());
            }
            Action::Tick => vec![],
            Action::Sleep(seconds) => {
                self.now += seconds;
                return Ok(String::new());
            }
            Action::At(second) => {
                self.now = *second;
                return Ok(String::new());
            }
            Action::Restore { ring } => {
                let items: Vec<SnapshotItem> = self.state.snapshot_items().collect();
                self.state =
                    State::from_snapshot(&self.state.snapshot_header(), items, ring.unwrap_or(5))?;
                return Ok(String::new());
            }
            query => return self.query(query),
        };
        Ok(self.apply(commands))
    }
}

/// Reads a step of a restore.
fn step((key, value): &(String, String)) -> Result<RestoreChange, InvalidKey> {
    let path = KeyPath::clean(key)?;
    Ok(match &**value {
        "" if key.ends_with('/') => RestoreChange::DeleteDir(path),
        "" => RestoreChange::Delete(path),
        value => RestoreChange::Set { key: path, value: Arc::from(value), ttl: None },
    })
}

/// The command as it is asked for under an id. Of a restore, the key alone is said.
fn asked(id: RequestId, since: Index, command: Command) -> Command {
    Command::As(match &command {
        Command::Restore(Restore { key, .. }) => {
            let hash = RequestHash::of([key.as_str()]);
            Asked { id, hash, since, command: Box::new(command) }
        }
        _ => Asked::new(id, since, command),
    })
}

fn first_answer(first: &FirstAnswer) -> String {
    let FirstAnswer { requested, index, time, came, changed } = first;
    let came = match came {
        Came::Event(event) => event_shown(event),
        Came::Refused(rejection) => format!("refused: {rejection}"),
        Came::LetGo => "let go".to_owned(),
    };
    let at = requested.at.map_or(String::new(), |at| format!(" to {at}"));
    format!("{}{at} by {index} at {}: {came}; changed {changed}", requested.id, seconds(*time))
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

fn shown(outcome: &Outcome) -> String {
    match &outcome.what {
        What::Event(event) => event_shown(event),
        What::Rejection(rejection) => format!("{} refused: {rejection}", outcome.position.index),
        What::Tick => format!("tick at {}", seconds(outcome.position.time)),
    }
}

fn event_shown(event: &Event) -> String {
    let Event { number, index, key, change, .. } = event;
    let change = match change {
        Change::Set { value, prev, deadline } => {
            let prev = prev.as_ref().map_or("new".to_owned(), |prev| format!("was {prev}"));
            let until = deadline
                .map(|deadline| format!(" until {}", seconds(deadline)))
                .unwrap_or_default();
            format!("set {key}={value}{until}, {prev}")
        }
        Change::Delete { prev, deadline } => {
            let until = deadline
                .map(|deadline| format!(" until {}", seconds(deadline)))
                .unwrap_or_default();
            format!("delete {key}, was {prev}{until}")
        }
        Change::DeleteDir => format!("delete directory {key}"),
        Change::Expire { prev, deadline } => {
            format!("expire {key}, was {prev} until {}", seconds(*deadline))
        }
    };
    format!("{number} {index} {change}")
}

fn node_shown(node: &TreeNode) -> String {
    match node {
        TreeNode::File { value, deadline: None } => format!("={value}"),
        TreeNode::File { value, deadline: Some(deadline) } => {
            format!("={value} until {}", seconds(*deadline))
        }
        TreeNode::Directory => "/".to_owned(),
    }
}

fn seconds(time: LogTime) -> String {
    format!("{}s", time.0 / 1_000_000_000)
}
