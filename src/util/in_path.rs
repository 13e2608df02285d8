//! What of a key stands in a path or a query as it is, and what is encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What is encoded of a key, a moment, or where a listing goes on.
pub(crate) const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
