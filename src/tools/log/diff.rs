//! `etcd log diff`: what became of the keys between two moments.
//!
//! ```text
//! + /a = "1"               has come
//! - /b, was "2"            has gone
//! ~ /c = "3", was "2"      has changed
//! ```

use std::cmp::Ordering;
use std::io::Write;

use etcd_log::KeyPath;
use etcd_projections::{KeyTree, TreeNode};

use super::ToolError;
use super::look::Look;
use super::progress::Progress;
use super::source::{Bound, LogPath, Source};
use super::span;
use super::text::write_lines;
use super::walk::Walk;
use crate::api::v1::json;
use crate::util::moment::Moment;
use crate::util::printable::Printable;

/// Between which moments, where, and how.
#[derive(Clone, Debug)]
pub struct DiffQuery {
    /// From when.
    pub from: Moment,
    /// To when; to the end, if nothing is said.
    pub to: Option<Moment>,
    /// At this key, and below it.
    pub key: KeyPath,
    /// Lines of JSON, as the API tells them, instead of text.
    pub json: bool,
    /// How text looks.
    pub look: Look,
}

/// Tells what became of the keys between two moments.
///
/// # Errors
///
/// If the log cannot be read, or does not come by both moments in this order; or if the
/// output cannot be written.
pub fn diff(log: &LogPath, query: &DiffQuery, out: &mut dyn Write) -> Result<(), ToolError> {
    let source = Source::open(log)?;
    let (from, to) = (source.bound(query.from)?, span::up_to(&source, query.to)?);
    let mut walk = source.walk(1)?.shown(Progress::of("diff", &source));
    walk.check_start(Some(query.from), Some(from))?;
    walk.go(Some(from))?;
    walk.check_end(Some(query.from), Some(from))?;
    check_order(&walk, query, to)?;
    let then = walk.state().tree().clone();
    walk.go(to)?;
    walk.check_end(query.to, to)?;
    let changes =
        Changes { then: files(&then, &query.key), now: files(walk.state().tree(), &query.key) };
    changes.write(query, out)
}

fn check_order(walk: &Walk, query: &DiffQuery, to: Option<Bound>) -> Result<(), ToolError> {
    let stands = walk.position();
    let is_before = match to {
        Some(Bound::Index(index)) => {
            index < stands.index || index == stands.index && walk.has_ticked()
        }
        Some(Bound::Time(time)) => time < stands.time,
        None => false,
    };
    match query.to.filter(|_| is_before) {
        Some(to) => Err(ToolError::Backwards { from: query.from, to }),
        None => Ok(()),
    }
}

/// A file, by its key.
type File<'a> = (&'a KeyPath, &'a str);

/// The files at a key and below it, in the order of their keys as text.
fn files<'a>(tree: &'a KeyTree, key: &'a KeyPath) -> Vec<File<'a>> {
    let at = tree.get(key).map(|node| (key, node)).into_iter();
    let all = at.chain(tree.subtree(key, ""));
    all.filter_map(|(key, node)| match node {
        TreeNode::File { value, .. } => Some((key, &**value)),
        TreeNode::Directory => None,
    })
    .collect()
}

/// What there was, and what there is.
struct Changes<'a> {
    then: Vec<File<'a>>,
    now: Vec<File<'a>>,
}

impl Changes<'_> {
    fn write(&self, query: &DiffQuery, out: &mut dyn Write) -> Result<(), ToolError> {
        let (mut then, mut now) = (self.then.iter().peekable(), self.now.iter().peekable());
        loop {
            let order = match (then.peek(), now.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.as_str().cmp(right.as_str()),
            };
            let from = if order.is_le() { then.next() } else { None };
            let to = if order.is_ge() { now.next() } else { None };
            if let Some((key, _)) = from.or(to) {
                let (from, to) = (from.map(|from| from.1), to.map(|to| to.1));
                write_change(key, (from, to), query, out)?;
            }
        }
    }
}

/// Writes what became of a key; nothing, if it holds what it held.
pub(super) fn write_change(
    key: &KeyPath,
    (from, to): (Option<&str>, Option<&str>),
    query: &DiffQuery,
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    if from == to {
        return Ok(());
    }
    if query.json {
        return write_lines(out, &json::net_change(key, from, to));
    }
    let (key, look) = (Printable(key), query.look);
    match (from, to) {
        (None, to) => {
            let style = look.come();
            writeln!(out, "{style}+ {key} = {:?}{style:#}", to.unwrap_or_default())?;
        }
        (Some(from), None) => {
            let style = look.gone();
            writeln!(out, "{style}- {key}, was {from:?}{style:#}")?;
        }
        (Some(from), Some(to)) => {
            let style = look.changed();
            writeln!(out, "{style}~ {key} = {to:?}, was {from:?}{style:#}")?;
        }
    }
    Ok(())
}
