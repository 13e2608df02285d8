//! A cluster of real processes, each on ports of its own that it keeps.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::net::{TcpListener, UdpSocket};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use ureq::tls::TlsConfig;

use super::proxy::{Cut, Network};
use super::{Server, etcd, eventually};

/// A cluster. Its first machine has founded it.
pub struct Cluster {
    dir: TempDir,
    /// The machines, as far as they run.
    pub servers: Vec<Option<Server>>,
    /// Their ports, for clients and for each other.
    ports: Vec<(Port, Port)>,
    /// What else each is started with.
    args: Vec<String>,
    /// What one of them is started with, besides.
    own_args: Box<dyn Fn(usize) -> Vec<String> + Send + Sync>,
    /// How clients are to speak TLS, if they do.
    pub trust: Option<TlsConfig>,
    /// What stands between them, if they can be cut off.
    network: Option<Network>,
}

impl Cluster {
    /// Starts so many machines, all of which have a vote by then.
    pub fn start(machines: usize, args: &[&str]) -> Self {
        Self::new(None, args).with(machines)
    }

    /// The same, and each with arguments of its own.
    pub fn start_each(
        machines: usize,
        own_args: impl Fn(usize) -> Vec<String> + Send + Sync + 'static,
        trust: Option<TlsConfig>,
    ) -> Self {
        let own_args = Box::new(own_args);
        Self { own_args, trust, ..Self::new(None, &[]) }.with(machines)
    }

    /// All are alike, and each is started with further arguments the first time.
    pub fn start_playing(machines: usize, first: &[&str]) -> Self {
        let mut cluster = Self::start(machines, first);
        cluster.args.clear();
        cluster
    }

    /// The same, and each machine can be cut off from the others.
    pub fn start_behind_proxies(machines: usize, args: &[&str]) -> Self {
        Self::new(Some(Network::default()), args).with(machines)
    }

    fn new(network: Option<Network>, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let (dir, own_args) = (TempDir::new().unwrap(), Box::new(|_| Vec::new()));
        let (servers, ports) = (Vec::new(), Vec::new());
        Self { dir, servers, ports, args, own_args, trust: None, network }
    }

    fn with(mut self, machines: usize) -> Self {
        (0..machines).for_each(|_| self.add());
        eventually("all have a vote", || {
            let list = self.list();
            list.matches("\"role\":\"follower\"").count() == machines - 1
        });
        self
    }

    /// Gives machines other arguments of their own when they are started the next time.
    pub fn change_own_args(
        &mut self,
        own_args: impl Fn(usize) -> Vec<String> + Send + Sync + 'static,
    ) {
        self.own_args = Box::new(own_args);
    }

    /// Adds a machine.
    pub fn add(&mut self) {
        let at = self.servers.len();
        self.servers.push(None);
        self.launch_new(at);
        self.wait(at);
    }

    /// Starts a machine that does not run, with the same command as before.
    pub fn launch(&mut self, at: usize, args: &[&str]) {
        let (clients, peers) = &self.ports[at];
        let mut command = etcd(&["-c", &clients.number(), "-s", &peers.number()]);
        command.arg("-d").arg(self.dir(at)).args(&self.args).args((self.own_args)(at)).args(args);
        if let Some(network) = &self.network {
            command.args(["--advertise-peer", network.address(at)]);
        }
        if at > 0 {
            command.arg("-C").arg(self.peer_address(0));
        }
        let mut server = Server::launch(&mut command);
        server.trust.clone_from(&self.trust);
        self.servers[at] = Some(server);
    }

    /// Starts one more machine, and waits for nothing.
    pub fn launch_new(&mut self, at: usize) {
        let ports = (Port::keep(), Port::keep());
        if let Some(network) = &mut self.network {
            network.add(ports.1.address());
        }
        self.ports.push(ports);
        self.launch(at, &[]);
    }

    /// Waits until a machine is ready.
    pub fn wait(&mut self, at: usize) {
        self.servers[at].as_mut().unwrap().wait_until_ready();
        if let Some(network) = &self.network {
            network.name(at, self.id(at));
        }
    }

    /// Kills a machine.
    pub fn kill(&mut self, at: usize) {
        self.servers[at].take().unwrap().kill();
    }

    /// Makes a machine take other ports when it is started the next time.
    pub fn forget_ports(&mut self, at: usize) {
        assert!(self.network.is_none(), "its proxy would not find it");
        self.ports[at] = (Port::keep(), Port::keep());
    }

    /// Cuts a machine off from the others, in both directions.
    pub fn cut(&self, at: usize, cut: Cut) {
        self.network.as_ref().unwrap().cut(at, cut);
    }

    /// Loses all that is sent to a machine; what it sends arrives.
    pub fn deafen(&self, at: usize) {
        self.network.as_ref().unwrap().deafen(at);
    }

    /// Makes all links between machines carry so many bytes a second.
    pub fn slow_down(&self, bytes_per_second: u32) {
        self.network.as_ref().unwrap().slow_down(bytes_per_second);
    }

    /// How many bytes the machines have sent each other.
    pub fn carried(&self) -> u64 {
        self.network.as_ref().unwrap().carried()
    }

    /// Ends a cut.
    pub fn heal(&self, at: usize) {
        self.network.as_ref().unwrap().heal(at);
    }

    /// Where a machine's data lies.
    pub fn dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(name(at))
    }

    /// A machine that runs.
    pub fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().unwrap()
    }

    /// The machines that run.
    pub fn running(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    /// Which machine leads, as soon as all that run say the same.
    pub fn leader(&self) -> usize {
        self.leader_of(|_| true)
    }

    /// The same, if nobody can ask one of them, which does not lead either.
    pub fn leader_without(&self, away: usize) -> usize {
        self.leader_of(|at| at != away)
    }

    fn leader_of(&self, counts: impl Fn(usize) -> bool) -> usize {
        let asked = |at: &usize| self.servers[*at].is_some() && counts(*at);
        let asked: Vec<_> = (0..self.servers.len()).filter(asked).collect();
        let mut leader = None;
        eventually("all follow one of them", || {
            let mut said = asked.iter().map(|at| self.followed_by(*at));
            leader = said.next().flatten().filter(|first| asked.contains(first));
            leader.is_some() && said.all(|next| next == leader)
        });
        leader.unwrap()
    }

    /// Which machine another one takes for the leader.
    fn followed_by(&self, at: usize) -> Option<usize> {
        let reply = self.server(at).try_get("/leader").filter(|reply| reply.status == 200)?;
        let (_scheme, address) = reply.body.trim_end().split_once("://")?;
        (0..self.servers.len()).find(|at| self.peer_address(*at) == address)
    }

    /// Where the others reach a machine.
    fn peer_address(&self, at: usize) -> String {
        match &self.network {
            Some(network) => network.address(at).to_owned(),
            None => self.ports[at].1.address(),
        }
    }

    /// What a machine calls itself when it speaks to the others.
    pub fn id(&self, at: usize) -> u64 {
        let mut id = None;
        eventually("it is in its own list", || {
            let list = self.server(at).get("/v1/machines?detail=true").body;
            let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
            let own = list.iter().find(|machine| machine["name"] == name(at));
            id = own.and_then(|own| u64::from_str_radix(own["id"].as_str()?, 16).ok());
            id.is_some()
        });
        id.unwrap()
    }

    /// The machines and how they stand, as JSON.
    pub fn list(&self) -> String {
        self.running().next().unwrap().get("/v1/machines?detail=true").body
    }
}

fn name(at: usize) -> String {
    format!("node{}", at + 1)
}

/// Where to look for ports.
const PORTS: Range<u16> = 10_000..32_000;

/// A port that stays free for its machine while that does not run.
///
/// It is none that an outgoing connection gets from the system. And other tests leave it
/// alone: whoever keeps a port has its number in UDP, which machines have no use for.
struct Port(u16, #[expect(dead_code, reason = "it is held, not used")] UdpSocket);

impl Port {
    fn keep() -> Self {
        static TRIED: AtomicUsize = AtomicUsize::new(0);
        let handed_out = handed_out_by_the_system();
        // Tests that run at the same time begin in different places.
        let begin = std::process::id() as usize * 64;
        for _ in PORTS {
            let tried = begin + TRIED.fetch_add(1, Ordering::Relaxed);
            let number = PORTS.start + u16::try_from(tried % PORTS.len()).unwrap();
            if handed_out.contains(&number) {
                continue;
            }
            let kept = UdpSocket::bind(("127.0.0.1", number));
            if let (Ok(kept), Ok(_)) = (kept, TcpListener::bind(("127.0.0.1", number))) {
                return Self(number, kept);
            }
        }
        panic!("no port between {} and {} is free", PORTS.start, PORTS.end);
    }

    fn number(&self) -> String {
        self.0.to_string()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0)
    }
}

/// The ports that outgoing connections get: none of those that are looked at here,
/// where the system does not say, or would leave none over.
fn handed_out_by_the_system() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first > PORTS.start || last < PORTS.end => first..=last,
        _ => u16::MAX..=u16::MAX,
    }
}
