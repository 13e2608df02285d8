//! Runs the golden scripts of faults: a log with a few segments and sealed files,
//! one fault at a time in a copy of it, and what opening and reading it says.
//!
//! ```text
//! log                     lists the files, oldest first
//! flip FILE FIELD…        one bit, in each of these fields of the frame in the middle
//!                         of a segment, or of these parts of a sealed file
//! missing FILE   empty FILE   zeros FILE   cut FILE
//! swap FILE FILE          double FILE name=NAME
//! ```
//!
//! A file is named by its age among its kind: `oldest-segment`, `middle-sealed`.
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test -p etcd-log --test faults missing
//! UPDATE_GOLDENFILES=1 cargo test -p etcd-log --test faults
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/scripts_are_tests.rs"]
mod scripts_are_tests;
mod support;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use etcd_log::{LogError, LogReader, LogStorage as _, RaftIndex, Record, Wal, WalOptions, Write};
use support::{entry, eventually, limit, open_to_read, options, write};
use tempfile::TempDir;
use test_each_file::test_each_path;

/// How many entries the log has.
const ENTRIES: u64 = 60;

/// Entries up to here are sealed.
const SETTLED: u64 = 29;

test_each_path! { in "log/tests/faults" as faults => run }

fn run(script: &Path) {
    limit::begin();
    goldenscript::run(&mut Runner { log: written() }, script).unwrap();
}

#[test]
fn every_script_is_a_test() {
    scripts_are_tests::check(Path::new(env!("CARGO_MANIFEST_DIR")), "tests/faults", "faults");
}

/// A closed log: three sealed files, and three segments behind them.
fn written() -> TempDir {
    let dir = TempDir::new().unwrap();
    let options = WalOptions { segment_bytes: 2048, ..options(dir.path()) };
    let (wal, _) = Wal::open(&options).unwrap();
    for index in 0..ENTRIES {
        write(&wal, Write::Append(vec![expected(index)]));
    }
    wal.note_committed(expected(ENTRIES - 1).id);
    wal.note_checkpoints(Some(RaftIndex(SETTLED)), None);
    eventually("three sealed files", || wal.reader().archived().0 == 3);
    let spare = || files(dir.path(), "wal").iter().any(|path| is_spare(path));
    eventually("segments are let go", || spare() && oldest_follows(&wal, dir.path()));
    wal.close().unwrap();
    dir
}

/// Whether okaywal has let go of all segments that it may.
fn oldest_follows(wal: &Wal, dir: &Path) -> bool {
    let spare = files(dir, "wal").iter().filter(|path| is_spare(path)).count();
    spare == wal.reader().archived().0
}

fn is_spare(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-cp")
}

fn expected(index: u64) -> std::sync::Arc<etcd_log::Entry> {
    entry(index, &format!("{index} {}", "v".repeat(20)))
}

/// The files of a directory, oldest first.
fn files(dir: &Path, name: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join(name)).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| !path.ends_with("witness")).collect();
    files.sort_by_key(|path| number_of(path));
    files
}

/// The first number in a file's name.
fn number_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split('-').find_map(|part| part.parse().ok()).unwrap_or_default()
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Log,
    Flip(String, Vec<String>),
    Missing(String),
    Empty(String),
    Zeros(String),
    Cut(String),
    Swap(String, String),
    Double {
        file: String,
        #[arg(key)]
        name: String,
    },
}

struct Runner {
    log: TempDir,
}

impl Runner {
    fn list(&self) -> String {
        let mut output = String::new();
        for kind in ["archive", "wal"] {
            for path in files(self.log.path(), kind).iter().filter(|path| !is_spare(path)) {
                let name = path.file_name().unwrap().to_str().unwrap();
                writeln!(output, "{}", short(name)).unwrap();
            }
        }
        output
    }

    /// Does something to a copy of the log, and says what opening and reading it
    /// comes to.
    fn with(&self, change: impl FnOnce(&Path)) -> String {
        let dir = TempDir::new().unwrap();
        for kind in ["archive", "wal"] {
            fs::create_dir(dir.path().join(kind)).unwrap();
            for path in fs::read_dir(self.log.path().join(kind)).unwrap() {
                let path = path.unwrap().path();
                let to = dir.path().join(kind).join(path.file_name().unwrap());
                fs::copy(path, to).unwrap();
            }
        }
        change(dir.path());
        match judge(dir.path()) {
            Ok(()) => "good".to_owned(),
            Err(error) => shown(&error, dir.path()),
        }
    }

    fn flip(&self, file: &str, field: &str) -> String {
        self.with(|dir| {
            let path = find(dir, file);
            let mut bytes = fs::read(&path).unwrap();
            let at = if file.ends_with("-sealed") {
                place_in_sealed(&bytes, field)
            } else {
                place_in_segment(dir, &path, &bytes, field)
            };
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        })
    }
}

/// Opens a log and reads all of it. What is read must be what was written.
fn judge(dir: &Path) -> Result<(), LogError> {
    let (reader, recovered) = open_to_read(dir)?;
    assert_eq!(recovered.torn, None, "nothing here was torn");
    reader.verify_archive()?;
    let all: Vec<_> = read_all(&reader)?;
    assert!(all.iter().eq((0..ENTRIES).map(expected).collect::<Vec<_>>().iter()), "other entries");
    Ok(())
}

fn read_all(reader: &LogReader) -> Result<Vec<std::sync::Arc<etcd_log::Entry>>, LogError> {
    reader.iter(reader.first()..RaftIndex(u64::MAX)).collect()
}

/// The file of this kind and age.
fn find(dir: &Path, file: &str) -> PathBuf {
    let (age, kind) = file.split_once('-').unwrap();
    let mut files = files(dir, if kind == "sealed" { "archive" } else { "wal" });
    files.retain(|path| !is_spare(path));
    match age {
        "oldest" => files.swap_remove(0),
        "middle" => files.swap_remove(files.len() / 2),
        "newest" => files.pop().unwrap(),
        other => panic!("no such age: {other}"),
    }
}

/// Where a field of the frame in the middle of a segment lies.
fn place_in_segment(dir: &Path, path: &Path, bytes: &[u8], field: &str) -> usize {
    let mut frames = Vec::new();
    let archive = dir.join("archive");
    LogReader::open(&dir.join("wal"), &archive, &mut |visit| {
        if visit.path == path && matches!(visit.record, Record::Entry(_)) {
            frames.push(usize::try_from(visit.offset).unwrap());
        }
    })
    .unwrap();
    let frame = frames[frames.len() / 2];
    let length = u32::from_le_bytes(bytes[frame + 8..frame + 12].try_into().unwrap()) as usize;
    let end = frame + 40 + length;
    match field {
        // okaywal's own bytes before and behind: one frame a commit, one chunk.
        "marker" => frame - 14,
        "number" => frame - 13,
        "chunk" => frame - 5,
        "chunkLength" => frame - 4,
        "chunkCrc" => end,
        "end" => end + 4,
        "salt" => frame,
        "length" => frame + 8,
        "kind" => frame + 12,
        "zero" => frame + 13,
        "left" => frame + 14,
        "sequence" => frame + 16,
        "commit" => frame + 24,
        "previous" => frame + 32,
        "crc" => frame + 36,
        "term" => frame + 40,
        "node" => frame + 48,
        "index" => frame + 56,
        "commands" => frame + 64,
        "json" => frame + 68 + (length - 28) / 2,
        other => panic!("no such field: {other}"),
    }
}

/// Where a part of a sealed file lies.
fn place_in_sealed(bytes: &[u8], part: &str) -> usize {
    let trailer = bytes.len() - 28;
    let length = u32::from_le_bytes(bytes[trailer..trailer + 4].try_into().unwrap()) as usize;
    let footer = trailer - length;
    match part {
        "magic" => 0,
        "format" => 8,
        "zero" => 12,
        "firstBlock" => 20,
        "lastBlock" => footer - 1,
        "footer" => footer + length / 2,
        "footerLength" => trailer,
        "footerHash" => trailer + 4,
        "endMagic" => trailer + 20,
        other => panic!("no such part: {other}"),
    }
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        Ok(match action {
            Action::Log => self.list(),
            Action::Flip(file, fields) => {
                let mut output = String::new();
                for field in fields {
                    writeln!(output, "{field}: {}", self.flip(file, field))?;
                }
                output
            }
            Action::Missing(file) => self.with(|dir| fs::remove_file(find(dir, file)).unwrap()),
            Action::Empty(file) => self.with(|dir| fs::write(find(dir, file), []).unwrap()),
            Action::Zeros(file) => self.with(|dir| {
                let path = find(dir, file);
                let length = fs::read(&path).unwrap().len();
                fs::write(path, vec![0; length]).unwrap();
            }),
            Action::Cut(file) => self.with(|dir| {
                let path = find(dir, file);
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            }),
            Action::Swap(one, other) => self.with(|dir| {
                let (one, other, aside) = (find(dir, one), find(dir, other), dir.join("aside"));
                fs::rename(&one, &aside).unwrap();
                fs::rename(&other, &one).unwrap();
                fs::rename(&aside, &other).unwrap();
            }),
            Action::Double { file, name } => self.with(|dir| {
                let path = find(dir, file);
                fs::copy(&path, path.with_file_name(name)).unwrap();
            }),
        })
    }
}

fn shown(error: &LogError, dir: &Path) -> String {
    let path = format!("{}/", dir.display());
    mask(&short(&error.to_string().replace(&path, "")))
}

/// Leaves out the zeros of long numbers.
fn short(text: &str) -> String {
    text.replace("00000000000000000", "…")
}

/// Hides checksums and hashes: they depend on a segment's random salt.
fn mask(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(|character: char| !character.is_alphanumeric());
        let hides =
            matches!(bare.len(), 8 | 32) && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hides { word.replace(bare, "xxxxxxxx") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}
