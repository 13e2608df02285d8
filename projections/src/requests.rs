//! Requests: which ids commands were asked for under, and what came of them.
//!
//! ```text
//! id ─▶ index ─▶ the answer: an event, or why not
//!       oldest ··· newest       let go by time, by number, by bytes
//! ```
//!
//! Whoever asks again under an id gets the first answer, and nothing happens (Raft, section
//! 8). An id is remembered for ten minutes of logged time, unless there are too many of them:
//! the bounds are part of the log's format, as all machines must let go of the same ones.
//!
//! Not remembered is a restore that came behind another command than it was worked out for:
//! it is worked out anew, under the same id.

use std::sync::Arc;

use etcd_log::{Asked, Index, LogTime, RequestId};
use imbl::{OrdMap, Vector};

use crate::event::{Change, Event};
use crate::outcome::{
    Came, FirstAnswer, Outcome, Position, Projection, Rejection, Requested, What,
};

/// The ids that are remembered.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    position: Position,
    /// The command that an id was used for first.
    first: OrdMap<RequestId, Index>,
    /// What came of these, oldest first.
    answers: Vector<Arc<FirstAnswer>>,
    /// How many bytes of memory they take, about.
    bytes: usize,
}

impl Requests {
    /// For how long an id is remembered, in seconds of logged time.
    pub const SECONDS: u64 = 600;

    /// How many ids are remembered at most.
    pub const MOST: usize = 100_000;

    /// How many bytes of answers are remembered at most, about.
    pub const MOST_BYTES: usize = 32 << 20;

    /// Returns what came of the command that this id was used for first, if that is
    /// remembered at a logged time.
    pub fn find(&self, id: &RequestId, time: LogTime) -> Option<&Arc<FirstAnswer>> {
        let index = self.first.get(id)?;
        let at = self.answers.binary_search_by_key(index, |answer| answer.index).ok()?;
        self.answers.get(at).filter(|answer| !has_lapsed(answer, time))
    }

    /// Returns why a command is refused that was asked for before, or under the id of
    /// another one.
    pub(crate) fn refuse(&self, asked: &Asked, time: LogTime) -> Option<Rejection> {
        let first = self.find(&asked.id, time)?;
        Some(if first.requested.hash == asked.hash {
            Rejection::Repeated(Arc::clone(first))
        } else {
            Rejection::RequestIdUsed
        })
    }

    /// Returns all answers, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FirstAnswer>> {
        self.answers.iter()
    }

    /// Returns how many ids are remembered.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Returns whether no id is remembered.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Restores them from their answers, oldest first.
    pub(crate) fn restore(
        position: Position,
        answers: impl IntoIterator<Item = Arc<FirstAnswer>>,
    ) -> Self {
        let mut requests = Self { position, ..Self::default() };
        answers.into_iter().for_each(|answer| requests.push(answer));
        requests
    }

    fn push(&mut self, answer: Arc<FirstAnswer>) {
        self.bytes += size(&answer);
        self.first.insert(answer.requested.id.clone(), answer.index);
        self.answers.push_back(answer);
    }

    /// Lets go of what is too old or too much: of all but the newest, if that alone is.
    fn let_go(&mut self) {
        while let Some(oldest) = self.answers.front() {
            let is_too_much = self.answers.len() > Self::MOST
                || (self.bytes > Self::MOST_BYTES && self.answers.len() > 1);
            if !is_too_much && !has_lapsed(oldest, self.position.time) {
                return;
            }
            self.bytes -= size(oldest);
            let (id, index) = (&oldest.requested.id, oldest.index);
            // It may have been used anew, once it had lapsed.
            if self.first.get(id) == Some(&index) {
                self.first.remove(id);
            }
            self.answers.pop_front();
        }
    }

    /// Notes what came of a command that was asked for under an id.
    fn note(&mut self, requested: &Arc<Requested>, outcome: &Outcome) {
        let came = match &outcome.what {
            What::Event(event) => Came::Event(Arc::clone(event)),
            What::Rejection(
                Rejection::Repeated(_) | Rejection::RequestIdUsed | Rejection::Overtaken { .. },
            )
            | What::Tick => return,
            What::Rejection(rejection) => Came::Refused(rejection.clone()),
        };
        let Position { index, time, .. } = outcome.position;
        let changed = if let Came::Event(event) = &came { changed(event) } else { 0 };
        let requested = Arc::clone(requested);
        self.push(Arc::new(FirstAnswer { requested, index, time, came, changed }));
    }

    /// Notes that the last command has made one event more.
    fn note_more(&mut self, event: &Event) {
        // What is looked at to be changed is copied, if somebody else has it.
        if self.answers.back().is_some_and(|last| last.index == event.index)
            && let Some(last) = self.answers.back_mut()
        {
            Arc::make_mut(last).changed += changed(event);
        }
    }
}

/// How many keys an event has changed that a client counts.
fn changed(event: &Event) -> u32 {
    u32::from(!matches!(event.change, Change::DeleteDir | Change::Expire { .. }))
}

fn has_lapsed(answer: &FirstAnswer, time: LogTime) -> bool {
    answer.time.plus_seconds(Requests::SECONDS) < time
}

fn size(answer: &FirstAnswer) -> usize {
    let came = match &answer.came {
        Came::Event(event) => event.size(),
        Came::Refused(Rejection::TestFailed { found, expected }) => found.len() + expected.len(),
        Came::Refused(_) => 64,
    };
    256 + came
}

impl Projection for Requests {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        match (&outcome.requested, &outcome.what) {
            (Some(requested), _) => self.note(requested, outcome),
            (None, What::Event(event)) => self.note_more(event),
            (None, What::Rejection(_) | What::Tick) => {}
        }
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, KeyPath};

    use super::*;
    use crate::state::State;

    fn ask(state: &mut State, id: usize, command: Command) {
        let id = format!("r{id}").parse().expect("an id");
        state.apply(&Batch::new(LogTime(1), vec![Command::As(Asked::new(id, command))]));
    }

    fn knows(state: &State, id: usize) -> bool {
        let id = format!("r{id}").parse().expect("an id");
        state.requests().find(&id, LogTime(1)).is_some()
    }

    #[test]
    fn oldest_id_is_let_go_when_there_are_too_many() {
        let (mut state, key) = (State::new(1), KeyPath::clean("/a").expect("a key"));
        for id in 0..Requests::MOST {
            ask(&mut state, id, Command::Delete { key: key.clone() });
        }
        assert!(knows(&state, 0));
        ask(&mut state, Requests::MOST, Command::Delete { key: key.clone() });
        assert!(!knows(&state, 0) && knows(&state, 1) && knows(&state, Requests::MOST));
        assert_eq!(state.requests().len(), Requests::MOST);
    }

    #[test]
    fn oldest_ids_are_let_go_when_their_answers_are_large() {
        let (mut state, key) = (State::new(1), KeyPath::clean("/a").expect("a key"));
        let value: Arc<str> = Arc::from("x".repeat(1 << 20));
        for id in 0..40 {
            let (key, value) = (key.clone(), Arc::clone(&value));
            ask(&mut state, id, Command::Set { key, value, ttl: None });
        }
        // All but the first have the value before them, too.
        assert_eq!((0..40).find(|id| knows(&state, *id)), Some(25));
        assert_eq!(state.requests().len(), 15);
        let size_of_all = state.requests().iter().map(|answer| size(answer)).sum::<usize>();
        assert!(state.requests.bytes == size_of_all && size_of_all <= Requests::MOST_BYTES);
    }
}
