//! Runs the golden scripts of a machine's proposer and of its watches: real machines on
//! logs in memory, what is asked of them, and what they answer.
//!
//! ```text
//! start [machines=N] [ring=N] [checkpoint=BYTES]        a group, whose first entries are not
//!                                    shown; each writes a checkpoint after so many bytes
//! introduce                          into the log: a sync, and a join of each
//! stop [on=n1]  restart [on=n1]      what is on its disk stays
//! set KEY=VALUE… [ttl=S] [limit=MS] [bytes=N] [only_in=TERM] [id=ID]    a request a key, all at
//!                                    once; under the id of a request
//! delete KEY                         a request
//! many N KEY [ttl=S] [bytes=N] [batch=N] [every=MS]     KEY/1, KEY/2, …; so many at a time
//! group KEY=VALUE… [bytes=N]         as what waited on another machine, in one message
//! give_up KEY                        its client is gone
//! sleep MS                           all time that passes, passes here
//! pause  resume                      the disk of a machine: writes are not safe meanwhile
//! cut ONE OTHER  heal                the network
//! roles  get KEY…  ring  log         who leads; what is applied; entries not seen before
//! expired                            how many keys have, at which logged time
//! checkpoint                         one of what is applied
//! keep_from N                        the history before entry N is gone
//! watch NAME [KEY] [from=INDEX] [after=NUMBER] [children=true] [only=ACTION]
//! next NAME [count=N]  rest NAME     what it tells without waiting, and where that is from
//! follow NAME                        tells whatever comes, from now on
//! seen NAME                          where another watch would go on
//! drop NAME                          its client is gone
//! close                              the machine is about to stop
//! ```
//!
//! All of it is said to n1, or to another machine: `on=n2`. An answer stands below the
//! command during which it came.
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test --lib scripts::proposer::batch
//! UPDATE_GOLDENFILES=1 cargo test --lib node::scripts
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.

mod action;
mod disk;
mod hints;
mod network;
mod shown;
mod world;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::{Command, EventNumber, Index, KeyPath, LogId, RaftIndex, Term, Ttl};
use etcd_projections::{Event, TreeNode};
use test_each_file::test_each_path;
use tokio::task::AbortHandle;

use super::Node;
use super::watch::{Seen, Start, Watch};
use crate::state::filter::{Actions, Filter};
use crate::storage::checkpoint::Checkpoint;
use crate::util::{limit, scripts_are_tests};
use action::Action;
use world::World;

/// How long a request waits for its answer, unless the script says so.
const LIMIT: u64 = 10_000;

/// How many events a ring holds, unless the script says so.
const RING: usize = 5;

test_each_path! { in "tests/scripts/proposer" as proposer => run }
test_each_path! { in "tests/scripts/watch" as watch => run }

fn run(script: &Path) {
    limit::begin();
    let recorded = goldenscript::run(&mut Runner::new(), script);
    recorded.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

#[test]
fn every_script_is_a_test() {
    for (folder, module) in [
        ("tests/scripts/proposer", "node::scripts::proposer"),
        ("tests/scripts/watch", "node::scripts::watch"),
    ] {
        scripts_are_tests::check(Path::new(env!("CARGO_MANIFEST_DIR")), folder, module);
    }
}

struct Runner {
    world: World,
    /// The requests that wait, by their keys.
    waiting: BTreeMap<String, AbortHandle>,
    watches: BTreeMap<String, Watch>,
    /// How many have been asked for something whose answer comes later.
    asked: usize,
}

type Output = Result<String, Box<dyn Error>>;

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(&mut self, action: &Action, _context: &goldenscript::Context) -> Output {
        let shown = match action {
            Action::Start { machines, ring, checkpoint } => {
                let bytes = checkpoint.unwrap_or(usize::MAX);
                self.world.found(machines.unwrap_or(1), ring.unwrap_or(RING), bytes);
                String::new()
            }
            Action::Set { .. } | Action::Delete { .. } | Action::Many { .. } => self.ask(action)?,
            Action::Group { bytes, on, pairs } => self.group(pairs, *bytes, on.as_ref())?,
            Action::Introduce => {
                self.world.introduce();
                String::new()
            }
            Action::GiveUp(key) => {
                self.waiting.remove(key).ok_or("it does not wait")?.abort();
                String::new()
            }
            Action::Watch { .. }
            | Action::Next { .. }
            | Action::Rest(_)
            | Action::Follow(_)
            | Action::Seen(_)
            | Action::Drop(_) => self.watch(action)?,
            Action::Roles
            | Action::Get { .. }
            | Action::Ring { .. }
            | Action::Expired { .. }
            | Action::Log { .. }
            | Action::Checkpoint { .. } => self.look(action)?,
            others => self.let_happen(others),
        };
        self.world.run(async {});
        Ok(shown + &self.world.heard())
    }
}

fn on(on: Option<&String>) -> &str {
    on.map_or("n1", |on| on)
}

fn set(key: &str, value: &str, ttl: Option<u64>, bytes: Option<usize>) -> Result<Command, String> {
    let value = bytes.map_or_else(|| value.to_owned(), |bytes| "v".repeat(bytes));
    let key = KeyPath::clean(key).map_err(|error| error.to_string())?;
    Ok(Command::Set { key, value: Arc::from(value), ttl: ttl.and_then(Ttl::new) })
}

impl Runner {
    fn new() -> Self {
        Self { world: World::new(), waiting: BTreeMap::new(), watches: BTreeMap::new(), asked: 0 }
    }

    /// Returns a number for another request.
    fn another(&mut self) -> usize {
        self.asked += 1;
        self.asked
    }

    fn node(&self, name: &str) -> Node {
        self.world.machines[name].node().clone()
    }

    /// What happens to the machines, or around them.
    fn let_happen(&mut self, action: &Action) -> String {
        let world = &mut self.world;
        match action {
            Action::Stop { on: name } => world.stop(on(name.as_ref())),
            Action::Restart { on: name } => world.start(on(name.as_ref())),
            Action::Sleep(millis) => world.pass(Duration::from_millis(*millis)),
            Action::Pause { on: name } => world.machines[on(name.as_ref())].log.pause(),
            Action::Resume { on: name } => world.machines[on(name.as_ref())].log.resume(),
            Action::Cut { one, other } => world.network.cut(one, other),
            Action::Heal => world.network.heal(),
            Action::KeepFrom { entry, on: name } => {
                world.machines[on(name.as_ref())].log.keep_from(RaftIndex(*entry));
            }
            Action::Close { on: name } => world.machines[on(name.as_ref())].node().close(),
            other => unreachable!("{other:?} is asked for elsewhere"),
        }
        String::new()
    }

    /// Asks for writes, and does not wait for their answers.
    fn ask(&mut self, action: &Action) -> Output {
        match action {
            Action::Set { ttl, limit, bytes, only_in, id, on: name, pairs } => {
                for (key, value) in pairs {
                    let mut command = set(key, value, *ttl, *bytes)?;
                    if let Some(id) = id {
                        command = self.node(on(name.as_ref())).once(id.parse()?, command);
                    }
                    let limit = Duration::from_millis(limit.unwrap_or(LIMIT));
                    self.request(on(name.as_ref()), key, command, limit, only_in.map(Term));
                }
            }
            Action::Delete { key, on: name } => {
                let command = Command::Delete { key: KeyPath::clean(key)? };
                let limit = Duration::from_millis(LIMIT);
                self.request(on(name.as_ref()), key, command, limit, None);
            }
            Action::Many { .. } => self.many(action)?,
            other => unreachable!("{other:?} is no request"),
        }
        Ok(String::new())
    }

    /// Asks for many writes, and tells in few words what was answered once all were.
    fn many(&mut self, action: &Action) -> Result<(), Box<dyn Error>> {
        let Action::Many { count, key, ttl, bytes, batch, every, on: name } = action else {
            unreachable!("{action:?} is not many");
        };
        let node = self.node(on(name.as_ref()));
        let (asked, answers) = (self.another(), Arc::new(Mutex::new(BTreeMap::new())));
        let numbers: Vec<_> = (1..=*count).collect();
        for numbers in numbers.chunks(batch.unwrap_or(*count)) {
            for number in numbers.iter().copied() {
                let command = set(&format!("{key}/{number}"), "x", *ttl, *bytes)?;
                let (node, heard) = (node.clone(), self.world.heard.clone());
                let (answers, key, count) = (Arc::clone(&answers), key.clone(), *count);
                self.world.spawn(async move {
                    let answer = node.propose(command, Duration::from_millis(LIMIT)).await;
                    let mut all = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(number, answer);
                    if all.len() == count {
                        let all: Vec<_> = all.values().cloned().collect();
                        for line in shown::answers(&all) {
                            heard.say(asked, format!("{key}: {line}"));
                        }
                    }
                });
            }
            self.world.pass(Duration::from_millis(every.unwrap_or(0)));
        }
        Ok(())
    }

    fn request(
        &mut self,
        name: &str,
        key: &str,
        command: Command,
        limit: Duration,
        only_in: Option<Term>,
    ) {
        let (node, heard, label) = (self.node(name), self.world.heard.clone(), key.to_owned());
        let asked = self.another();
        let waiting = self.world.spawn(async move {
            let answer = match only_in {
                Some(term) => node.inner.proposer.propose_in(term, command, limit).await,
                None => node.propose(command, limit).await,
            };
            heard.say(asked, format!("{label}: {}", shown::answer(&answer)));
        });
        self.waiting.insert(key.to_owned(), waiting);
    }

    fn group(
        &mut self,
        pairs: &[(String, String)],
        bytes: Option<usize>,
        name: Option<&String>,
    ) -> Output {
        let commands: Result<Vec<_>, _> =
            pairs.iter().map(|(key, value)| set(key, value, None, bytes)).collect();
        let (node, heard, commands) = (self.node(on(name)), self.world.heard.clone(), commands?);
        let keys = pairs.iter().map(|(key, _)| &**key).collect::<Vec<_>>().join(" ");
        let asked = self.another();
        self.world.spawn(async move {
            let answer = match node.inner.proposer.propose_group(commands).await {
                Ok(placed) => format!("{keys}: in {}, behind {}", placed.entry, placed.skip),
                Err(why) => format!("{keys}: {}", super::WriteError::from(why)),
            };
            heard.say(asked, answer);
        });
        Ok(String::new())
    }

    /// Looks at what the machines have come to.
    fn look(&mut self, action: &Action) -> Output {
        Ok(match action {
            // Within the world, by its time.
            Action::Roles => self.world.run(async {
                lines(self.world.machines.keys().map(|name| {
                    let role = self.world.consensus(name).map(shown::role);
                    format!("{name} {}", role.as_deref().unwrap_or("is stopped"))
                }))
            }),
            Action::Get { on: name, keys } => {
                let now = self.node(on(name.as_ref())).now();
                let keys =
                    keys.iter().map(|key| KeyPath::clean(key)).collect::<Result<Vec<_>, _>>()?;
                lines(keys.iter().map(|key| match now.state.tree().get(key) {
                    Some(TreeNode::File { value, .. }) => format!("{key}={value}"),
                    Some(TreeNode::Directory) => format!("{key} is a directory"),
                    None => format!("{key} is not there"),
                }))
            }
            Action::Ring { on: name } => {
                let now = self.node(on(name.as_ref())).now();
                lines(now.state.ring().iter().map(|event| shown::event(event)))
            }
            Action::Expired { on: name } => {
                let now = self.node(on(name.as_ref())).now();
                lines(shown::expired(now.state.ring().iter()))
            }
            Action::Log { on: name } => {
                let machine = self.world.machines.get_mut(on(name.as_ref())).ok_or("nobody")?;
                let entries = machine.log.since(machine.seen);
                machine.seen = entries.last().map_or(machine.seen, |last| last.id.index.next());
                lines(entries.iter().map(|entry| shown::entry(entry)))
            }
            Action::Checkpoint { on: name } => {
                let machine = &self.world.machines[on(name.as_ref())];
                let now = machine.node().now();
                let membership = machine.node().inner.consensus.membership();
                let (membership, state) = ((Some(LogId::default()), membership), now.state.clone());
                let applied = now.applied;
                machine.checkpoints().write(&Checkpoint { applied, membership, state })?;
                format!("at {}\n", now.state.position().index)
            }
            other => unreachable!("{other:?} is nothing to look at"),
        })
    }

    fn watch(&mut self, action: &Action) -> Output {
        match action {
            Action::Watch { name, key, from, after, children, only, on: machine } => {
                let node = self.node(on(machine.as_ref()));
                let prefix = key.as_ref().map_or(Ok(KeyPath::root()), |key| KeyPath::clean(key))?;
                let only = only.as_ref().map(|name| Actions::NONE.with(name).ok_or("no action"));
                let filter = Filter {
                    children: children.unwrap_or_default(),
                    actions: only.transpose()?.unwrap_or(Actions::ALL),
                    ..Filter::below(prefix)
                };
                let start = match (from, after) {
                    (Some(index), _) => Start::Index(Index(*index)),
                    (None, Some(number)) => Start::After(EventNumber(*number)),
                    (None, None) => Start::Now,
                };
                let limit = Duration::from_millis(LIMIT);
                let watch = self.world.run(node.watch(filter, start, limit))?;
                self.watches.insert(name.clone(), watch);
            }
            Action::Drop(name) => drop(self.watches.remove(name)),
            Action::Next { name, count } => {
                let told = self.take(name, count.unwrap_or(1))?;
                return Ok(lines(told.into_iter().map(|told| match told {
                    Told::Event(event, from) => format!("{} ({from})", shown::event(&event)),
                    Told::Nothing => "waits".to_owned(),
                    Told::End(error) => error,
                })));
            }
            Action::Rest(name) => return Ok(runs(self.take(name, usize::MAX)?)),
            Action::Seen(name) => {
                let watch = self.watches.get_mut(name).ok_or("nobody watches")?;
                return Ok(match watch.seen() {
                    Seen::Upto(position) => format!("up to {}\n", position.event),
                    Seen::NothingBefore(index) => format!("nothing before {index}\n"),
                });
            }
            Action::Follow(name) => {
                let mut watch = self.watches.remove(name).ok_or("nobody watches")?;
                let (heard, name, asked) = (self.world.heard.clone(), name.clone(), self.another());
                self.world.spawn(async move {
                    loop {
                        match watch.next().await {
                            Ok(event) => {
                                heard.say(asked, format!("{name}: {}", shown::event(&event)));
                            }
                            Err(error) => return heard.say(asked, format!("{name}: {error}")),
                        }
                    }
                });
            }
            other => unreachable!("{other:?} is no watch"),
        }
        Ok(String::new())
    }

    /// Takes what a watch tells, until it has to wait.
    fn take(&mut self, name: &str, count: usize) -> Result<Vec<Told>, Box<dyn Error>> {
        let watch = self.watches.get_mut(name).ok_or("nobody watches")?;
        let mut all = Vec::new();
        while all.len() < count {
            let from = if watch.is_behind() { "log" } else { "ring" };
            all.push(match self.world.at_once(watch.next()) {
                Some(Ok(event)) => Told::Event(event, from),
                Some(Err(error)) => Told::End(error.to_string()),
                None => Told::Nothing,
            });
            if !matches!(all.last(), Some(Told::Event(..))) {
                break;
            }
        }
        Ok(all)
    }
}

/// What a watch tells.
enum Told {
    /// An event, and where it is from.
    Event(Arc<Event>, &'static str),
    Nothing,
    End(String),
}

/// What a watch has told, in few words: events that follow each other in a line.
fn runs(told: Vec<Told>) -> String {
    let mut shown = Vec::new();
    let mut run: Option<(EventNumber, EventNumber, &str)> = None;
    let line = |(first, last, from)| format!("{first} to {last} ({from})");
    for told in told {
        match told {
            Told::Event(event, from) => {
                let number = event.number;
                run = match run {
                    Some((first, last, same)) if last.next() == number && same == from => {
                        Some((first, number, from))
                    }
                    before => {
                        shown.extend(before.map(line));
                        Some((number, number, from))
                    }
                };
            }
            Told::Nothing => shown.extend(run.take().map(line)),
            Told::End(error) => {
                shown.extend(run.take().map(line));
                shown.push(error);
            }
        }
    }
    lines(shown.into_iter())
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}
