//! Runs the golden scripts of elections, of the read barrier and of the members: real
//! machines, all that they say to each other, and how each stands to the others.
//!
//! ```text
//! cluster NAME… [seed=N]       the first founds it, the others join, until all have a vote
//! add NAME                     a new machine joins
//! kill NAME…   restart NAME…   what was not synced is gone
//! cut NAME [OTHER]             nothing comes from one to the other; without another, to nobody
//! lose NAME OTHER              nothing comes from the first to the second
//! heal                         all comes again
//! hang NAME   wake NAME        no sync of its disk comes to its end
//! run MS                       lets time pass
//! until NAME leads [in TERM] | follows OTHER | hears no leader | has no majority | is gone
//! until NAME is joint | has a learner                as it has the group
//! write NAME KEY=VALUE [limit=MS] [later=true]      later: it is not waited for
//! read NAME KEY [limit=MS] [later=true] [stale=true] [times=N]
//! leave NAME OTHER [later=true]                     asks the first to remove the second
//! appends true                 shows appends and signs of life from here on
//! state                        how each stands: its term, its last entry, what it has applied
//! ```
//!
//! `somebody` is whoever it is. Whatever is said between two machines is told where it was sent, and that it was lost.
//! Time is the runtime's, which goes on when nobody has anything to do; random times come
//! from the seed: a script gives the same output every time. Whoever is not granted enough
//! asks at the addresses that it was given, too, and then the leader that it is told of: that
//! looks the same, and counts for nothing but to learn who leads.
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test --test simulation scripts::election::leader_dies
//! UPDATE_GOLDENFILES=1 cargo test --test simulation scripts::
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.

mod cluster;
mod disk;
#[path = "../../support/scripts_are_tests.rs"]
mod scripts_are_tests;
mod shown;
mod wire;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use etcd::node::Freshness;
use etcd_log::{Command, KeyPath, NodeId};
use etcd_projections::TreeNode;
use test_each_file::test_each_path;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::limit;

/// How long an operation may take.
const LIMIT: u64 = 5_000;

test_each_path! { in "tests/scripts/election" as election => run }
test_each_path! { in "tests/scripts/read_barrier" as read_barrier => run }
test_each_path! { in "tests/scripts/members" as members => run }

fn run(script: &Path) {
    limit::begin();
    let recorded = goldenscript::run(&mut Runner::new(), script);
    recorded.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

#[test]
fn every_script_is_a_test() {
    for of in ["election", "read_barrier", "members"] {
        let (folder, module) = (format!("tests/scripts/{of}"), format!("scripts::{of}"));
        scripts_are_tests::check(Path::new(env!("CARGO_MANIFEST_DIR")), &folder, &module);
    }
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Cluster {
        #[arg(key, optional)]
        seed: Option<u64>,
        names: Vec<String>,
    },
    Add(String),
    Kill(Vec<String>),
    Restart(Vec<String>),
    Cut(String, Option<String>),
    Lose(String, String),
    Heal,
    Hang(String),
    Wake(String),
    Run(u64),
    Until(Vec<String>),
    Write {
        name: String,
        #[arg(key, optional)]
        limit: Option<u64>,
        #[arg(key, optional)]
        later: bool,
        pairs: Vec<(String, String)>,
    },
    Read {
        name: String,
        key: String,
        #[arg(key, optional)]
        limit: Option<u64>,
        #[arg(key, optional)]
        later: bool,
        #[arg(key, optional)]
        stale: bool,
        #[arg(key, optional)]
        times: Option<usize>,
    },
    Leave {
        name: String,
        other: String,
        #[arg(key, optional)]
        later: bool,
    },
    Appends(bool),
    State,
}

struct Runner {
    cluster: Cluster,
    /// All machines run in one thread, on one clock.
    runtime: Arc<Runtime>,
}

impl Runner {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        Self { cluster: Cluster::default(), runtime: Arc::new(runtime.unwrap()) }
    }

    async fn act(&mut self, action: &Action) -> Result<(), Box<dyn Error>> {
        let cluster = &mut self.cluster;
        match action {
            Action::Cluster { seed, names } => {
                cluster.seed = seed.unwrap_or(1);
                self.found(names).await?;
            }
            Action::Add(name) => cluster.add(node(name)?, false),
            Action::Kill(names) => {
                names.iter().try_for_each(|name| node(name).map(|node| cluster.kill(node)))?;
            }
            Action::Restart(names) => {
                names.iter().try_for_each(|name| node(name).map(|node| cluster.start(node)))?;
            }
            Action::Cut(name, other) => self.cut(node(name)?, other.as_deref())?,
            Action::Lose(from, to) => cluster.wire.lose(node(from)?, node(to)?),
            Action::Heal => cluster.wire.heal(),
            Action::Hang(name) => cluster.disk(node(name)?).hang(true),
            Action::Wake(name) => cluster.disk(node(name)?).hang(false),
            Action::Run(time) => cluster.run(Duration::from_millis(*time)).await,
            Action::Until(words) => self.until(words).await?,
            Action::Write { name, limit, later, pairs } => {
                let writing = pairs.iter().map(|(key, value)| self.write(name, key, value, *limit));
                let writing = writing.collect::<Result<_, _>>()?;
                self.finish(writing, *later).await?;
            }
            Action::Read { name, key, limit, later, stale, times } => {
                let times = 0..times.unwrap_or(1);
                let reading = times.map(|_| self.read(name, key, *limit, *stale));
                let reading = reading.collect::<Result<_, _>>()?;
                self.finish(reading, *later).await?;
            }
            Action::Leave { name, other, later } => {
                let leaving = self.leave(name, other)?;
                self.finish(vec![leaving], *later).await?;
            }
            Action::Appends(shows) => cluster.wire.show_appends(*shows),
            Action::State => {}
        }
        Ok(())
    }

    /// Founds the cluster. How it comes about is another story.
    async fn found(&mut self, names: &[String]) -> Result<(), Box<dyn Error>> {
        let votes = |cluster: &Cluster, me| {
            cluster.process(me).is_some_and(|(node, _)| {
                node.has_vote()
                    && node.now().state.machines().iter().any(|machine| machine.node == me)
            })
        };
        for (place, name) in names.iter().enumerate() {
            let me = node(name)?;
            self.cluster.add(me, place == 0);
            self.cluster.until(|cluster| votes(cluster, me)).await?;
        }
        self.cluster.run(Duration::from_secs(2)).await;
        let _told = self.cluster.wire.told();
        Ok(())
    }

    fn cut(&self, name: NodeId, other: Option<&str>) -> Result<(), Box<dyn Error>> {
        let others = match other {
            Some(other) => vec![node(other)?],
            None => self.cluster.names(),
        };
        for other in others.into_iter().filter(|other| *other != name) {
            self.cluster.wire.lose(name, other);
            self.cluster.wire.lose(other, name);
        }
        Ok(())
    }

    async fn until(&mut self, words: &[String]) -> Result<(), Box<dyn Error>> {
        let (first, rest) = words.split_first().ok_or("until what?")?;
        let rest = rest.join(" ");
        if first == "somebody" {
            let is = |cluster: &Cluster| cluster.names().iter().any(|me| cluster.is(*me, &rest));
            self.cluster.until(is).await?;
        } else {
            let me = node(first)?;
            self.cluster.until(|cluster| cluster.is(me, &rest)).await?;
        }
        Ok(())
    }

    fn write(
        &self,
        name: &str,
        key: &str,
        value: &str,
        limit: Option<u64>,
    ) -> Result<JoinHandle<()>, Box<dyn Error>> {
        let (asked, _) = self.cluster.process(node(name)?).ok_or("it is gone")?;
        let wire = self.cluster.wire.clone();
        let what = format!("{name} is asked to set {key}={value}");
        let (key, value) = (KeyPath::clean(key)?, Arc::from(value));
        let limit = Duration::from_millis(limit.unwrap_or(LIMIT));
        Ok(tokio::spawn(async move {
            let set = Command::Set { key, value, ttl: None };
            wire.note(match asked.propose(set, limit).await {
                Ok(outcome) => format!("{what}: done as {}", outcome.position.index),
                Err(error) => format!("{what}: {error}"),
            });
        }))
    }

    fn read(
        &self,
        name: &str,
        key: &str,
        limit: Option<u64>,
        stale: bool,
    ) -> Result<JoinHandle<()>, Box<dyn Error>> {
        let (asked, _) = self.cluster.process(node(name)?).ok_or("it is gone")?;
        let wire = self.cluster.wire.clone();
        let what = format!("{name} is asked for {key}");
        let key = KeyPath::clean(key)?;
        let limit = Duration::from_millis(limit.unwrap_or(LIMIT));
        let freshness = if stale { Freshness::Stale } else { Freshness::Linearizable };
        Ok(tokio::spawn(async move {
            let found = asked.read(freshness, limit).await;
            let found = found.map(|published| match published.state.tree().get(&key) {
                Some(TreeNode::File { value, .. }) => value.to_string(),
                Some(TreeNode::Directory) => "a directory".to_owned(),
                None => "not there".to_owned(),
            });
            let found = found.unwrap_or_else(|error| error.to_string());
            wire.note(format!("{what}: {found}"));
        }))
    }

    fn leave(&self, name: &str, other: &str) -> Result<JoinHandle<()>, Box<dyn Error>> {
        let (asked, _) = self.cluster.process(node(name)?).ok_or("it is gone")?;
        let wire = self.cluster.wire.clone();
        let what = format!("{name} is asked to remove {other}");
        let other = Arc::<str>::from(other);
        Ok(tokio::spawn(async move {
            let left = asked.leave(&other, Duration::from_millis(LIMIT)).await;
            let left = left.map_or_else(|error| error.to_string(), |()| "done".to_owned());
            wire.note(format!("{what}: {left}"));
        }))
    }

    /// Waits until all is answered, unless it is not to be waited for.
    async fn finish(&mut self, asked: Vec<JoinHandle<()>>, later: bool) -> Result<(), String> {
        if later {
            return Ok(());
        }
        self.cluster.until(|_| asked.iter().all(JoinHandle::is_finished)).await
    }
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(async {
            self.act(action).await?;
            let mut told = self.cluster.wire.told();
            if matches!(action, Action::State | Action::Cluster { .. }) {
                told.push_str(&self.cluster.state());
            }
            Ok(told)
        })
    }
}

/// A machine by its name: `n3` is machine 3.
fn node(name: &str) -> Result<NodeId, Box<dyn Error>> {
    let number = name.strip_prefix('n').and_then(|number| number.parse().ok());
    Ok(NodeId(number.ok_or_else(|| format!("{name} names no machine"))?))
}
