//! Runs the golden scripts of the log: what is written, cut, flipped and opened
//! again. Every write goes to the in-memory twin as well, and what the two hold
//! is compared after each command.
//!
//! ```text
//! append TERM VALUE…       one entry a value, each a batch with one set
//! blank TERM               vote TERM NODE [committed=true]
//! truncate SINCE           purge TERM INDEX           committed TERM INDEX
//! checkpoint N [all=M]     what the newest checkpoint contains, and all of them
//! sealed N                 wait until there are N sealed files, and list them
//! segments N  retain WHAT  how long a segment is, how much is kept, from the next open on
//! close  open              kill                       close without the last words
//! state  entries [from=N] [to=N]   frames             what the log holds; what lies on disk
//! cut N  zero N            the last N bytes of the newest segment gone, or zero
//! flip AT                  one bit of the byte AT of the newest segment
//! blank_segment N          a new segment of N zero bytes
//! copy NAME                the newest segment, under another name
//! remove                   the newest segment gone
//! lose_high_water          the high-water mark gone, as after a power failure
//! flip_high_water AT       one bit of the byte AT of the high-water mark
//! long_high_water N        N bytes behind the high-water mark
//! foreign                  open as another node
//! ```
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test -p etcd-log --test scripts torn_tail
//! UPDATE_GOLDENFILES=1 cargo test -p etcd-log --test scripts
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/limit.rs"]
mod limit;
#[path = "../../tests/support/scripts_are_tests.rs"]
mod scripts_are_tests;

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_log::{
    Batch, Command, Entry, Index, Installed, KeyPath, LogId, LogReader, LogStorage as _, LogTime,
    MemoryLog, NodeId, Payload, RaftIndex, Record, Retain, Term, Vote, Wal, WalOptions, Write,
};
use tempfile::TempDir;
use test_each_file::test_each_path;

/// Longer than anything takes on a busy machine: reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

const NODE: NodeId = NodeId(0xa1);

test_each_path! { in "log/tests/scripts" as scripts => run }

fn run(script: &Path) {
    limit::begin();
    goldenscript::run(&mut Runner::new(), script).unwrap();
}

#[test]
fn every_script_is_a_test() {
    scripts_are_tests::check(Path::new(env!("CARGO_MANIFEST_DIR")), "tests/scripts", "scripts");
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Append(u64, Vec<String>),
    Blank(u64),
    Vote {
        term: u64,
        node: u64,
        #[arg(key, optional)]
        committed: bool,
    },
    Truncate(u64),
    Purge(u64, u64),
    Install(u64, u64, u64),
    Committed(u64, u64),
    Checkpoint {
        newest: u64,
        #[arg(key, optional)]
        all: Option<u64>,
    },
    Sealed(usize),
    Segments(u32),
    Retain(Retain),
    Close,
    Open,
    Kill,
    State,
    Entries {
        #[arg(key, optional)]
        from: Option<u64>,
        #[arg(key, optional)]
        to: Option<u64>,
    },
    Frames,
    Cut(u64),
    Zero(u64),
    Flip(u64),
    BlankSegment(u64),
    Copy(String),
    LoseHighWater,
    FlipHighWater(u64),
    LongHighWater(usize),
    Remove,
    Foreign,
}

struct Runner {
    dir: TempDir,
    /// Where the log lies now; a kill leaves the old place to the old process.
    generation: u32,
    segment_bytes: u32,
    retain: Retain,
    wal: Option<Wal>,
    twin: MemoryLog,
}

impl Runner {
    fn new() -> Self {
        let mut runner = Self {
            dir: TempDir::new().unwrap(),
            generation: 0,
            segment_bytes: 64 << 10,
            retain: Retain::Forever,
            wal: None,
            twin: MemoryLog::new(),
        };
        runner.open(NODE).unwrap();
        runner
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(format!("wal{}", self.generation))
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    fn open(&mut self, node: NodeId) -> Result<String, Box<dyn Error>> {
        let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
        let options = WalOptions {
            cache_bytes: 200,
            segment_bytes: self.segment_bytes,
            retain: self.retain,
            ..WalOptions::new(self.path(), self.archive(), node, on_fatal)
        };
        let (wal, recovered) = Wal::open(&options)?;
        if recovered.torn.is_some() {
            // The twin forgets what was cut off. The script shows how much it was.
            let since = wal.state().last.map_or(RaftIndex(0), |last| last.index.next());
            self.twin.write(Write::Truncate { since }, Box::new(drop));
        }
        self.wal = Some(wal);
        let mut output = recovered.torn.map_or(String::new(), |torn| {
            mask(&format!("torn at byte {}, {} bytes: {}\n", torn.offset, torn.bytes, torn.what))
        });
        if recovered.unreadable_high_water.is_some() {
            output.push_str("the high-water mark cannot be read\n");
        }
        Ok(output)
    }

    /// Leaves the log as a killed process would: a copy of the files is all that
    /// the next one gets.
    fn kill(&mut self) {
        let from = self.path();
        self.generation += 1;
        let to = self.path();
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            // A segment may just have been let go, on a thread of the log's.
            match fs::copy(file.path(), to.join(file.file_name())) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
        self.wal = None;
    }

    fn write(&self, write: &Write) -> Result<String, Box<dyn Error>> {
        let wal = self.wal.as_ref().ok_or("the log is not open")?;
        wal.write_and_wait(write.clone(), PATIENCE)?;
        self.twin.write_and_wait(write.clone(), PATIENCE)?;
        Ok(String::new())
    }

    fn append(&self, payloads: Vec<Payload>, term: u64) -> Result<String, Box<dyn Error>> {
        let wal = self.wal.as_ref().ok_or("the log is not open")?;
        let next = wal.state().last.map_or(0, |last| last.index.0 + 1);
        let entries = payloads.into_iter().zip(next..).map(|(payload, index)| {
            let id = LogId { term: Term(term), node: NODE, index: RaftIndex(index) };
            Arc::new(Entry { id, payload })
        });
        self.write(&Write::Append(entries.collect()))
    }

    /// The newest segment, and how much of it is not zero.
    fn newest(&self) -> (PathBuf, u64) {
        let files = fs::read_dir(self.path()).unwrap().map(|file| file.unwrap().path());
        let number = |path: &Path| path.to_str()?.rsplit_once("wal-")?.1.parse::<u64>().ok();
        let mut segments: Vec<_> = files.filter(|path| number(path).is_some()).collect();
        segments.sort_by_key(|path| number(path));
        let newest = segments.pop().unwrap();
        let bytes = fs::read(&newest).unwrap();
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        (newest, length as u64)
    }

    fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn damage(&self, action: &Action) -> Result<String, Box<dyn Error>> {
        if self.wal.is_some() {
            return Err("close the log first".into());
        }
        let (newest, length) = self.newest();
        match action {
            Action::Cut(bytes) => {
                OpenOptions::new().write(true).open(&newest)?.set_len(length - bytes)?;
            }
            Action::Zero(bytes) => {
                Self::overwrite(&newest, length - bytes, &vec![0; usize::try_from(*bytes)?]);
            }
            Action::Flip(at) => {
                let byte = fs::read(&newest)?[usize::try_from(*at)?];
                Self::overwrite(&newest, *at, &[byte ^ 1]);
            }
            Action::Remove => fs::remove_file(&newest)?,
            Action::FlipHighWater(at) => {
                let path = self.path().join("witness");
                let byte = fs::read(&path)?[usize::try_from(*at)?];
                Self::overwrite(&path, *at, &[byte ^ 1]);
            }
            Action::LongHighWater(bytes) => {
                let path = self.path().join("witness");
                fs::write(&path, [fs::read(&path)?, vec![7; *bytes]].concat())?;
            }
            Action::LoseHighWater => fs::remove_file(self.path().join("witness"))?,
            Action::Copy(name) => drop(fs::copy(&newest, self.path().join(name))?),
            Action::BlankSegment(bytes) => {
                let next = 1 + self.last_commit();
                fs::write(
                    self.path().join(format!("wal-{next}")),
                    vec![0; usize::try_from(*bytes)?],
                )?;
            }
            other => return Err(format!("no damage: {other:?}").into()),
        }
        Ok(String::new())
    }

    fn last_commit(&self) -> u64 {
        let bytes = fs::read(self.newest().0).unwrap();
        // Commits are numbered from 1, and no payload here holds a zero byte.
        let starts = bytes.windows(9).filter(|window| window[0] == 1 && window[2..9] == [0; 7]);
        starts.map(|window| u64::from(window[1])).max().unwrap_or(0)
    }

    fn state(&self) -> Result<String, Box<dyn Error>> {
        let state = self.wal.as_ref().ok_or("the log is not open")?.state();
        let shown = |id: Option<LogId>| id.map_or("none".to_owned(), |id| id.to_string());
        let vote = state.vote.map_or("none".to_owned(), |vote| vote.to_string());
        let (purged, committed) = (shown(state.purged), shown(state.committed));
        Ok(format!(
            "vote {vote}, purged {purged}, committed {committed}, last {}\n",
            shown(state.last)
        ))
    }

    fn entries(&self, from: Option<u64>, to: Option<u64>) -> Result<String, Box<dyn Error>> {
        let reader = self.wal.as_ref().ok_or("the log is not open")?.reader();
        let from = from.map_or(reader.first(), RaftIndex);
        let to = RaftIndex(to.unwrap_or(u64::MAX));
        let entries: Result<Vec<_>, _> = reader.iter(from..to).collect();
        let shown = |entry: &Arc<Entry>| format!("{}{}", entry.id, value_of(entry));
        Ok(entries?.iter().map(shown).collect::<Vec<_>>().join("\n"))
    }

    /// What lies on disk, frame by frame.
    fn frames(&self) -> Result<String, Box<dyn Error>> {
        let mut output = String::new();
        let (_, recovered) = LogReader::open(&self.path(), &self.archive(), &mut |visit| {
            let file = visit.path.file_name().unwrap().to_str().unwrap();
            let record = match visit.record {
                Record::Base(base) => {
                    format!("base {} last {:?}", base.index, base.last.map(|id| id.to_string()))
                }
                Record::Entry(entry) => format!("entry {}{}", entry.id, value_of(entry)),
                Record::Vote(vote) => format!("vote {vote}"),
                Record::Truncate(truncation) => format!("truncate since {}", truncation.since),
                Record::Purge { upto } => format!("purge up to {upto}"),
                Record::Committed { upto } => format!("committed up to {upto}"),
                Record::Forgotten { upto } => format!("forgotten up to {upto}"),
                Record::Install(Installed { upto, index }) => {
                    format!("install up to {upto}, command {index}")
                }
                Record::Backfilled { upto } => format!("backfilled up to {upto}"),
            };
            writeln!(output, "{file}:{} {record}", visit.offset).unwrap();
        })?;
        if let Some(torn) = recovered.torn {
            writeln!(output, "torn at byte {}", torn.offset)?;
        }
        Ok(output)
    }

    /// The names of the sealed files, once there are so many.
    fn sealed(&self, files: usize) -> String {
        let begun = Instant::now();
        loop {
            let names = fs::read_dir(self.archive()).unwrap().map(|file| file.unwrap().file_name());
            let names = names.map(|name| name.into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name.ends_with(".sealed")).collect();
            names.sort();
            if names.len() == files {
                return names.join("\n").replace("0000000000000000", "…");
            }
            assert!(begun.elapsed() < PATIENCE, "not {files} files, but {names:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn compare_with_twin(&self) {
        let Some(wal) = &self.wal else { return };
        let (state, twin) = (wal.state(), self.twin.state());
        assert_eq!((state.vote, state.last, state.purged), (twin.vote, twin.last, twin.purged));
        let all = state.first..RaftIndex(u64::MAX);
        let entries: Result<Vec<_>, _> = wal.reader().iter(all.clone()).collect();
        assert_eq!(entries.unwrap(), self.twin.entries(all, usize::MAX).unwrap());
    }
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let output = match action {
            Action::Append(term, values) => {
                self.append(values.iter().map(|value| batch(value)).collect(), *term)
            }
            Action::Blank(term) => self.append(vec![Payload::Blank], *term),
            Action::Vote { term, node, committed } => {
                let (term, node, committed) = (Term(*term), NodeId(*node), *committed);
                self.write(&Write::Vote(Vote { term, node, committed }))
            }
            Action::Truncate(since) => self.write(&Write::Truncate { since: RaftIndex(*since) }),
            Action::Purge(term, index) => self.write(&Write::Purge { upto: id(*term, *index) }),
            Action::Install(term, index, command) => {
                let (upto, index) = (id(*term, *index), Index(*command));
                self.write(&Write::Install { upto, index })
            }
            Action::Committed(term, index) => {
                self.wal.as_ref().ok_or("the log is not open")?.note_committed(id(*term, *index));
                self.twin.note_committed(id(*term, *index));
                Ok(String::new())
            }
            Action::Checkpoint { newest, all } => {
                let wal = self.wal.as_ref().ok_or("the log is not open")?;
                wal.note_checkpoints(Some(RaftIndex(*newest)), all.map(RaftIndex));
                Ok(String::new())
            }
            Action::Sealed(files) => Ok(self.sealed(*files)),
            Action::Segments(bytes) => {
                self.segment_bytes = *bytes;
                Ok(String::new())
            }
            Action::Retain(retain) => {
                self.retain = *retain;
                Ok(String::new())
            }
            Action::Close => {
                if let Some(wal) = self.wal.take() {
                    wal.close()?;
                }
                Ok(String::new())
            }
            Action::Kill => {
                self.kill();
                Ok(String::new())
            }
            // An error to open is what many scripts are about.
            Action::Open => Ok(self.open(NODE).unwrap_or_else(|error| self.shown(&*error))),
            Action::Foreign => {
                Ok(self.open(NodeId(0xb2)).unwrap_or_else(|error| self.shown(&*error)))
            }
            Action::State => self.state(),
            Action::Entries { from, to } => self.entries(*from, *to),
            Action::Frames => self.frames(),
            damage => self.damage(damage),
        }?;
        self.compare_with_twin();
        Ok(output)
    }
}

impl Runner {
    fn shown(&self, error: &dyn Error) -> String {
        let path = format!("{}/", self.path().display());
        let text = format!("{error}\n").replace(&path, "");
        mask(&text.replace(&*self.path().to_string_lossy(), "the log"))
    }
}

/// Hides checksums: they depend on a segment's random salt.
fn mask(text: &str) -> String {
    let is_checksum =
        |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split_inclusive(|character: char| !character.is_alphanumeric());
    words
        .map(|word| match word.strip_suffix(|character: char| !character.is_alphanumeric()) {
            Some(bare) if is_checksum(bare) => format!("{}{}", "x".repeat(8), &word[8..]),
            _ => word.to_owned(),
        })
        .collect()
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), node: NODE, index: RaftIndex(index) }
}

fn batch(value: &str) -> Payload {
    let key = KeyPath::clean("/k").unwrap();
    let commands = vec![Command::Set { key, value: Arc::from(value), ttl: None }];
    Payload::Batch(Arc::new(Batch::new(LogTime(0), commands)))
}

fn value_of(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Batch(batch) => match &batch.commands[0] {
            Command::Set { value, .. } => format!(" {value}"),
            other => format!(" {other:?}"),
        },
        Payload::Blank => " blank".to_owned(),
        Payload::Membership(_) => " membership".to_owned(),
    }
}
