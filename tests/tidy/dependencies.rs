//! What else is in the program: under which licences, and what of it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

/// The licences under which a dependency may be. The Mozilla licence, of imbl alone, asks for
/// its own files to stay open, which they do: it is used unmodified.
const LICENCES: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What is there in several versions, and who keeps the earlier ones.
const SEVERAL: [(&str, &str); 9] = [
    ("console", "goldenscript, in tests"),
    ("getrandom", "okaywal by flume, and imbl by rand_core"),
    ("nom", "x509-parser by asn1-rs"),
    ("rand", "openraft, and turmoil in tests"),
    ("rand_chacha", "openraft by rand"),
    ("rand_core", "openraft by rand, and imbl"),
    ("syn", "macros of derive_more, and others, when they are built"),
    ("thiserror", "openraft"),
    ("thiserror-impl", "openraft"),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// All that is built here, of this project and of others.
fn packages() -> Vec<Package> {
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let version = output("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let args = ["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform"];
    let told = output(env!("CARGO"), &[&args[..], &[host]].concat());
    serde_json::from_str::<Metadata>(&told).unwrap().packages
}

/// Whether a licence is one of those that may be: an expression of SPDX, or an older one.
fn is_allowed(licence: &str) -> bool {
    let text = licence.replace('/', " OR ");
    let apart = text.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = apart.split_whitespace().map(str::to_owned).collect();
    let mut rest = &words[..];
    any_of(&mut rest) && rest.is_empty()
}

/// Reads alternatives: one of them is enough.
fn any_of(words: &mut &[String]) -> bool {
    let mut allowed = all_of(words);
    while let [or, rest @ ..] = words
        && or == "OR"
    {
        *words = rest;
        allowed |= all_of(words);
    }
    allowed
}

/// Reads what goes together: all of it counts.
fn all_of(words: &mut &[String]) -> bool {
    let mut allowed = one(words);
    while let [and, rest @ ..] = words
        && and == "AND"
    {
        *words = rest;
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut &[String]) -> bool {
    match words {
        [open, rest @ ..] if open == "(" => {
            *words = rest;
            let allowed = any_of(words);
            let is_closed = words.first().is_some_and(|close| close == ")");
            *words = words.get(1..).unwrap_or_default();
            allowed && is_closed
        }
        [name, with, exception, rest @ ..] if with == "WITH" => {
            *words = rest;
            LICENCES.contains(&&*format!("{name} WITH {exception}"))
        }
        [name, rest @ ..] => {
            *words = rest;
            LICENCES.contains(&name.as_str())
        }
        [] => false,
    }
}

#[test]
fn every_licence_is_one_of_those_that_may_be() {
    let packages = packages();
    assert!(packages.len() > 100, "{} packages", packages.len());
    for Package { name, version, license } in packages {
        let license = license.unwrap_or_default();
        assert!(is_allowed(&license), "{name} {version}: {license:?}");
    }
}

#[test]
fn nothing_is_there_twice_without_a_reason() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, .. } in packages() {
        versions.entry(name).or_default().insert(version);
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    let several: BTreeSet<_> = several.map(|(name, _)| name.as_str()).collect();
    let explained: BTreeSet<_> = SEVERAL.iter().map(|(name, _)| *name).collect();
    let unexplained: Vec<_> = several.difference(&explained).collect();
    assert!(unexplained.is_empty(), "in several versions, without a reason: {unexplained:?}");
    let needless: Vec<_> = explained.difference(&several).collect();
    assert!(needless.is_empty(), "with a reason, and in one version: {needless:?}");
}

#[test]
fn licence_is_read_as_it_is_meant() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT",
        "MIT)",
        "MIT MIT",
        "(MIT OR GPL-3.0) AND GPL-3.0",
        "GPL-3.0 WITH LLVM-exception",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
