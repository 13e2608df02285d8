//! Every golden script is a test.
//!
//! A macro makes them so while the runner is compiled, and a new script alone brings about
//! no compilation: it would not run, and nobody would know.
#![allow(dead_code, reason = "not every test program has scripts")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks that each script below a folder of a crate is a test in a module of this program.
///
/// # Panics
///
/// If there is none, or one that is no test.
pub fn check(manifest_dir: &Path, folder: &str, module: &str) {
    let mut list = Command::new(std::env::current_exe().unwrap());
    let list = list.args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let tests: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let folder = manifest_dir.join(folder);
    let scripts = scripts(&folder);
    assert!(!scripts.is_empty(), "{}: no script", folder.display());
    for script in scripts {
        let name = script.strip_prefix(&folder).unwrap().display().to_string().replace('/', "::");
        assert!(
            tests.contains(&&*format!("{module}::{name}")),
            "{} is no test yet: save its runner once more, so that it is compiled anew",
            script.display()
        );
    }
}

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut found): (Vec<_>, Vec<_>) = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .partition(|at| at.is_dir());
    found.extend(folders.iter().flat_map(|folder| scripts(folder)));
    found
}
