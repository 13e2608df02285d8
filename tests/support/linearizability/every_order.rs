//! The checker against one that tries every order: what it leaves out must not matter.
//!
//! ```text
//! calls, one after the other ─▶ true answers ─▶ some get lost, and calls overlap ─▶ is linearizable
//!                                            └▶ and one is a lie ─▶ whatever all orders say
//! ```

use proptest::prelude::*;
use proptest::sample::select;

use super::{Answer, Call, Operation, Value, apply, check};

/// So few that operations see each other's values, and so that values come back.
const VALUES: [&str; 3] = ["a", "b", "c"];

/// How many operations a history has at most: all orders of them can be tried.
const OPERATIONS: usize = 6;

/// How far apart the moments are at which operations happen: so little that many are
/// called when others are answered.
const STEP: u64 = 3;

/// Looks for a right order, and leaves out none.
fn has_order(open: &[Operation], value: &Value) -> bool {
    // Whatever is not known to have happened need not.
    open.iter().all(|op| op.answer == Answer::Unknown)
        || (0..open.len()).any(|at| {
            let op = &open[at];
            let is_next = open.iter().all(|other| op.called <= ends(other));
            let rest = || [&open[..at], &open[at + 1..]].concat();
            is_next && apply(op, value).is_some_and(|value| has_order(&rest(), &value))
        })
}

fn ends(operation: &Operation) -> u64 {
    if operation.answer == Answer::Unknown { u64::MAX } else { operation.answered }
}

/// An operation, and what becomes of it and of its answer.
#[derive(Clone, Debug)]
struct Step {
    call: Call,
    fate: Fate,
    /// How long before it happened it was called, and how long after it was answered.
    around: (u64, u64),
}

#[derive(Clone, Debug)]
enum Fate {
    Answered,
    /// It happens, and nobody learns of it.
    AnswerLost,
    /// It never happens, and nobody learns of it.
    CallLost,
}

fn any_value() -> impl Strategy<Value = String> {
    select(&VALUES[..]).prop_map(str::to_owned)
}

fn any_call() -> impl Strategy<Value = Call> {
    let test = (any_value(), any_value());
    prop_oneof![
        2 => any_value().prop_map(Call::Set),
        2 => test.prop_map(|(prev, value)| Call::TestAndSet { prev, value }),
        1 => Just(Call::Delete),
        2 => any_value().prop_map(Call::Create),
        1 => any_value().prop_map(|prev| Call::TestAndDelete { prev }),
        2 => Just(Call::Get),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        proptest::option::of(any_value()).prop_map(Answer::Done),
        any_value().prop_map(Answer::Found),
        Just(Answer::NotFound),
        Just(Answer::Exists),
        any_value().prop_map(Answer::Value),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        3 => Just(Fate::Answered),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::CallLost),
    ];
    let around = (0..3 * STEP, 0..3 * STEP);
    (any_call(), fate, around).prop_map(|(call, fate, around)| Step { call, fate, around })
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(), 1..=OPERATIONS)
}

/// What a call does, and the answer that it deserves.
fn happen(call: &Call, before: &Value) -> (Value, Answer) {
    match (call, before) {
        (Call::Set(value), _) => (Some(value.clone()), Answer::Done(before.clone())),
        (Call::Create(value), None) => (Some(value.clone()), Answer::Done(None)),
        (Call::Create(_), Some(_)) => (before.clone(), Answer::Exists),
        (_, None) => (None, Answer::NotFound),
        (Call::Get, Some(there)) => (before.clone(), Answer::Value(there.clone())),
        (Call::Delete, Some(_)) => (None, Answer::Done(before.clone())),
        (Call::TestAndSet { prev, value }, Some(there)) if prev == there => {
            (Some(value.clone()), Answer::Done(before.clone()))
        }
        (Call::TestAndDelete { prev }, Some(there)) if prev == there => {
            (None, Answer::Done(before.clone()))
        }
        (Call::TestAndSet { .. } | Call::TestAndDelete { .. }, Some(there)) => {
            (before.clone(), Answer::Found(there.clone()))
        }
    }
}

/// Lets the steps happen one after the other, and returns what clients noted.
fn history(steps: Vec<Step>) -> Vec<Operation> {
    let (mut value, mut history) = (None, Vec::new());
    for (moment, Step { call, fate, around }) in
        (3 * STEP..).step_by(usize::try_from(STEP).unwrap()).zip(steps)
    {
        let (after, deserved) = happen(&call, &value);
        let answer = match fate {
            Fate::Answered => deserved,
            Fate::AnswerLost | Fate::CallLost => Answer::Unknown,
        };
        if !matches!(fate, Fate::CallLost) {
            value = after;
        }
        let (called, answered) = (moment - around.0, moment + around.1);
        history.push(Operation { key: "/k".to_owned(), call, answer, called, answered });
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What was answered as it happened is accepted, whatever got lost.
    #[test]
    fn truth_is_accepted(steps in any_steps()) {
        let history = history(steps);
        prop_assert!(check(&history).is_ok());
        prop_assert!(has_order(&history, &None));
    }

    /// With an answer that may be a lie, the checker says what all orders say.
    #[test]
    fn lie_is_judged_as_by_every_order(
        steps in any_steps(),
        lies in proptest::collection::vec((0..OPERATIONS, any_answer()), 1..3),
    ) {
        let mut history = history(steps);
        for (at, lie) in lies {
            let at = at % history.len();
            history[at].answer = lie;
        }
        prop_assert_eq!(check(&history).is_ok(), has_order(&history, &None));
    }
}
