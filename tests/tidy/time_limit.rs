//! Which tests begin their time: see `tests/support/limit.rs`.

use super::tokens::{Token, tokens};

/// What stands before a test that may wait for ever: it has a runtime, or plays a script.
const HEADS: [&[&str]; 2] =
    [&["#", "[", "tokio", "::", "test"], &["fn", "run", "(", "script", ":", "&", "Path", ")"]];

/// Finds the tests of a file that may hang: the line of each, and whether the first thing
/// that it does is to begin its time.
pub(crate) fn of_tests(text: &str) -> Vec<(usize, bool)> {
    let tokens = tokens(text);
    let begins = |at: &usize| HEADS.iter().any(|head| is(&tokens[*at..], head));
    let tests = (0..tokens.len()).filter(begins);
    tests.map(|at| (tokens[at].line, is_limited(&tokens[at..]))).collect()
}

fn is_limited(test: &[Token<'_>]) -> bool {
    let body = test.iter().position(|token| token.text == "{").unwrap_or_default();
    is(&test[body..], &["{", "limit", "::", "begin", "(", ")", ";"])
}

fn is(tokens: &[Token<'_>], expected: &[&str]) -> bool {
    tokens.len() >= expected.len()
        && tokens.iter().zip(expected).all(|(token, expected)| token.text == *expected)
}

#[test]
fn what_begins_no_time_is_found() {
    let text = "#[tokio::test]\nasync fn one() { limit::begin(); }\n
        #[tokio::test(start_paused = true)] async fn two() { wait(); limit::begin(); }
        #[test] fn three() {} fn run(script: &Path) { play(script) }";
    assert_eq!(of_tests(text), [(1, true), (4, false), (5, false)]);
}
