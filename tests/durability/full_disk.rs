//! A disk that runs full, for real: a small file system of its own.
//!
//! It is made in a file and mounted, which takes the rights of root and a loop
//! device; where they are missing, the test says so and does nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that does nothing says so")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Server, etcd, eventually};

const ARGS: [&str; 16] = [
    "-c",
    "0",
    "-s",
    "0",
    "-m",
    "10",
    "--segment-bytes",
    "1048576",
    "--checkpoint-bytes",
    "2000000",
    "--disk-reserve",
    "8000000",
    "--ballast-bytes",
    "8000000",
    "--retain",
    "forever",
];

/// How large the file system is, in bytes.
const SIZE: u64 = 64 << 20;

/// A small file system. It is unmounted when this goes.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = Self { dir: TempDir::new().unwrap() };
        let image = disk.dir.path().join("image");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        fs::create_dir(disk.path()).unwrap();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mounted =
            made && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        if !mounted {
            eprintln!("skipped: a file system cannot be made and mounted here");
        }
        mounted.then_some(disk)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn ballast(&self) -> bool {
        self.data().join("ballast").exists()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It is not mounted if that could not be done.
        run(Command::new("umount").arg(self.path()));
    }
}

fn run(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A value that cannot be compressed by much.
fn value(number: u64) -> String {
    let mut state = number;
    let digits = (0..200_000).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((state >> 58) % 64).unwrap())
    });
    digits.filter(|character| !"%&+".contains(*character)).collect()
}

/// Writes until the machine refuses. Returns how many writes it acknowledged.
fn write_until_refused(server: &Server) -> u64 {
    for number in 0..10_000 {
        let reply = server.post("/v1/keys/k", &[("value", &value(number))]);
        if reply.status == 507 {
            return number;
        }
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    panic!("the disk does not run full");
}

fn is_refused(server: &Server) -> bool {
    server.post("/v1/keys/probe", &[("value", "x")]).status == 507
}

fn check(server: &Server, acknowledged: u64) {
    let body = server.get("/v1/keys/k").body;
    let read: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(read["value"] == value(acknowledged - 1), "the last write is not there");
    assert_eq!(server.get("/health").status, 200);
}

fn verify(data: &Path) {
    let verified = etcd(&["log", "verify", "-d"]).arg(data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn disk_that_others_fill_refuses_writes_until_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let server = Server::start_with(&disk.data(), &ARGS);
    server.post("/v1/keys/k", &[("value", &value(0))]);
    assert!(disk.ballast());
    let filler = disk.path().join("filler");
    let taken = SIZE - (24 << 20);
    assert!(run(Command::new("fallocate").arg("-l").arg(taken.to_string()).arg(&filler)));
    eventually("writes are refused", || is_refused(&server));
    check(&server, 1);
    assert!(server.get("/v1/watch/k?index=3").body.starts_with(r#"{"action":"SET""#));
    eventually("the ballast is let go", || !disk.ballast());
    fs::remove_file(&filler).unwrap();
    eventually("writes are accepted again", || !is_refused(&server));
    assert!(disk.ballast());
    check(&server, 1);
    assert!(server.stop("-TERM").0.success());
    verify(&disk.data());
}

#[test]
fn disk_that_history_fills_goes_on_when_less_is_kept() {
    let Some(disk) = SmallDisk::mount() else { return };
    let server = Server::start_with(&disk.data(), &ARGS);
    let acknowledged = write_until_refused(&server);
    assert!(acknowledged > 50, "{acknowledged}");
    check(&server, acknowledged);
    assert!(server.stop("-TERM").0.success());
    verify(&disk.data());

    let mut args = ARGS;
    args[15] = "2MiB";
    let server = Server::start_with(&disk.data(), &args);
    eventually("writes are accepted again", || !is_refused(&server));
    check(&server, acknowledged);
    eventually("history is dropped", || server.get("/v1/watch/k?index=1").status == 410);
    let line = server.get("/v1/watch/k?index=1").body;
    assert!(line.starts_with("Watch From Index: 1 Is No Longer Kept; The Oldest Is "), "{line}");
    assert!(server.stop("-TERM").0.success());
    verify(&disk.data());
}
