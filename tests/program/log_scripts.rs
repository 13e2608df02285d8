//! The verbs of `etcd log`, as a terminal of 80 columns shows what they say of logs that
//! were recorded long ago.
//!
//! ```text
//! load NAME          export tests/recorded/NAME.jsonl to LOG, with an end
//! log "VERB ARGS…"   run `etcd log VERB ARGS…`; of the arguments, LOG is that file, and
//!                    NEW, OTHER are directories that are new
//! save "VERB ARGS…"  the same, and what is said becomes LOG
//! pipe "VERB ARGS…"  the same, with a reader who has seen enough
//! ```
//!
//! What is said on the standard error stands behind `!`, a status that is not 0 at the end.
//! Identities that are minted are shown as `<id>`, and digests of what was made of them, in
//! NEW and OTHER, as `<digest>`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::Path;
use std::process::{Output, Stdio};

use tempfile::TempDir;
use test_each_file::test_each_path;

use crate::support::{etcd, limit, scripts_are_tests};

test_each_path! { in "tests/scripts/log" as scripts => run }

fn run(script: &Path) {
    limit::begin();
    goldenscript::run(&mut Runner { dir: TempDir::new().unwrap() }, script).unwrap();
}

#[test]
fn every_script_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    scripts_are_tests::check(root, "tests/scripts/log", "log_scripts::scripts");
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Load(String),
    Save(String),
    Pipe(String),
    Log(String),
}

struct Runner {
    dir: TempDir,
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match action {
            Action::Load(name) => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                let recorded = root.join("tests/recorded").join(format!("{name}.jsonl"));
                let recorded = recorded.display().to_string();
                let output = self.log(&["export", "-d", &recorded, "--without-end"]);
                std::fs::write(self.dir.path().join("LOG"), &output.stdout)?;
                Ok(String::new())
            }
            Action::Save(args) => {
                let output = self.log(&args.split(' ').collect::<Vec<_>>());
                std::fs::write(self.dir.path().join("LOG"), &output.stdout)?;
                Ok(String::new())
            }
            Action::Pipe(args) => {
                let mut child = self.command(&args.split(' ').collect::<Vec<_>>()).spawn()?;
                drop(child.stdout.take());
                let output = child.wait_with_output()?;
                Ok(shown(args, &output))
            }
            Action::Log(line) => {
                let args: Vec<_> = line.split(' ').collect();
                Ok(shown(line, &self.log(&args)))
            }
        }
    }
}

impl Runner {
    fn log(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = etcd(&[&["log"], args].concat());
        command.current_dir(self.dir.path()).env("TZ", "UTC").env("NO_COLOR", "1");
        command.env("COLUMNS", "80").stdin(Stdio::null());
        command
    }
}

/// What a verb says, as a script shows it.
fn shown(args: &str, output: &Output) -> String {
    let mut shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        shown.extend(["! ", line.trim(), "\n"]);
    }
    if output.status.code() != Some(0) {
        let status = output.status.code().unwrap_or(-1).to_string();
        shown.extend(["exit status ", &status, "\n"]);
    }
    masked(&shown, args.contains("NEW") || args.contains("OTHER"))
}

/// Replaces the identities that were minted, as those of recorded logs, small numbers, were
/// not; and the digests that follow from them, if there are any.
fn masked(text: &str, digests: bool) -> String {
    let mask = |word: &str| match word.len() {
        16 if !word.starts_with("000000000000") => Some("<id>"),
        32 if digests => Some("<digest>"),
        _ => None,
    };
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let masked = words.map(|word| {
        let end = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_hex = end.bytes().all(|byte| byte.is_ascii_hexdigit());
        match mask(end).filter(|_| is_hex) {
            Some(mask) => word.replace(end, mask),
            None => word.to_owned(),
        }
    });
    masked.collect()
}
