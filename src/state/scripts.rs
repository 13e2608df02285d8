//! Runs the golden scripts of the published state and of the recent outcomes: what is
//! applied, who reads, and who waits for what.
//!
//! ```text
//! set KEY=VALUE… [ttl=S] [long=true]     an entry; long: one that takes long to apply
//! delete KEY
//! at S                       the next batch has this time
//! blank                      an entry without commands
//! jump N                     a state from another machine, N commands and entries further
//! listen NAME KEY            waits for events at a key or below it, again and again
//! wait NAME [index=N] [entry=N]          waits for a state that has come so far
//! look NAME                  keeps the state as it is now
//! shown NAME                 where a state stands that is kept, and whether it is the newest
//! place                      whether the state is where it was when that was asked last
//! drop NAME                  whoever it is has gone
//! end                        nothing is applied any more
//! keep NAME                  waits for outcomes from here on
//! of NAME ENTRY [skip=N] [count=N]       what came of commands of an entry
//! note N [bytes=N]           entries of one command, of which outcomes are noted alone
//! check                      takes the state's digest, for the last entry
//! compare [entry=N]          compares it with the state; as if it were of another entry
//! ```
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test --lib state::scripts::published::wait
//! UPDATE_GOLDENFILES=1 cargo test --lib state::scripts
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_log::{
    Batch, Check, Command, EventNumber, Index, InvalidKey, KeyPath, LogId, LogTime, RaftIndex, Ttl,
};
use etcd_projections::{Change, Event, Outcome, Position, State, What};
use test_each_file::test_each_path;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use super::filter::Filter;
use super::published::{self, Published, Publisher, StateReader};
use super::recent_outcomes::{RecentOutcomes, Ticket};
use crate::util::{limit, scripts_are_tests};

/// How many events the ring holds.
const RING: usize = 5;

/// How often each task gets its turn until the script goes on.
const TURNS: usize = 100;

test_each_path! { in "tests/scripts/published" as published_state => run }

fn run(script: &Path) {
    limit::begin();
    let recorded = goldenscript::run(&mut Runner::new(), script);
    recorded.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

#[test]
fn every_script_is_a_test() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    scripts_are_tests::check(dir, "tests/scripts/published", "state::scripts::published_state");
}

struct Runner {
    runtime: Runtime,
    /// Nothing, once nothing is applied any more.
    publisher: Option<Publisher>,
    reader: StateReader,
    outcomes: RecentOutcomes,
    /// The time of the next batch, in seconds.
    now: u64,
    /// The next entry.
    entry: RaftIndex,
    /// Whoever waits in a task.
    waiting: BTreeMap<String, AbortHandle>,
    kept: BTreeMap<String, Arc<Published>>,
    tickets: BTreeMap<String, Ticket>,
    /// Where the state was.
    place: usize,
    check: Option<Check>,
    /// How many have begun to wait.
    waited: usize,
    /// What those say who were woken, by when they began to wait.
    heard: Arc<Mutex<BTreeMap<usize, Vec<String>>>>,
}

/// The commands of a script.
#[derive(Debug, goldenscript::Command)]
enum Action {
    Set {
        #[arg(key, optional)]
        ttl: Option<u64>,
        #[arg(key, optional)]
        long: bool,
        pairs: Vec<(String, String)>,
    },
    Delete(String),
    At(u64),
    Blank,
    Jump(u64),
    Listen {
        name: String,
        key: String,
    },
    Wait {
        name: String,
        #[arg(key, optional)]
        index: u64,
        #[arg(key, optional)]
        entry: u64,
    },
    Look(String),
    Shown(String),
    Place,
    Drop(String),
    End,
    Keep(String),
    Of {
        name: String,
        entry: u64,
        #[arg(key, optional)]
        skip: usize,
        #[arg(key, optional)]
        count: Option<usize>,
    },
    Note {
        entries: u64,
        #[arg(key, optional)]
        bytes: usize,
    },
    Check,
    Compare {
        #[arg(key, optional)]
        entry: Option<u64>,
    },
}

type Output = Result<String, Box<dyn Error>>;

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(&mut self, action: &Action, _context: &goldenscript::Context) -> Output {
        let shown = match action {
            Action::Set { ttl, long, pairs } => {
                let set = |(key, value): &(String, String)| {
                    let (key, value) = (KeyPath::clean(key)?, Arc::from(&**value));
                    Ok(Command::Set { key, value, ttl: ttl.and_then(Ttl::new) })
                };
                let commands = pairs.iter().map(set).collect::<Result<_, InvalidKey>>()?;
                self.apply(Some(commands), *long)?
            }
            Action::Delete(key) => {
                self.apply(Some(vec![Command::Delete { key: KeyPath::clean(key)? }]), false)?
            }
            Action::Blank => self.apply(None, false)?,
            Action::Jump(further) => self.jump(*further)?,
            Action::At(second) => {
                self.now = *second;
                String::new()
            }
            Action::Listen { .. } | Action::Wait { .. } => self.wait(action)?,
            Action::Drop(name) => {
                self.kept.remove(name);
                self.tickets.remove(name);
                self.waiting.remove(name).inspect(AbortHandle::abort);
                String::new()
            }
            Action::End => {
                self.publisher = None;
                String::new()
            }
            Action::Keep(_) | Action::Of { .. } | Action::Note { .. } => self.keep(action)?,
            others => self.look(others)?,
        };
        // Whoever was woken says so.
        self.runtime.block_on(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // Who of them is woken first, is left to chance.
        Ok(shown + &lines(std::mem::take(&mut *heard).into_values().flatten()))
    }
}

impl Runner {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime of one thread");
        let (publisher, reader) = published::channel(State::new(RING), None);
        Self {
            runtime,
            publisher: Some(publisher),
            reader,
            outcomes: RecentOutcomes::default(),
            now: 0,
            entry: RaftIndex(1),
            waiting: BTreeMap::new(),
            kept: BTreeMap::new(),
            tickets: BTreeMap::new(),
            place: 0,
            check: None,
            waited: 0,
            heard: Arc::default(),
        }
    }

    /// Applies an entry, as the state machine does.
    fn apply(&mut self, commands: Option<Vec<Command>>, takes_long: bool) -> Output {
        let publisher = self.publisher.as_ref().ok_or("nothing is applied any more")?;
        let time = LogTime(self.now * 1_000_000_000);
        let batch = commands.map(|commands| Batch::new(time, commands));
        let id = LogId { index: self.entry, ..LogId::default() };
        self.entry = self.entry.next();
        let mut shown = String::new();
        publisher.apply(id, takes_long, |state| {
            let outcomes = state.apply_entry(id.index, batch.as_ref());
            shown = lines(outcomes.iter().map(outcome_shown));
            self.outcomes.note(id.index, &outcomes);
            outcomes
        });
        Ok(shown)
    }

    /// Publishes a state that another machine has come to.
    fn jump(&mut self, further: u64) -> Output {
        let publisher = self.publisher.as_ref().ok_or("nothing is applied any more")?;
        let mut state = publisher.now().state.clone();
        for _ in 0..further {
            let time = LogTime(self.now * 1_000_000_000);
            let key = KeyPath::clean("elsewhere")?;
            let set = Command::Set { key, value: Arc::from("x"), ttl: None };
            state.apply_entry(self.entry, Some(&Batch::new(time, vec![set])));
            self.entry = self.entry.next();
        }
        let last = LogId { index: RaftIndex(self.entry.0 - 1), ..LogId::default() };
        publisher.jump(state, Some(last));
        Ok(String::new())
    }

    /// Lets somebody wait.
    fn wait(&mut self, action: &Action) -> Output {
        self.waited += 1;
        let (heard, number) = (Arc::clone(&self.heard), self.waited);
        let say = move |line| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.entry(number).or_default().push(line);
        };
        let reader = self.reader.clone();
        let (name, waiting) = match action {
            Action::Listen { name, key } => {
                let listener = reader.listen(&Filter::below(KeyPath::clean(key)?));
                let label = name.clone();
                let listening = self.runtime.spawn(async move {
                    loop {
                        listener.bell().notified().await;
                        say(format!("{label} is woken"));
                    }
                });
                (name, listening)
            }
            Action::Wait { name, index, entry } => {
                let (label, index, entry) = (name.clone(), Index(*index), RaftIndex(*entry));
                let waiting = self.runtime.spawn(async move {
                    let has_come = |now: &Published| {
                        let applied = now.applied.map(|id| id.index).unwrap_or_default();
                        now.state.position().index >= index && applied >= entry
                    };
                    let come = reader.wait_for(has_come).await;
                    let come = come.map_or("nothing more".to_owned(), |now| stand(&now));
                    say(format!("{label} sees {come}"));
                });
                (name, waiting)
            }
            other => return Err(format!("nobody waits: {other:?}").into()),
        };
        self.waiting.insert(name.clone(), waiting.abort_handle());
        Ok(String::new())
    }

    /// What is to be seen of the state.
    fn look(&mut self, action: &Action) -> Output {
        Ok(match action {
            Action::Look(name) => {
                let now = self.reader.now();
                let shown = format!("{}\n", stand(&now));
                self.kept.insert(name.clone(), now);
                shown
            }
            Action::Shown(name) => {
                let kept = self.kept.get(name).ok_or("nobody looks")?;
                let is_newest = Arc::ptr_eq(kept, &self.reader.now());
                format!("{}{}\n", stand(kept), if is_newest { ", the newest" } else { "" })
            }
            Action::Place => {
                let place = Arc::as_ptr(&self.reader.now()).addr();
                let before = std::mem::replace(&mut self.place, place);
                format!("{}\n", if before == place { "where it was" } else { "elsewhere" })
            }
            Action::Check => {
                let now = self.reader.now();
                let Position { index, event, time } = now.state.position();
                let (entry, digest) = (now.applied.map(|id| id.index), now.state.digest());
                self.check = Some(Check { entry, index, event, time, digest });
                String::new()
            }
            Action::Compare { entry } => {
                let mut check = self.check.ok_or("there is no check")?;
                check.entry = entry.map(RaftIndex).or(check.entry);
                let compared = self.reader.compare(&check);
                compared.map_or("it differs\n", |()| "nothing differs\n").to_owned()
            }
            other => return Err(format!("nothing to see: {other:?}").into()),
        })
    }

    /// What is done with the recent outcomes.
    fn keep(&mut self, action: &Action) -> Output {
        match action {
            Action::Keep(name) => {
                self.tickets.insert(name.clone(), self.outcomes.keep());
            }
            Action::Of { name, entry, skip, count } => {
                let ticket = self.tickets.get(name).ok_or("nobody waits")?;
                return Ok(match ticket.of(RaftIndex(*entry), *skip, count.unwrap_or(1)) {
                    Some(outcomes) => lines(outcomes.iter().map(in_brief)),
                    None => "not at hand\n".to_owned(),
                });
            }
            Action::Note { entries, bytes } => {
                for _ in 0..*entries {
                    self.outcomes.note(self.entry, &[large(*bytes)]);
                    self.entry = self.entry.next();
                }
            }
            other => return Err(format!("nothing to keep: {other:?}").into()),
        }
        Ok(String::new())
    }
}

/// What comes of a command with a value of so many bytes.
fn large(bytes: usize) -> Outcome {
    let change = Change::Set { value: Arc::from("v".repeat(bytes)), prev: None, deadline: None };
    let (number, index, key) = (EventNumber(1), Index(1), KeyPath::root());
    let event = Event { number, index, time: LogTime(1), key, change };
    let what = What::Event(Arc::new(event));
    Outcome::new(Position::default(), what)
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

fn stand(published: &Published) -> String {
    let Position { index, event, .. } = published.state.position();
    let applied = published.applied.map_or("nothing".to_owned(), |id| id.index.to_string());
    format!("{index} {event}, applied {applied}")
}

fn in_brief(outcome: &Outcome) -> String {
    match &outcome.what {
        What::Event(event) if event.size() > 1000 => "an event of many bytes".to_owned(),
        What::Event(_) | What::Rejection(_) | What::Tick => outcome_shown(outcome),
    }
}

fn outcome_shown(outcome: &Outcome) -> String {
    match &outcome.what {
        What::Event(event) => {
            let Event { number, index, key, change, .. } = &**event;
            let change = match change {
                Change::Set { value, .. } => format!("set {key}={value}"),
                Change::Delete { .. } => format!("delete {key}"),
                Change::DeleteDir => format!("delete directory {key}"),
                Change::Expire { .. } => format!("expire {key}"),
            };
            format!("{number} {index} {change}")
        }
        What::Rejection(why) => format!("{} refused: {why}", outcome.position.index),
        What::Tick => "a tick".to_owned(),
    }
}
