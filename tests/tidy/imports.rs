//! Which file imports which, and which may.
//!
//! ```text
//! api    use crate::node::Node;        down: as it should be
//!  │
//! node   use crate::api::Answer;       up: named, with its line
//!  │
//! state  use crate::node::watch::…     up again, and a circle if watch leads back here
//! ```
//!
//! Folders stand in an order, and import those below them. Files of one folder may import
//! each other. Across folders, those within each other included, nothing leads in a circle.
//!
//! A `mod.rs` is a table of contents: what it re-exports from below is where it is written,
//! for whoever imports it, and no import of its own. Tests are treated as all else is. Paths
//! through macros or globs are not followed further than the file that they name.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{Token, tokens};

/// The folders and files at the top, the lowest first; those of one level are equals.
pub(crate) type Order<'a> = &'a [&'a [&'a str]];

/// A path that a file names.
struct Import {
    /// From the root of the crate; none, if it is another crate's.
    path: Option<Vec<String>>,
    /// The name by which it can be imported from this file.
    binding: Option<String>,
    is_public: bool,
    line: usize,
}

/// A file, and what it imports.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
    module: Vec<String>,
    imports: Vec<Import>,
}

/// One file imports another, in a line.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    line: usize,
    text: &'a str,
}

/// Finds what imports upwards or in a circle, apart from what still may: a line each.
/// What may and does not is told as well.
///
/// Files go by their paths below `src`, and come with their text.
pub(crate) fn faults(
    files: &BTreeMap<String, String>,
    order: Order<'_>,
    still: &[(&str, &str)],
) -> Vec<String> {
    let edges = edges(files);
    let rank = |path: &str| {
        let top = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
        order.iter().position(|level| level.contains(&top))
    };
    let unplaced = files.keys().filter(|path| rank(path).is_none());
    let mut faults: Vec<_> =
        unplaced.map(|path| format!("{path}: has no place in the order of the folders")).collect();
    let is_level = |edge: &&Edge<'_>| rank(edge.from) == rank(edge.to);
    let is_exception = |edge: &Edge<'_>| still.contains(&(edge.from, edge.to));
    let reached = reached(edges.iter().filter(is_level));
    let otherwise = self::reached(edges.iter().filter(is_level).filter(|edge| !is_exception(edge)));
    let why = |edge: &Edge<'_>, reached: &Reached<'_>| {
        let is_circle = reached.get(edge.to).is_some_and(|all| all.contains(edge.from))
            && folder(edge.from, files) != folder(edge.to, files);
        if rank(edge.from) < rank(edge.to) {
            Some("upwards")
        } else {
            (is_level(&edge) && is_circle).then_some("in a circle")
        }
    };
    for edge in edges.iter().filter(|edge| !is_exception(edge)) {
        if let Some(why) = why(edge, &otherwise) {
            let Edge { from, to, line, text } = edge;
            faults.push(format!("{from}:{line}: {text}: imports {to} {why}"));
        }
    }
    faults.dedup();
    for (from, to) in still {
        let mut same = edges.iter().filter(|edge| (edge.from, edge.to) == (*from, *to));
        if !same.any(|edge| why(edge, &reached).is_some()) {
            faults.push(format!("{from}: imports {to} no longer, or may: it needs no exception"));
        }
    }
    faults
}

type Reached<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// What each file leads to, over any number of files.
fn reached<'a>(edges: impl Iterator<Item = &'a Edge<'a>>) -> Reached<'a> {
    let mut next = Reached::new();
    for edge in edges {
        next.entry(edge.from).or_default().insert(edge.to);
    }
    let all = next.keys().map(|from| {
        let (mut found, mut open) = (BTreeSet::new(), vec![*from]);
        while let Some(file) = open.pop() {
            let further = next.get(file).into_iter().flatten();
            open.extend(further.filter(|to| found.insert(**to)));
        }
        (*from, found)
    });
    all.collect()
}

/// The folder that a file belongs to. `a.rs` beside a folder `a` belongs to that.
fn folder<'a>(path: &'a str, files: &BTreeMap<String, String>) -> &'a str {
    let own = path.trim_end_matches(".rs");
    let has_folder =
        files.keys().any(|other| other.strip_prefix(own).is_some_and(|rest| rest.starts_with('/')));
    if has_folder { own } else { path.rsplit_once('/').map_or("", |(folder, _)| folder) }
}

fn edges(files: &BTreeMap<String, String>) -> Vec<Edge<'_>> {
    let modules: BTreeMap<_, _> = files.keys().map(|path| (module(path), path.as_str())).collect();
    let read = files.iter().map(|(path, text)| {
        let module = module(path);
        let imports = Reader::new(&module, &modules).read(&tokens(text));
        (path.as_str(), Source { path, text, module, imports })
    });
    let sources: BTreeMap<_, _> = read.collect();
    let mut edges = Vec::new();
    for source in sources.values() {
        for import in &source.imports {
            let Some(path) = &import.path else { continue };
            let Some(to) = resolve(path, &modules, &sources, 0) else { continue };
            let is_contents = source.is_contents()
                && import.is_public
                && sources[to].module.starts_with(&source.module);
            if to != source.path && !is_contents {
                let text = source.text.lines().nth(import.line - 1).unwrap_or_default().trim();
                edges.push(Edge { from: source.path, to, line: import.line, text });
            }
        }
    }
    edges
}

impl Source<'_> {
    fn is_contents(&self) -> bool {
        self.path.ends_with("mod.rs") || self.path == "lib.rs"
    }
}

/// The module that a file is.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// More re-exports than lead from one to the next.
const MOST_RE_EXPORTS: u32 = 10;

/// The file in which that is written which a path names; none, if it is another crate's.
fn resolve<'a>(
    path: &[String],
    modules: &BTreeMap<Vec<String>, &'a str>,
    sources: &BTreeMap<&str, Source<'a>>,
    followed: u32,
) -> Option<&'a str> {
    let is_module = |length: &usize| modules.contains_key(&path[..*length]);
    let length = (0..=path.len()).rev().find(is_module)?;
    let file = modules[&path[..length]];
    let Some(name) = path.get(length) else { return Some(file) };
    let mut exports = sources[file].imports.iter();
    match exports.find(|import| import.binding.as_ref() == Some(name)) {
        Some(export) if followed < MOST_RE_EXPORTS => {
            let path = [export.path.as_deref()?, &path[length + 1..]].concat();
            resolve(&path, modules, sources, followed + 1)
        }
        _ => Some(file),
    }
}

/// Whether a token stands behind these.
fn follows(tokens: &[Token<'_>], at: usize, these: &[&str]) -> bool {
    let before = tokens[..at].iter().rev().map(|token| token.text);
    these.iter().rev().eq(before.take(these.len()).collect::<Vec<_>>().iter())
}

/// Reads the imports of one file.
struct Reader<'a> {
    /// Where the text that is read stands: the file's module, and those within it.
    module: Vec<String>,
    modules: &'a BTreeMap<Vec<String>, &'a str>,
    /// How deep in braces each module within the file begins.
    within: Vec<usize>,
    imports: Vec<Import>,
}

impl<'a> Reader<'a> {
    fn new(module: &[String], modules: &'a BTreeMap<Vec<String>, &'a str>) -> Self {
        Self { module: module.to_vec(), modules, within: Vec::new(), imports: Vec::new() }
    }

    fn read(mut self, tokens: &[Token<'_>]) -> Vec<Import> {
        let (mut at, mut depth) = (0, 0);
        while at < tokens.len() {
            let is = |ahead: usize, text: &str| {
                tokens.get(at + ahead).is_some_and(|token| token.text == text)
            };
            if is(0, "mod") && is(2, "{") {
                self.module.push(tokens[at + 1].text.to_owned());
                self.within.push(depth);
                at += 2;
            } else if is(0, "use") && !is(1, "<") {
                let is_public = at > 0 && matches!(tokens[at - 1].text, "pub" | ")");
                at = self.read_use(tokens, at + 1, &[], is_public);
            } else if is(1, "::") && tokens[at].is_word() && !follows(tokens, at, &["(", "in"]) {
                at = self.read_path(tokens, at);
            } else {
                depth = (depth + usize::from(is(0, "{"))).saturating_sub(is(0, "}").into());
                if is(0, "}") && self.within.last() == Some(&depth) {
                    self.within.pop();
                    self.module.pop();
                }
                at += 1;
            }
        }
        self.imports
    }

    /// Reads one branch of what is behind `use`, and returns where that ends.
    fn read_use(
        &mut self,
        tokens: &[Token<'_>],
        mut at: usize,
        trunk: &[String],
        is_public: bool,
    ) -> usize {
        let mut path = trunk.to_vec();
        let mut binding = None;
        let mut line = 0;
        while let Some(token) =
            tokens.get(at).filter(|token| !matches!(token.text, ";" | "," | "}"))
        {
            match token.text {
                "{" => {
                    while !matches!(tokens[at].text, "}" | ";") {
                        at = self.read_use(tokens, at + 1, &path, is_public);
                    }
                    return at + 1;
                }
                "as" => {
                    binding = Some(tokens[at + 1].text.to_owned());
                    at += 1;
                }
                "::" => {}
                "self" if !trunk.is_empty() => {}
                name => path.push(name.to_owned()),
            }
            line = token.line;
            at += 1;
        }
        if line > 0 {
            let binding = binding.or_else(|| path.last().cloned());
            self.add(&path, binding, is_public, line);
        }
        at
    }

    /// Reads a path in the midst of code.
    fn read_path(&mut self, tokens: &[Token<'_>], mut at: usize) -> usize {
        let line = tokens[at].line;
        let mut path = vec![tokens[at].text.to_owned()];
        while tokens.get(at + 1).is_some_and(|token| token.text == "::")
            && tokens.get(at + 2).is_some_and(Token::is_word)
        {
            at += 2;
            path.push(tokens[at].text.to_owned());
        }
        self.add(&path, None, false, line);
        at + 1
    }

    /// Takes in a path. What is not in a module of its own can be imported from here.
    fn add(&mut self, path: &[String], binding: Option<String>, is_public: bool, line: usize) {
        let binding = binding.filter(|_| self.within.is_empty());
        let path = self.absolute(path);
        if path.is_some() || binding.is_some() {
            self.imports.push(Import { path, binding, is_public, line });
        }
    }

    /// A path from the root of the crate. It is none of this crate, or has been imported by
    /// its first name, if that is no module here.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let up = path.iter().take_while(|name| *name == "super").count();
        let base = &self.module[..self.module.len().checked_sub(up)?];
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([base, &path[1..]].concat()),
            "super" => Some([base, &path[up..]].concat()),
            _ => {
                let child = [base, path].concat();
                self.modules.contains_key(&child[..=base.len()]).then_some(child)
            }
        }
    }
}

/// A small crate in which one folder is above the other.
fn found(files: &[(&str, &str)], still: &[(&str, &str)]) -> Vec<String> {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    faults(&files.collect(), &[&["low"], &["high"], &["lib"]], still)
}

#[test]
fn import_upwards_is_named() {
    let text = "use crate::{\n    low::c,\n    high::{\n        a::A,\n    },\n};\n";
    let files = [("low/b.rs", text), ("low/c.rs", ""), ("high/a.rs", "use crate::low::c;")];
    assert_eq!(found(&files, &[]), ["low/b.rs:4: a::A,: imports high/a.rs upwards"]);
    assert_eq!(found(&files, &[("low/b.rs", "high/a.rs")]), [""; 0]);
}

#[test]
fn path_upwards_in_the_midst_of_code_is_named() {
    let text = "fn b() {\n    super::super::high::a::a()\n}\nmod tests {\n    use super::super::super::high;\n}\n";
    let files = [("low/b.rs", text), ("high/mod.rs", ""), ("high/a.rs", "")];
    let expected = [
        "low/b.rs:2: super::super::high::a::a(): imports high/a.rs upwards",
        "low/b.rs:5: use super::super::super::high;: imports high/mod.rs upwards",
    ];
    assert_eq!(found(&files, &[]), expected);
}

#[test]
fn what_is_no_import_is_left_alone() {
    let text = "// use crate::high;\nconst A: &str = \"crate::high\";\npub(in crate::high) use std::high;\n";
    assert_eq!(found(&[("low/b.rs", text), ("high/mod.rs", "")], &[]), [""; 0]);
}

#[test]
fn circle_over_folders_is_named_and_one_in_a_folder_is_not() {
    let files = [
        ("high/a.rs", "use super::inner::b;\nuse super::c;"),
        ("high/c.rs", "use super::a;"),
        ("high/inner/b.rs", "use crate::high::c::C;"),
    ];
    let expected = [
        "high/a.rs:1: use super::inner::b;: imports high/inner/b.rs in a circle",
        "high/inner/b.rs:1: use crate::high::c::C;: imports high/c.rs in a circle",
    ];
    assert_eq!(found(&files, &[]), expected);
    assert_eq!(found(&files, &[("high/inner/b.rs", "high/c.rs")]), [""; 0]);
}

#[test]
fn contents_lead_to_where_it_is_written() {
    let files = [
        ("high/mod.rs", "mod a;\nmod inner;\npub(crate) use a::A;\npub use inner::B;"),
        ("high/a.rs", ""),
        ("high/inner/mod.rs", "mod b;\npub use b::B;"),
        ("high/inner/b.rs", "use crate::high::A;"),
        ("low/c.rs", "use crate::high::B;"),
    ];
    let expected = ["low/c.rs:1: use crate::high::B;: imports high/inner/b.rs upwards"];
    assert_eq!(found(&files, &[]), expected);
}

#[test]
fn exception_that_is_not_needed_is_named() {
    let files = [("high/a.rs", "use crate::low::b;"), ("low/b.rs", "")];
    let expected = ["high/a.rs: imports low/b.rs no longer, or may: it needs no exception"];
    assert_eq!(found(&files, &[("high/a.rs", "low/b.rs")]), expected);
}

#[test]
fn folder_without_a_place_is_named() {
    let expected = ["new/a.rs: has no place in the order of the folders"];
    assert_eq!(found(&[("new/a.rs", "")], &[]), expected);
}
