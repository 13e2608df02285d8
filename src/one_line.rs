//! Errors for people: an error and its causes, on one line.

use std::error::Error;
use std::fmt;

/// Shows an error with all its causes: `cannot read x: permission denied`.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a dyn Error);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
