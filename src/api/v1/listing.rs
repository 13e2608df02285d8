//! Listings: what lies in a directory or below it, whole or in part.
//!
//! ```text
//! GET /v1/keys/dir/                  [{…},{…}]
//! GET /v1/list/dir/                  {…} {…}
//! GET /v1/keys/dir/?recursive=true   {…}
//!                                    {…}
//! ```
//!
//! The first two are in the form of the first etcd, one line. A listing is of one state.
//! It is written at once if it is short, and otherwise told piece by piece (`large`).
//!
//! `limit=` and `start=` ask for a part: `X-Etcd-Next` is the `start=` of the next one,
//! encoded as it must stand in a query. It is a name in the directory; of a subtree, what
//! stands behind the directory's own slash.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{KeyPath, LogId};
use etcd_projections::{Child, KeyTree, Position, TreeNode};
use hyper::Request;
use percent_encoding::utf8_percent_encode;

use super::json;
use super::large::{self, LONGEST, PIECE_BYTES, Teller};
use super::stream::Form;
use crate::api::http::answer::{Answer, BrokenOff, Pieces};
use crate::api::http::bad::Bad;
use crate::api::http::door::Talk;
use crate::api::http::problem::Problem;
use crate::api::http::request::Fields;
use crate::node::{Node, View};
use crate::util::in_path::ENCODED;

/// Up to how many bytes a listing is written at once.
const SHORT_BYTES: usize = 64 << 10;

/// Up to how many steps are taken for that: what is passed over on the way writes nothing.
const SHORT_STEPS: usize = 4096;

/// How many steps are taken before others are let in.
const STEPS_AT_ONCE: usize = 4096;

/// A step through what is listed: an entry, or nothing where something is passed over.
type Step<'a> = Option<Child<'a>>;

/// What is listed, and how.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The directory; of a subtree, perhaps a file.
    pub(super) key: KeyPath,
    pub(super) kind: Kind,
    pub(super) part: Part,
}

/// The kinds of listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What the children hold: an array.
    Children,
    /// The names of the children.
    Names,
    /// All files below the directory.
    Subtree {
        /// Whether those that are its direct children are all that is wanted.
        children: bool,
        /// How they are written.
        form: Form,
    },
}

impl Kind {
    /// Says which state a listing is of, and where it goes on.
    fn described(
        self,
        answer: Answer,
        position: Position,
        applied: Option<LogId>,
        next: Option<&str>,
    ) -> Answer {
        let is_subtree = matches!(self, Self::Subtree { .. });
        let event = is_subtree.then_some(position.event);
        answer.read_at(position, applied).with_event(event).with_next(next)
    }
}

/// Which part of a listing is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// How many entries, at most.
    limit: Option<usize>,
    /// Where it begins: behind the directory's own slash. Empty for the beginning.
    start: String,
}

impl Part {
    /// Reads which part a request wants.
    pub(super) fn of(fields: &Fields, is_deep: bool) -> Result<Self, Problem> {
        let (limit, start) = (fields.lines()?, fields.start()?);
        if start.as_ref().is_some_and(|start| !is_deep && start.parts().count() > 1) {
            return Err(Bad::Start.into());
        }
        let start = start.map(|start| start.as_str()[1..].to_owned()).unwrap_or_default();
        Ok(Self { limit, start })
    }

    /// Returns whether it is all there is.
    pub(super) fn is_all(&self) -> bool {
        self.limit.is_none() && self.start.is_empty()
    }
}

impl Listing {
    /// Answers with the listing of a directory that was there in a brief view.
    pub(super) async fn answer<B>(
        self,
        node: &Node,
        brief: View,
        request: &Request<B>,
        limit: Duration,
    ) -> Result<Answer, Problem> {
        if let Some((whole, next)) = self.short(&brief) {
            let View { position, applied, .. } = brief;
            return Ok(self.kind.described(
                Answer::whole(whole),
                position,
                applied,
                next.as_deref(),
            ));
        }
        // Who waits for a place holds none of what changes.
        drop(brief);
        let view = node.lasting_view(limit).await?;
        if view.tree.get(&self.key).is_none() {
            return Err(Problem::NotFound);
        }
        Ok(self.told(view, request).await)
    }

    /// Answers with the listing of a directory that is there in a lasting view.
    pub(super) async fn told<B>(self, view: View, request: &Request<B>) -> Answer {
        let next = self.next(&view.tree).await;
        let (kind, View { position, applied, .. }) = (self.kind, &view);
        let (position, applied) = (*position, *applied);
        let answer = Answer::pieces(self.pieces(view, Talk::of(request)));
        kind.described(answer, position, applied, next.as_deref())
    }

    /// Answers with the listing of a directory that is there in a view that is in nobody's
    /// way, at once.
    pub(super) async fn whole(self, view: &View) -> Answer {
        let next = self.next(&view.tree).await;
        let (mut out, mut writer) = (Vec::new(), self.writer());
        for (key, node) in self.entries(&view.tree) {
            writer.write(&mut out, &key, node, view);
        }
        writer.end(&mut out);
        self.kind.described(Answer::whole(out), view.position, view.applied, next.as_deref())
    }

    /// Gives the listing of a lasting view in pieces.
    pub(super) fn pieces(self, view: View, talk: Option<Arc<Talk>>) -> Pieces {
        large::tell(talk, Some(LONGEST), |teller| self.tell_all(view, teller))
    }

    async fn tell_all(self, view: View, teller: Teller) -> Result<(), BrokenOff> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let (mut writer, mut left) = (self.writer(), self.part.limit.unwrap_or(usize::MAX));
        for (step, number) in self.steps(&view.tree).zip(1..) {
            if left == 0 {
                break;
            }
            if number % STEPS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let Some((key, node)) = step else { continue };
            writer.write(&mut piece, &key, node, &view);
            left -= 1;
            if piece.len() >= PIECE_BYTES {
                let next = Vec::with_capacity(PIECE_BYTES);
                teller.piece(std::mem::replace(&mut piece, next)).await?;
            }
        }
        writer.end(&mut piece);
        drop(view);
        teller.piece(piece).await
    }

    /// Returns the entries that are wanted, in order.
    fn entries<'a>(&self, tree: &'a KeyTree) -> impl Iterator<Item = Child<'a>> + use<'a> {
        self.steps(tree).flatten().take(self.part.limit.unwrap_or(usize::MAX))
    }

    /// Returns all from the start on, in order and step by step.
    fn steps<'a>(&self, tree: &'a KeyTree) -> Box<dyn Iterator<Item = Step<'a>> + Send + 'a> {
        let (key, start) = (&self.key, &*self.part.start);
        let Kind::Subtree { children, .. } = self.kind else {
            return Box::new(tree.children_from(key, start).map(Some));
        };
        match tree.get(key) {
            Some(TreeNode::File { .. }) if children => Box::new(std::iter::empty()),
            Some(file @ TreeNode::File { .. }) => {
                Box::new(std::iter::once(Some((key.clone(), file))))
            }
            _ if children => {
                let children = tree.children_from(key, start);
                let is_file = |(_, node): &Child<'_>| matches!(node, TreeNode::File { .. });
                Box::new(children.map(move |child| Some(child).filter(is_file)))
            }
            _ => {
                let steps = tree.subtree_by_steps(key, start);
                Box::new(steps.map(|step| step.map(|(key, node)| (key.clone(), node))))
            }
        }
    }

    /// Returns where the listing goes on behind the part that is wanted, if it does.
    async fn next(&self, tree: &KeyTree) -> Option<String> {
        let mut left = self.part.limit?;
        for (step, number) in self.steps(tree).zip(1..) {
            if number % STEPS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            match step {
                Some((next, _)) if left == 0 => return self.start_at(&next),
                Some(_) => left -= 1,
                None => {}
            }
        }
        None
    }

    /// Returns the `start=` of the part that begins with an entry.
    fn start_at(&self, next: &KeyPath) -> Option<String> {
        let above = if self.key.is_root() { 0 } else { self.key.as_str().len() };
        // A file alone has nothing behind it.
        let rest = next.as_str().get(above + 1..)?;
        Some(utf8_percent_encode(rest, ENCODED).to_string())
    }

    /// Returns the whole listing, and where it goes on behind the part that is wanted, if
    /// that is short.
    pub(super) fn short(&self, view: &View) -> Option<(Vec<u8>, Option<String>)> {
        let (mut out, mut writer) = (Vec::with_capacity(1024), self.writer());
        let (mut left, mut next) = (self.part.limit.unwrap_or(usize::MAX), None);
        for (step, number) in self.steps(&view.tree).zip(1..) {
            if number > SHORT_STEPS || out.len() > SHORT_BYTES {
                return None;
            }
            let Some((key, node)) = step else { continue };
            if left == 0 {
                next = self.start_at(&key);
                break;
            }
            left -= 1;
            writer.write(&mut out, &key, node, view);
        }
        writer.end(&mut out);
        Some((out, next))
    }

    /// Returns what writes the listing.
    fn writer(&self) -> Writer {
        Writer { kind: self.kind, has_begun: false }
    }
}

/// Writes a listing, entry by entry.
struct Writer {
    kind: Kind,
    has_begun: bool,
}

impl Writer {
    /// Writes the next entry.
    fn write(&mut self, out: &mut Vec<u8>, key: &KeyPath, node: &TreeNode, view: &View) {
        out.extend_from_slice(match (self.kind, self.has_begun) {
            (Kind::Children, false) => b"[",
            (Kind::Children, true) => b",",
            (Kind::Names, true) => b" ",
            (Kind::Names, false) | (Kind::Subtree { .. }, _) => b"",
        });
        self.has_begun = true;
        let line = || json::node(key, node, view.position.index, view.time);
        out.extend(match self.kind {
            Kind::Children => line(),
            Kind::Names => json::child(key.name(), node),
            Kind::Subtree { form, .. } => form.line(&line()),
        });
    }

    /// Writes what stands behind the last entry.
    fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match (self.kind, self.has_begun) {
            (Kind::Children, false) => b"[]\n",
            (Kind::Children, true) => b"]\n",
            (Kind::Names, _) => b"\n",
            (Kind::Subtree { .. }, _) => b"",
        });
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, LogTime};
    use etcd_projections::State;
    use futures_util::FutureExt as _;

    use super::*;

    /// A directory with one file behind many directories that hold nothing.
    fn many_empty() -> View {
        let key = |path: &str| KeyPath::clean(path).unwrap();
        let mut state = State::new(10);
        let set = |key| Command::Set { key, value: "v".into(), ttl: None };
        let mut commands = vec![set(key("/d/z"))];
        for number in 0..2 * STEPS_AT_ONCE {
            let key = key(&format!("/d/{number}/x"));
            commands.extend([set(key.clone()), Command::Delete { key }]);
        }
        state.apply(&Batch::new(LogTime(1), commands));
        View::of(&state)
    }

    /// What is passed over takes time as well, though nothing is written for it.
    #[test]
    fn what_is_passed_over_keeps_nobody_waiting() {
        let view = many_empty();
        for children in [true, false] {
            let kind = Kind::Subtree { children, form: Form::Lines { bookmarks: false } };
            let part = Part { limit: Some(1), start: String::new() };
            let listing = Listing { key: KeyPath::clean("/d").unwrap(), kind, part };
            assert_eq!(listing.entries(&view.tree).count(), 1);
            assert_eq!(listing.short(&view), None);
            assert_eq!(listing.next(&view.tree).now_or_never(), None, "others are let in");
        }
    }
}
