//! A cluster of real processes, each on ports of its own that it keeps.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::path::PathBuf;

use tempfile::TempDir;

use super::{Server, etcd, eventually};

/// A cluster. Its first machine has founded it.
pub struct Cluster {
    dir: TempDir,
    /// The machines, as far as they run.
    pub servers: Vec<Option<Server>>,
    /// Their ports, for clients and for each other.
    ports: Vec<(String, String)>,
    /// What else each is started with.
    args: Vec<String>,
}

impl Cluster {
    /// Starts so many machines, all of which have a vote by then.
    pub fn start(machines: usize, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let (servers, ports) = (Vec::new(), Vec::new());
        let mut cluster = Self { dir: TempDir::new().unwrap(), servers, ports, args };
        (0..machines).for_each(|_| cluster.add());
        eventually("all have a vote", || {
            let list = cluster.list();
            list.matches("\"role\":\"follower\"").count() == machines - 1
        });
        cluster
    }

    /// Adds a machine.
    pub fn add(&mut self) {
        let at = self.servers.len();
        self.ports.push(("0".to_owned(), "0".to_owned()));
        self.servers.push(None);
        self.launch(at, &[]);
        self.wait(at);
    }

    /// Starts a machine that does not run, with the same command as before.
    pub fn launch(&mut self, at: usize, args: &[&str]) {
        let (clients, peers) = self.ports[at].clone();
        let mut command = etcd(&["-c", &clients, "-s", &peers]);
        command.arg("-d").arg(self.dir(at)).args(&self.args).args(args);
        if at > 0 {
            command.arg("-C").arg(format!("127.0.0.1:{}", self.ports[0].1));
        }
        self.servers[at] = Some(Server::launch(&mut command));
    }

    /// Starts one more machine, and waits for nothing.
    pub fn launch_new(&mut self, at: usize) {
        self.ports.push(("0".to_owned(), "0".to_owned()));
        self.launch(at, &[]);
    }

    /// Waits until a machine is ready.
    pub fn wait(&mut self, at: usize) {
        let server = self.servers[at].as_mut().unwrap();
        server.wait_until_ready();
        self.ports[at] = server.ports();
    }

    /// Kills a machine.
    pub fn kill(&mut self, at: usize) {
        self.servers[at].take().unwrap().kill();
    }

    /// Makes a machine take other ports when it is started the next time.
    pub fn forget_ports(&mut self, at: usize) {
        self.ports[at] = ("0".to_owned(), "0".to_owned());
    }

    /// Where a machine's data lies.
    pub fn dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("node{}", at + 1))
    }

    /// A machine that runs.
    pub fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().unwrap()
    }

    /// The machines that run.
    pub fn running(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    /// Which machine leads, as the others see it.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        eventually("somebody leads", || {
            let urls = self.running().filter_map(|server| server.try_get("/leader"));
            let urls: Vec<_> = urls.filter(|reply| reply.status == 200).collect();
            leader = urls.first().and_then(|reply| {
                let port = reply.body.trim_end().rsplit(':').next()?.to_owned();
                let at = self.ports.iter().position(|(_, peers)| *peers == port)?;
                self.servers[at].as_ref().map(|_| at)
            });
            leader.is_some()
        });
        leader.unwrap()
    }

    /// The machines and how they stand, as JSON.
    pub fn list(&self) -> String {
        self.running().next().unwrap().get("/v1/machines?detail=true").body
    }
}
