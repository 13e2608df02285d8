//! Requests: which ids commands were asked for under, and what came of them.
//!
//! ```text
//! id ─▶ index ─▶ the answer: an event, or why not
//!       oldest ··· newest       ids go by time and by number, their answers by bytes as well
//! ```
//!
//! Whoever asks again under an id gets the first answer, and nothing happens (Raft, section
//! 8). An id is remembered for ten minutes of logged time, unless there are too many of them.
//! An answer that was let go before its id is in the log still. The bounds, and what counts how
//! much, are part of the log's format: all machines must let go of the same.
//!
//! A machine that does not know what came of a command repeats it. If any id was let go that
//! was used since its first try, it may be this one: then the command is refused, and nobody
//! knows whether it was done.
//!
//! Not remembered is a restore that came behind another command than it was worked out for:
//! it is worked out anew, under the same id.

use std::sync::Arc;

use etcd_log::{Asked, Index, LogTime, RequestId};
use imbl::Vector;
use xxhash_rust::xxh3::xxh3_128;

use crate::event::{Change, Event};
use crate::id_index::IdIndex;
use crate::outcome::{
    Came, FirstAnswer, Outcome, Position, Projection, Rejection, Requested, What,
};

/// The ids that are remembered.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    position: Position,
    /// The command that an id was used for first.
    first: IdIndex,
    /// What came of these, oldest first.
    answers: Vector<Arc<FirstAnswer>>,
    /// How many of the oldest have let go of their texts.
    let_go: usize,
    /// How many bytes the texts of the others have.
    bytes: usize,
    /// The newest command whose id was let go; 0 if none was.
    forgotten: Index,
}

impl Requests {
    /// For how long an id is remembered, in seconds of logged time.
    pub const SECONDS: u64 = 600;

    /// How many ids are remembered at most.
    pub const MOST: usize = 100_000;

    /// How many bytes the texts of answers have at most that are remembered.
    pub const MOST_BYTES: usize = 32 << 20;

    /// Returns what came of the command that this id was used for first, if that is
    /// remembered at a logged time.
    pub fn find(&self, id: &RequestId, time: LogTime) -> Option<&Arc<FirstAnswer>> {
        let index = self.first.get(hash(id))?;
        let at = self.answers.binary_search_by_key(&index, |answer| answer.index).ok()?;
        let is_it = |answer: &&Arc<FirstAnswer>| answer.requested.id == *id;
        self.answers.get(at).filter(is_it).filter(|answer| !has_lapsed(answer, time))
    }

    /// Returns why a command is refused that was asked for before, or under the id of
    /// another one.
    pub(crate) fn refuse(&self, asked: &Asked, time: LogTime) -> Option<Rejection> {
        match self.find(&asked.id, time) {
            Some(first) if first.requested.hash == asked.hash => {
                Some(Rejection::Repeated(Arc::clone(first)))
            }
            Some(_) => Some(Rejection::RequestIdUsed),
            None => {
                let lapsed = self.first.get(hash(&asked.id)).unwrap_or_default();
                let is_forgotten = asked.since < self.forgotten.max(lapsed);
                is_forgotten.then_some(Rejection::RequestForgotten)
            }
        }
    }

    /// Returns the newest command whose id was let go; 0 if none was.
    pub fn forgotten(&self) -> Index {
        self.forgotten
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

    /// Restores them from their answers, oldest first; nothing, if these are in no order that
    /// answers come in.
    pub(crate) fn restore(
        position: Position,
        forgotten: Index,
        answers: impl IntoIterator<Item = Arc<FirstAnswer>>,
    ) -> Option<Self> {
        let mut requests = Self { position, forgotten, ..Self::default() };
        let mut last = (forgotten, LogTime::default());
        for answer in answers {
            let (index, time) = (answer.index, answer.time);
            let follows = index > last.0 && time >= last.1;
            let is_later = index > position.index || time > position.time;
            let is_known = requests.first.get(hash(&answer.requested.id)).is_some();
            if !follows || is_later || is_known {
                return None;
            }
            last = (index, time);
            requests.push(answer);
        }
        Some(requests)
    }

    fn push(&mut self, answer: Arc<FirstAnswer>) {
        self.bytes += answer.came.size();
        let is_let_go = answer.came == Came::LetGo;
        self.first.insert(hash(&answer.requested.id), answer.index, self.forgotten);
        self.answers.push_back(answer);
        if is_let_go {
            self.let_go = self.answers.len();
        }
    }

    /// Lets go of ids that are too old or too many, and of answers that are too large.
    fn let_go(&mut self) {
        while let Some(oldest) = self.answers.front() {
            if self.answers.len() <= Self::MOST && !has_lapsed(oldest, self.position.time) {
                break;
            }
            self.bytes -= oldest.came.size();
            self.let_go = self.let_go.saturating_sub(1);
            self.forgotten = oldest.index;
            self.answers.pop_front();
        }
        while self.bytes > Self::MOST_BYTES {
            let answer = self.answers.get_mut(self.let_go).expect("one has those bytes");
            self.let_go += 1;
            let size = answer.came.size();
            if size > 0 {
                Arc::make_mut(answer).came = Came::LetGo;
                self.bytes -= size;
            }
        }
    }

    /// Notes what came of a command that was asked for under an id.
    fn note(&mut self, requested: &Arc<Requested>, outcome: &Outcome) {
        let came = match &outcome.what {
            What::Event(event) => Came::Event(Arc::clone(event)),
            What::Rejection(
                Rejection::Repeated(_)
                | Rejection::RequestIdUsed
                | Rejection::RequestForgotten
                | Rejection::Overtaken { .. },
            )
            | What::Tick => return,
            What::Rejection(rejection) => Came::Refused(rejection.clone()),
        };
        let Position { index, time, .. } = outcome.position;
        let changed = if let Came::Event(event) = &came { changed(event) } else { 0 };
        let requested = Arc::clone(requested);
        // They are searched by these numbers.
        assert!(self.answers.back().is_none_or(|last| last.index < index), "behind {index}");
        self.push(Arc::new(FirstAnswer { requested, index, time, came, changed }));
    }

    /// Notes that the last command has made one event more.
    fn note_more(&mut self, event: &Event) {
        // What is looked at to be changed is copied, if somebody else has it.
        let is_last = |last: &Arc<FirstAnswer>| last.index == event.index;
        if changed(event) > 0
            && self.answers.back().is_some_and(is_last)
            && let Some(last) = self.answers.back_mut()
        {
            let last = Arc::make_mut(last);
            last.changed = last.changed.saturating_add(changed(event));
        }
    }
}

/// How many keys an event has changed that a client counts.
fn changed(event: &Event) -> u32 {
    u32::from(!matches!(event.change, Change::DeleteDir | Change::Expire { .. }))
}

fn hash(id: &RequestId) -> u128 {
    xxh3_128(id.as_str().as_bytes())
}

fn has_lapsed(answer: &FirstAnswer, time: LogTime) -> bool {
    answer.time.plus_seconds(Requests::SECONDS) < time
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
    use crate::snapshot::{RestoreError, SnapshotItem};
    use crate::state::State;

    fn ask(state: &mut State, id: usize, command: Command) {
        let (id, since) = (format!("r{id}").parse().expect("an id"), state.position().index);
        state.apply(&Batch::new(LogTime(1), vec![Command::As(Asked::new(id, since, command))]));
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

    /// How much counts for what is a part of the format.
    #[test]
    fn oldest_answers_are_let_go_when_they_are_large() {
        let (mut state, key) = (State::new(1), KeyPath::clean("/a").expect("a key"));
        let value: Arc<str> = Arc::from("x".repeat(1 << 20));
        for id in 0..40 {
            let (key, value) = (key.clone(), Arc::clone(&value));
            ask(&mut state, id, Command::Set { key, value, ttl: None });
        }
        // Each has its key, its value, and the value before: fifteen fit in.
        let let_go = |first: &&Arc<FirstAnswer>| first.came == Came::LetGo;
        assert_eq!(state.requests().iter().take_while(let_go).count(), 25);
        assert_eq!(state.requests().iter().filter(let_go).count(), 25);
        assert_eq!(state.requests.bytes, 15 * (2 * (1 << 20) + 2));
        assert!((0..40).all(|id| knows(&state, id)));
        // Small ones behind them let go of nothing more, and the last bytes are used up.
        let room = Requests::MOST_BYTES - state.requests.bytes;
        let value = Arc::from("y".repeat(room - (1 << 20) - 2));
        ask(&mut state, 40, Command::Set { key: key.clone(), value, ttl: None });
        assert_eq!((state.requests.let_go, state.requests.bytes), (25, Requests::MOST_BYTES));
        ask(&mut state, 41, Command::Create { key, value: Arc::from("y"), ttl: None });
        assert_eq!(state.requests.let_go, 26);
    }

    /// A try that may have been forgotten is not done again; a new one is not held up.
    #[test]
    fn what_may_have_been_forgotten_is_refused() {
        let (mut state, key) = (State::new(1), KeyPath::clean("/a").expect("a key"));
        for id in 0..=Requests::MOST {
            ask(&mut state, id, Command::Delete { key: key.clone() });
        }
        assert_eq!(state.requests().forgotten(), Index(1));
        for (since, refused) in [(0, Rejection::RequestForgotten), (1, Rejection::KeyNotFound)] {
            let delete = Command::Delete { key: key.clone() };
            let asked = Asked::new("r0".parse().expect("an id"), Index(since), delete);
            let outcomes = state.apply(&Batch::new(LogTime(1), vec![Command::As(asked)]));
            assert_eq!(outcomes[0].what, What::Rejection(refused), "since {since}");
        }
    }

    /// A state that is put together again goes on as the one that it was taken from; and what
    /// cannot have come of any commands is refused.
    #[test]
    fn requests_of_a_checkpoint_go_on_or_are_refused() {
        let (mut state, key) = (State::new(1), KeyPath::clean("/a").expect("a key"));
        let value: Arc<str> = Arc::from("x".repeat(3 << 20));
        for id in 0..20 {
            let (key, value) = (key.clone(), Arc::clone(&value));
            ask(&mut state, 2 * id, Command::Set { key: key.clone(), value, ttl: None });
            ask(&mut state, 2 * id + 1, Command::TestAndDelete { key, prev_value: Arc::from("") });
        }
        let (header, items) = (state.snapshot_header(), state.snapshot_items());
        let items: Vec<_> = items.collect();
        let mut restored = State::from_snapshot(&header, items.clone(), 1).expect("the same");
        for id in 40..50 {
            for state in [&mut state, &mut restored] {
                let (key, value) = (key.clone(), Arc::clone(&value));
                ask(state, id, Command::Set { key, value, ttl: None });
            }
        }
        assert!(state.requests().iter().eq(restored.requests().iter()));
        assert_eq!(
            (state.digest(), state.requests.bytes),
            (restored.digest(), restored.requests.bytes)
        );

        let first = items.len() - header.requests;
        let wrong: [fn(&mut FirstAnswer); 4] = [
            |answer| answer.index = Index(3),
            |answer| answer.index = Index(1000),
            |answer| answer.time = LogTime(2),
            |answer| Arc::make_mut(&mut answer.requested).id = "r2".parse().expect("an id"),
        ];
        for wrong in wrong {
            let mut items = items.clone();
            let SnapshotItem::Request(answer) = &mut items[first + 1] else { panic!("{first}") };
            wrong(Arc::make_mut(answer));
            let refused = State::from_snapshot(&header, items, 1).map(drop);
            assert_eq!(refused, Err(RestoreError::Order));
        }
    }
}
