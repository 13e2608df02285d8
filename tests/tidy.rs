//! What the compiler cannot check: every file opens with its idea, every script
//! with its claim, no file outgrows its idea, no import runs upwards, and what else is built
//! into the program may be.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/time_limit.rs"]
mod time_limit;
#[path = "tidy/tokens.rs"]
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Order;

/// The folders of `src/`, the lowest first.
const FOLDERS: Order<'_> = &[
    &["util"],
    &["tls"],
    &["peers"],
    &["storage"],
    &["state"],
    &["consensus"],
    &["node"],
    &["api"],
    &["server"],
    &["tools"],
    &["cli"],
    &["main", "lib"],
];

/// The folders and files of `log/src/`.
const FOLDERS_OF_THE_LOG: Order<'_> = &[
    &["types"],
    &["files"],
    &["error"],
    &["storage"],
    &["notice"],
    &["recording"],
    &["segments"],
    &["memory"],
    &["disk"],
    &["archive"],
    &["recovery"],
    &["stream"],
    &["reader"],
    &["history"],
    &["wal"],
    &["testing"],
    &["lib"],
];

/// The files of `follow/src/`.
const FILES_OF_FOLLOW: Order<'_> = &[
    &["error"],
    &["line"],
    &["messages"],
    &["addresses"],
    &["connection"],
    &["following"],
    &["follower"],
    &["lib"],
];

/// What may import upwards all the same: tests, which share their fixtures. A file, and what
/// it imports.
const UPWARDS_IN_THE_LOG: &[(&str, &str)] = &[
    ("segments/tail.rs", "testing/fixtures.rs"),
    ("wal/archiver.rs", "testing/fixtures.rs"),
    ("wal/backfill.rs", "testing/fixtures.rs"),
];

fn files(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

fn sources() -> impl Iterator<Item = PathBuf> {
    let below = [
        "src",
        "log/src",
        "log/tests",
        "projections/src",
        "projections/tests",
        "follow/src",
        "follow/tests",
        "tests",
        "benches",
        "examples",
    ];
    let all = below.into_iter().flat_map(files);
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

#[test]
fn every_file_opens_with_its_idea() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{}", path.display());
    }
}

#[test]
fn no_file_outgrows_its_idea() {
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{}: {lines} lines", path.display());
    }
}

#[test]
fn no_import_runs_upwards_or_in_a_circle() {
    let check = |below: &str, order: Order<'_>, exceptions: &[(&str, &str)]| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
        let read = files(below).into_iter().map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(&root).unwrap().display().to_string(), text)
        });
        let files: BTreeMap<_, _> = read.collect();
        let faults = imports::faults(&files, order, exceptions);
        let faults: Vec<_> = faults.iter().map(|fault| format!("{below}/{fault}")).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    };
    check("src", FOLDERS, &[]);
    check("log/src", FOLDERS_OF_THE_LOG, UPWARDS_IN_THE_LOG);
    check("follow/src", FILES_OF_FOLLOW, &[]);
}

/// Nobody waits for ever for one that hangs: see `tests/support/limit.rs`.
#[test]
fn every_test_that_may_hang_has_its_time() {
    let mut found = 0;
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for (line, is_limited) in time_limit::of_tests(&text) {
            found += 1;
            assert!(is_limited, "{}:{line}: does not begin its time", path.display());
        }
    }
    assert!(found > 20, "{found} tests of tokio or of a script");
}

#[test]
fn every_script_opens_with_its_claim() {
    for below in
        ["log/tests/scripts", "log/tests/faults", "projections/tests/scripts", "tests/scripts"]
    {
        for path in files(below) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("# "), "{}", path.display());
            assert!(text.lines().count() <= 80, "{}", path.display());
        }
    }
}

/// An example is a file, or a package of its own in a folder.
#[test]
fn every_example_says_for_whom_it_is_and_how_to_run_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for path in files("examples") {
        let (text, depth) = (fs::read_to_string(&path).unwrap(), path.components().count());
        let name = path.file_stem().unwrap().display().to_string();
        let command = match depth - root.components().count() {
            1 => format!("cargo run --example {name}"),
            _ if name == "main" => "cargo run -p ".to_owned(),
            _ => continue,
        };
        assert!(text.starts_with("//! For whoever "), "{name}");
        assert!(text.contains(&command), "{name}");
        assert!(text.lines().count() < 80, "{name}");
    }
}

/// In backticks stand paths, of files below `src` or from the root, and commands.
#[test]
fn whatever_the_tour_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tour = fs::read_to_string(root.join("src/lib.rs")).unwrap().replace("\n//!", "");
    let mut named = 0;
    for quoted in tour.split('`').skip(1).step_by(2) {
        let words: Vec<_> = quoted.split_whitespace().collect();
        if let [path] = words[..]
            && path.contains(['/', '.'])
        {
            assert!(root.join("src").join(path).exists() || root.join(path).exists(), "{path}");
            named += 1;
        }
        if let Some(at) = words.iter().position(|word| *word == "--test") {
            let crates = ["", "log", "projections", "follow"].map(|of| root.join(of).join("tests"));
            let program = words[at + 1];
            let is_there = |tests: &PathBuf| {
                tests.join(program).join("main.rs").exists()
                    || tests.join(program).with_extension("rs").exists()
            };
            assert!(crates.iter().any(is_there), "{quoted}");
            named += 1;
        }
    }
    assert!(named > 20, "the tour names {named} files and programs");
}

#[test]
fn whatever_the_readme_links_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let links = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
        assert!(root.join(link).exists(), "{link}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (dependencies, _) = rest.split_once("\n[").unwrap();
    let wanted =
        ["chrono", "clap", "hyper", "okaywal", "serde", "serde_json", "tokio", "tokio-stream"];
    for line in
        dependencies.lines().filter(|line| line.contains(" = ") && !line.contains("path = "))
    {
        let name = line.split(' ').next().unwrap();
        assert!(wanted.contains(&name) || line.contains(" # "), "{line}");
    }
}
