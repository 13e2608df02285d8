//! Faults that last: while a disk hangs, a link is slow or a leader is deaf, the healthy
//! majority goes on writing. What counts is what holds while the fault is there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that does nothing says so")]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::{Reply, Server, agent, eventually, waited_for_a_core};

/// How long a healthy majority may acknowledge no write, whatever the others do.
const LIMIT: Duration = Duration::from_secs(5);

/// How much longer everything may take at most on a machine with much else to do: as long
/// as it lets those wait for a core that are to do it, and no longer.
const SLACK: Duration = Duration::from_secs(5);

/// How long one try to write may take.
const TRY: Duration = Duration::from_secs(2);

/// How long something takes that these machines do.
struct Time<'s> {
    servers: &'s [&'s Server],
    begun: Instant,
    waited: Duration,
}

impl<'s> Time<'s> {
    /// Begins to count.
    fn of(servers: &'s [&'s Server]) -> Self {
        Self { servers, begun: Instant::now(), waited: Self::waited(servers) }
    }

    fn waited(servers: &[&Server]) -> Duration {
        // What stands between them runs here.
        let here = std::iter::once(std::process::id());
        here.chain(servers.iter().map(|server| server.pid())).map(waited_for_a_core).sum()
    }

    /// Checks that it has not taken too long by now.
    fn check(&self) {
        let took = self.begun.elapsed();
        if took >= LIMIT {
            let waited = Self::waited(self.servers).saturating_sub(self.waited);
            let most = LIMIT + waited.min(SLACK);
            assert!(took < most, "that took {took:?}, {waited:?} of it without a core");
        }
    }
}

/// Writes a small value, at one of these machines after the other, until it is
/// acknowledged.
fn write_somewhere(servers: &[&Server]) {
    let time = Time::of(servers);
    for server in servers.iter().cycle() {
        let reply = server.try_post("/v1/keys/small?timeout=1", &[("value", "small")], TRY);
        time.check();
        if reply.is_some_and(|reply| reply.status == 200) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The same, again and again for a while: the fault lasts.
fn write_for(time: Duration, servers: &[&Server]) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        write_somewhere(servers);
    }
}

/// For tests in which nobody else is to be elected: a machine with much else to do may
/// be silent for longer than a leader is waited for otherwise.
const PATIENT: [&str; 2] = ["--election", "1500-3000"];

fn post(server: &Server, key: &str, value: &str) -> Reply {
    server.post(&format!("/v1/keys/{key}?timeout=50"), &[("value", value)])
}

fn term(server: &Server) -> u64 {
    server.get("/version").number("x-raft-term")
}

/// A value that a link needs longer for than a heartbeat takes, or than an election: it is
/// sent once, and nobody is elected because of it.
#[test]
fn large_value_passes_slow_links() {
    let cluster = Cluster::start_behind_proxies(3, &PATIENT);
    let leader = cluster.leader();
    let before = term(cluster.server(leader));
    let value = "v".repeat(1_000_000);
    for rate in [5 << 20, 400_000] {
        cluster.slow_down(rate);
        let all: Vec<_> = cluster.running().collect();
        let (time, carried) = (Time::of(&all), cluster.carried());
        assert_eq!(post(cluster.server(leader), "large", &value).status, 200);
        write_somewhere(&[cluster.server(leader)]);
        time.check();
        // One of the followers may still be getting it.
        eventually("both have it", || {
            (1..3).all(|next| {
                let read = "/v1/keys/small?stale=true";
                let index = cluster.server(leader).get(read).number("x-etcd-index");
                cluster.server((leader + next) % 3).get(read).number("x-etcd-index") >= index
            })
        });
        let carried = cluster.carried() - carried;
        assert!(carried < 3 * 1_000_000, "{carried} bytes were sent for two times a megabyte");
    }
    // Through a follower, it goes to the leader first.
    assert_eq!(post(cluster.server((leader + 1) % 3), "large", &value).status, 200);
    assert_eq!(term(cluster.server(leader)), before, "nobody else was elected");
}

/// What JSON makes six times as long is counted as it is sent: each value goes alone, and
/// once, and small ones take their turn between them.
#[test]
fn values_full_of_escapes_pass() {
    let cluster = Cluster::start_behind_proxies(3, &PATIENT);
    let leader = cluster.leader();
    cluster.slow_down(20 << 20);
    let carried = cluster.carried();
    let body = format!("value={}", "\u{1}".repeat((1 << 20) - 100));
    let under_way = AtomicUsize::new(6);
    thread::scope(|scope| {
        for number in 0..6 {
            let (url, body, under_way) = (&cluster.server(leader).url, &body, &under_way);
            scope.spawn(move || {
                let sent = ureq::post(format!("{url}/v1/keys/escapes{number}?timeout=50"))
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .send(body);
                under_way.fetch_sub(1, Ordering::Relaxed);
                assert_eq!(sent.unwrap().status(), 200);
            });
        }
        while under_way.load(Ordering::Relaxed) > 0 {
            assert_eq!(post(cluster.server(leader), "small", "small").status, 200);
        }
    });
    // To two followers, six bytes for each.
    let (most, carried) = (6 * 2 * 6 * (1 << 20) * 5 / 4, cluster.carried() - carried);
    assert!(carried < most, "{carried} bytes were sent, and {most} are enough");
}

/// strace, holding up a system call of a process.
struct Held(Child);

impl Held {
    /// Holds up each sync of a process's log by so many microseconds; nothing, where
    /// strace is missing or may not trace, and nobody insists on it.
    fn syncs_of(server: &Server, micros: u64) -> Option<Self> {
        let held = Self::try_syncs_of(server, micros);
        if held.is_none() {
            let is_optional = std::env::var_os("CI").is_none();
            assert!(is_optional, "strace is missing, or may not trace");
            eprintln!("skipped: strace is missing, or may not trace");
        }
        held
    }

    fn try_syncs_of(server: &Server, micros: u64) -> Option<Self> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]);
        strace.arg("-e").arg(format!("inject=fdatasync,fsync:delay_enter={micros}"));
        strace.arg("-p").arg(server.pid().to_string());
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut strace = strace.spawn().ok()?;
        let status = format!("/proc/{}/status", server.pid());
        let is_traced = || {
            let status = std::fs::read_to_string(&status).unwrap();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        let mut may_trace = true;
        eventually("it is traced", || {
            may_trace = strace.try_wait().unwrap().is_none();
            !may_trace || is_traced()
        });
        may_trace.then_some(Self(strace))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ended = (self.0.kill(), self.0.wait());
    }
}

/// The others of three machines.
fn others(cluster: &Cluster, at: usize) -> [&Server; 2] {
    [cluster.server((at + 1) % 3), cluster.server((at + 2) % 3)]
}

#[test]
fn leader_whose_disk_hangs_is_replaced() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let Some(_held) = Held::syncs_of(cluster.server(leader), 120_000_000) else { return };
    write_for(Duration::from_secs(10), &others(&cluster, leader));
    assert_ne!(cluster.leader_without(leader), leader);
    let said = cluster.server(leader).said();
    assert!(said.iter().any(|line| line.contains("leads no longer")), "{said:#?}");
}

#[test]
fn leader_whose_disk_is_slow_gives_way() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let Some(_held) = Held::syncs_of(cluster.server(leader), 600_000) else { return };
    let others = others(&cluster, leader);
    eventually("another one leads", || {
        write_somewhere(&others);
        let led_by = others[0].get("/leader");
        led_by.status == 200 && !led_by.body.contains(&cluster.server(leader).peer_url)
    });
}

#[test]
fn follower_whose_disk_hangs_holds_up_nobody() {
    let cluster = Cluster::start(3, &PATIENT);
    let leader = cluster.leader();
    let before = term(cluster.server(leader));
    let follower = (leader + 1) % 3;
    let Some(_held) = Held::syncs_of(cluster.server(follower), 120_000_000) else { return };
    write_for(Duration::from_secs(5), &others(&cluster, follower));
    assert_eq!(term(cluster.server(leader)), before, "nobody else was elected");
}

/// What it sends arrives, and what it is answered is lost.
#[test]
fn deaf_leader_is_replaced() {
    let cluster = Cluster::start_behind_proxies(3, &[]);
    let leader = cluster.leader();
    cluster.deafen(leader);
    write_for(Duration::from_secs(10), &others(&cluster, leader));
    assert_ne!(cluster.leader_without(leader), leader);
}

#[test]
fn deaf_follower_holds_up_nobody() {
    let cluster = Cluster::start_behind_proxies(3, &PATIENT);
    let leader = cluster.leader();
    let before = term(cluster.server(leader));
    let follower = (leader + 1) % 3;
    cluster.deafen(follower);
    write_for(Duration::from_secs(5), &others(&cluster, follower));
    assert_eq!(term(cluster.server(leader)), before, "nobody else was elected");
}

/// Whoever says that it is ready is counted on: another machine may go at that moment.
#[test]
fn machine_that_is_ready_has_its_vote() {
    let mut cluster = Cluster::start(2, &[]);
    let leader = cluster.leader();
    cluster.add();
    cluster.kill(leader);
    write_somewhere(&[cluster.server((leader + 1) % 2), cluster.server(2)]);
}

#[test]
fn missing_machines_are_named() {
    let mut cluster = Cluster::start(2, &[]);
    let (leader, other) = (cluster.leader(), (cluster.leader() + 1) % 2);
    cluster.kill(leader);
    let name = format!("node{}", leader + 1);
    let reply = post_within(cluster.server(other), 5);
    assert_eq!(reply.status, 503);
    let expected = [
        format!("No Leader: {name} Does Not Answer\n"),
        format!("No Majority: {name} Does Not Answer\n"),
    ];
    assert!(expected.contains(&reply.body), "{}", reply.body);
    eventually("it says so", || {
        cluster.server(other).said().iter().any(|line| line.contains("no machine leads: node"))
    });
}

fn post_within(server: &Server, seconds: u64) -> Reply {
    server.post(&format!("/v1/keys/small?timeout={seconds}"), &[("value", "small")])
}

/// What nobody waits for any longer takes no memory, however long the majority is away.
#[test]
fn writes_without_a_majority_take_little_memory() {
    const WRITES: usize = 320;
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let server = cluster.server(leader);
    let body = format!("value={}", "v".repeat(1_000_000));
    let write = |limit| {
        let request = agent(TRY).post(format!("{}/v1/keys/large?timeout={limit}", server.url));
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        request.send(&body).map(|reply| reply.status().as_u16())
    };
    assert_eq!(write(50).unwrap(), 200);
    let before = server.resident_kib();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for at in followers {
        cluster.server(at).signal("-STOP");
    }
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..WRITES / 16 {
                    let status = write(0);
                    assert!(status.is_err() || matches!(status, Ok(503 | 504)), "{status:?}");
                }
            });
        }
    });
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 100 << 10, "{grown} KiB more after {WRITES} writes of a megabyte");
    for at in followers {
        cluster.server(at).signal("-CONT");
    }
    write_somewhere(&[server]);
}

/// What came of it is not known; to hear so, nobody has to wait as long as he would.
#[test]
fn write_under_way_is_answered_soon_after_the_majority_is_gone() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let server = cluster.server(leader);
    let (acknowledged, writing) = mpsc::channel();
    let reply = thread::scope(|scope| {
        // One write after the other: one is under way whenever the others stop.
        let writes = scope.spawn(move || {
            loop {
                let servers = [server];
                let time = Time::of(&servers);
                let reply = post(server, "small", "small");
                time.check();
                if reply.status != 200 {
                    return reply;
                }
                // Only the first is waited for.
                let _heard = acknowledged.send(());
            }
        });
        writing.recv().unwrap();
        for other in others(&cluster, leader) {
            other.signal("-STOP");
        }
        writes.join().unwrap()
    });
    assert_eq!(reply.status, 504, "{}", reply.body);
}

/// Whoever reads the log of a machine learns who leads and who is missing.
#[test]
fn news_are_told_in_a_line() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    cluster.kill(away);
    let hears = |cluster: &Cluster, at: usize, text: &str| {
        let mut heard = Vec::new();
        eventually(text, || {
            heard.extend(cluster.server(at).said());
            heard.iter().any(|line| line.contains(text))
        });
    };
    hears(&cluster, leader, &format!("machine node{} does not answer", away + 1));
    cluster.launch(away, &[]);
    cluster.wait(away);
    hears(&cluster, leader, &format!("machine node{} is back, after ", away + 1));
    cluster.kill(leader);
    let next = cluster.leader();
    let follower = (0..3).find(|at| ![leader, next].contains(at)).unwrap();
    hears(&cluster, follower, &format!("machine node{} leads, in term ", next + 1));
}
