//! Runs the golden scripts of reconciling: what the log says, what the group is, and the
//! steps from the one to the other, whoever takes them and wherever they are cut short.
//!
//! ```text
//! group NAME… [learners=NAMES] [to=NAMES]     who has a vote; and between two sets of voters
//! log NAME…                                   what the log says: who has joined
//! join NAME [node=N] [port=N]   leave NAME    and what it says next; a port is where it is by now
//! near NAME…   far NAME…                      whose log is near the end, as the leader hears
//! next                                        the next step
//! step                                        the same, taken
//! crash                                       the same, with the leader gone after its first entry
//! settle                                      steps until there is nothing left to do
//! ```
//!
//! A step is taken as openraft does: who has a vote changes in two entries, the first of
//! which names both sets of voters, and whoever loses its vote leaves with the second. All
//! else is one entry. What a leader that crashes has written is there for the next one.
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test --lib reconcile::scripts::reconcile::join
//! UPDATE_GOLDENFILES=1 cargo test --lib reconcile::scripts
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

use etcd_log::{Batch, Command, LogTime, Machine};
use etcd_projections::State;
use test_each_file::test_each_path;

use super::*;
use crate::util::{limit, scripts_are_tests};

/// No script takes so many steps: it goes round in a circle.
const MOST_STEPS: usize = 20;

test_each_path! { in "tests/scripts/reconcile" as reconcile => run }

fn run(script: &Path) {
    limit::begin();
    let recorded = goldenscript::run(&mut Runner::new(), script);
    recorded.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

#[test]
fn every_script_is_a_test() {
    scripts_are_tests::check(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        "tests/scripts/reconcile",
        "node::reconcile::scripts::reconcile",
    );
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Group {
        #[arg(key, optional)]
        learners: Option<String>,
        #[arg(key, optional)]
        to: Option<String>,
        voters: Vec<String>,
    },
    Log(Vec<String>),
    Join {
        name: String,
        #[arg(key, optional)]
        node: Option<u64>,
        #[arg(key, optional)]
        port: Option<u16>,
    },
    Leave(String),
    Near(Vec<String>),
    Far(Vec<String>),
    Next,
    Step,
    Crash,
    Settle,
}

struct Runner {
    /// What the log says.
    state: State,
    /// What the group is, as its leader has it.
    group: Membership,
    near: BTreeSet<NodeId>,
}

impl Runner {
    fn new() -> Self {
        let group = Membership { voters: Vec::new(), nodes: std::collections::BTreeMap::new() };
        Self { state: State::new(5), group, near: BTreeSet::new() }
    }

    fn next(&self) -> Option<Step> {
        next_step(&self.group, self.state.machines(), |node| self.near.contains(&node))
    }

    /// Takes the next step: both its entries, or the first one.
    fn step(&mut self, whole: bool) -> String {
        let Some(step) = self.next() else { return "nothing to do\n".to_owned() };
        let mut group = self.group.clone();
        let last = group.voters.last().cloned().unwrap_or_default();
        let with = |node| last.iter().copied().chain([node]).collect();
        let without = |node| last.iter().copied().filter(|other| *other != node).collect();
        let votes = |node| last.contains(&node);
        match &step {
            Step::LeaveJointConfig => group.voters.push(last),
            Step::Promote(node) => group.voters.push(with(*node)),
            Step::Remove(node) if votes(*node) => group.voters.push(without(*node)),
            Step::Remove(node) => drop(group.nodes.remove(node)),
            Step::Add(node, address) | Step::Move(node, address) => {
                group.nodes.insert(*node, Arc::clone(address));
            }
        }
        if whole || step == Step::LeaveJointConfig {
            leave_joint(&mut group);
        }
        self.group = group;
        let crashed = if whole { "" } else { ", and crash" };
        format!("{}{crashed}: {}\n", step_shown(&step), group_shown(&self.group))
    }

    fn settle(&mut self) -> String {
        let mut steps = String::new();
        for _ in 0..MOST_STEPS {
            if self.next().is_none() {
                return steps + "nothing to do\n";
            }
            steps.push_str(&self.step(true));
        }
        panic!("it does not come to an end:\n{steps}");
    }

    /// Applies a command of the log.
    fn apply(&mut self, command: Command) {
        self.state.apply(&Batch::new(LogTime(0), vec![command]));
    }

    fn log_shown(&self) -> String {
        let machines = self.state.machines().iter().map(|machine| {
            let same = format!("n{}", machine.node.0);
            let node = if *machine.name == *same { String::new() } else { format!("={same}") };
            format!("{}{node}{}", machine.name, port_shown(machine.peer_address()))
        });
        format!("log {}\n", machines.collect::<Vec<_>>().join(" "))
    }
}

/// Leaves the last set of voters, and lets go who had a vote only in another.
fn leave_joint(group: &mut Membership) {
    let Some(last) = group.voters.pop() else { return };
    let before: BTreeSet<_> = group.voters.drain(..).flatten().collect();
    group.nodes.retain(|node, _| last.contains(node) || !before.contains(node));
    group.voters.push(last);
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        Ok(match action {
            Action::Group { learners, to, voters } => {
                let to = to.as_deref().map(listed).transpose()?;
                let learners = learners.as_deref().map(listed).transpose()?;
                let voters: Result<BTreeSet<_>, _> = voters.iter().map(|name| node(name)).collect();
                let voters: Vec<_> = [voters?].into_iter().chain(to).collect();
                let nodes = voters.iter().flatten().copied().chain(learners.into_iter().flatten());
                let nodes = nodes.map(|node| (node, Arc::from(address(node, None)))).collect();
                self.group = Membership { voters, nodes };
                format!("{}\n", group_shown(&self.group))
            }
            Action::Log(names) => {
                for name in names {
                    self.apply(joins(name, node(name)?, None));
                }
                self.log_shown()
            }
            Action::Join { name, node: id, port } => {
                let id = id.map_or_else(|| node(name), |id| Ok(NodeId(id)))?;
                self.apply(joins(name, id, *port));
                self.log_shown()
            }
            Action::Leave(name) => {
                self.apply(Command::Leave { name: Arc::from(&**name) });
                self.log_shown()
            }
            Action::Near(names) => {
                let names: Result<Vec<_>, _> = names.iter().map(|name| node(name)).collect();
                self.near.extend(names?);
                String::new()
            }
            Action::Far(names) => {
                let names: Result<Vec<_>, _> = names.iter().map(|name| node(name)).collect();
                let names = names?;
                self.near.retain(|node| !names.contains(node));
                String::new()
            }
            Action::Next => {
                self.next().map_or("nothing to do".to_owned(), |step| step_shown(&step)) + "\n"
            }
            Action::Step => self.step(true),
            Action::Crash => self.step(false),
            Action::Settle => self.settle(),
        })
    }
}

fn joins(name: &str, node: NodeId, port: Option<u16>) -> Command {
    Command::Join(Machine {
        name: Arc::from(name),
        node,
        peer_url: Arc::from(format!("http://{}", address(node, port))),
        client_url: Arc::from("http://h:4001"),
    })
}

/// A machine by its name: `n3` is machine 3.
fn node(name: &str) -> Result<NodeId, Box<dyn Error>> {
    let number = name.strip_prefix('n').and_then(|number| number.parse().ok());
    Ok(NodeId(number.ok_or_else(|| format!("{name} names no machine"))?))
}

fn listed(names: &str) -> Result<BTreeSet<NodeId>, Box<dyn Error>> {
    names.split_whitespace().map(node).collect()
}

/// Where a machine is reached.
fn address(node: NodeId, port: Option<u16>) -> String {
    format!("n{}:{}", node.0, port.unwrap_or(PORT))
}

/// Where machines are at first.
const PORT: u16 = 7001;

fn port_shown(address: &str) -> String {
    let port = address.rsplit(':').next().unwrap_or_default();
    if port == PORT.to_string() { String::new() } else { format!(":{port}") }
}

fn step_shown(step: &Step) -> String {
    match step {
        Step::LeaveJointConfig => "leave the joint configuration".to_owned(),
        Step::Remove(node) => format!("remove n{}", node.0),
        Step::Add(node, address) => format!("add n{} at {address}", node.0),
        Step::Move(node, address) => format!("move n{} to {address}", node.0),
        Step::Promote(node) => format!("promote n{}", node.0),
    }
}

fn group_shown(group: &Membership) -> String {
    let shown = |node: &NodeId| {
        let port = group.nodes.get(node).map_or(" nowhere".to_owned(), |at| port_shown(at));
        format!("n{}{port}", node.0)
    };
    let voters = group.voters.iter();
    let voters: Vec<_> =
        voters.map(|voters| voters.iter().map(shown).collect::<Vec<_>>().join(" ")).collect();
    let is_learner = |node: &&NodeId| !group.voters.iter().any(|voters| voters.contains(node));
    let learners = group.nodes.keys().filter(is_learner).map(shown);
    let learners: Vec<_> = learners.collect();
    let learners = if learners.is_empty() {
        String::new()
    } else {
        format!(" learners {}", learners.join(" "))
    };
    format!("voters {}{learners}", voters.join(" | "))
}
