//! Errors for people: an error and its causes, on one line.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use super::printable::Escaping;

/// Shows an error with all its causes: `cannot read x: permission denied`. It stays on
/// one line, whatever it quotes.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Escaping(f);
        write!(line, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(line, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says on one line why the program ends.
pub fn complain(error: &dyn Error) {
    // Nobody is left to hear that this failed.
    let _written = writeln!(io::stderr(), "etcd: {}", ErrorChain(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn error_stays_on_one_line_with_its_causes() {
        let inner = io::Error::other("not\u{1b}[1A there\n");
        let shown = ErrorChain(&Outer("a\nb", inner)).to_string();
        assert_eq!(shown, r"cannot read a\nb: not\u{1b}[1A there\n");
    }
}
