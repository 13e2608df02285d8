//! What can be wrong with a request, and what is said about it.

use std::fmt;

use etcd_log::{KeyPath, RequestId};

/// How much of a name that is not known is shown, in characters.
const FIELD_NAME_CHARS: usize = 64;

/// What can be wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A set without a value, or with an empty one.
    SetValue,
    /// A testAndSet without a value, or with an empty one.
    TestAndSetValue,
    /// A testAndSet without a previous value.
    PrevValue,
    /// A delete that tests for no value.
    DeletePrevValue,
    /// A condition that is none: something else than `prevExist=false`.
    PrevExist,
    /// A moment that is neither an index nor a time: the field, and what stands in it.
    Moment(&'static str, String),
    /// A field that has to be there: what needs it, and its name.
    Missing(&'static str, &'static str),
    /// A condition of a restore that is no index.
    IfIndex,
    /// A restore whose keys are to live in no way that there is.
    LivesOn,
    /// Two fields that exclude each other: which.
    Exclusive(&'static str),
    /// A time to live that is no whole number of seconds from 1.
    Ttl,
    /// An index that is no number.
    Index,
    /// A least index that is no number.
    MinIndex,
    /// An event number that is no number.
    After,
    /// A time limit that is no number of seconds.
    Timeout,
    /// A flag that is neither true nor false.
    Flag(&'static str),
    /// A kind of events that there is not: its name.
    Action(String),
    /// A number of lines that is none, or not a number.
    Lines,
    /// Where a listing is to begin, and cannot.
    Start,
    /// A stream of a part of a subtree.
    PartOfStream,
    /// A field that a write does not know: its name, as the client wrote it.
    UnknownField(String),
    /// A key that is not UTF-8.
    KeyText,
    /// A key that is too long or too deep.
    KeySize,
    /// A value that is not UTF-8.
    ValueText,
    /// An id of a request that is none, or more than one.
    RequestId,
    /// A body that broke off.
    Body,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetValue => f.write_str("Set: Value Required"),
            Self::TestAndSetValue => f.write_str("TestAndSet: Value Required"),
            Self::PrevValue => f.write_str("TestAndSet: PrevValue Required"),
            Self::DeletePrevValue => f.write_str("Delete: PrevValue Required"),
            Self::PrevExist => f.write_str("Set: PrevExist Must Be false"),
            Self::Moment(field, text) => {
                write!(f, "{field}: ")?;
                unknown(f, "Neither An Index Nor A Time", text)
            }
            Self::Missing(what, field) => write!(f, "{what}: {field} Required"),
            Self::IfIndex => f.write_str("if_index: Valid Index Required"),
            Self::LivesOn => f.write_str("Restore: TTL Must Be rest, keep Or drop"),
            Self::Exclusive(both) => write!(f, "{both} Exclude Each Other"),
            Self::Ttl => f.write_str("Set: TTL Must Be A Whole Number Of Seconds, 1 Or More"),
            Self::Index => f.write_str("Watch From Index: Valid Index Required"),
            Self::MinIndex => f.write_str("min_index: Valid Index Required"),
            Self::After => f.write_str("Watch After Event: Valid Event Number Required"),
            Self::Timeout => f.write_str("Timeout Must Be A Number Of Seconds"),
            Self::Flag(name) => write!(f, "{name} Must Be true Or false"),
            Self::Action(name) => unknown(f, "Action: Unknown Action", name),
            Self::Lines => f.write_str("Limit Must Be A Whole Number, 1 Or More"),
            Self::Start => f.write_str("Start Must Be A Key Below The Directory"),
            Self::PartOfStream => f.write_str("Stream Goes Without Limit And Start"),
            Self::UnknownField(name) => unknown(f, "Unknown Field", name),
            Self::KeyText => f.write_str("Key Must Be UTF-8"),
            Self::KeySize => write!(
                f,
                "Key Must Be Of At Most {} Bytes And {} Parts",
                KeyPath::MAX_BYTES,
                KeyPath::MAX_PARTS
            ),
            Self::ValueText => f.write_str("Value Must Be UTF-8"),
            Self::RequestId => write!(
                f,
                "X-Request-Id Must Have 1 To {} Visible ASCII Characters",
                RequestId::MAX_CHARS
            ),
            Self::Body => f.write_str("Body Incomplete"),
        }
    }
}

/// Writes that a name is not known. Whoever sends no form at all sends one field
/// with a very long name: its beginning is enough to see what happened.
fn unknown(f: &mut fmt::Formatter<'_>, what: &str, name: &str) -> fmt::Result {
    let end = name.char_indices().nth(FIELD_NAME_CHARS).map_or(name.len(), |(at, _)| at);
    let rest = if end < name.len() { "..." } else { "" };
    let name = if name.is_empty() { "(No Name)" } else { &name[..end] };
    write!(f, "{what}: {name}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_field_is_cut_between_characters() {
        let text = |name: String| Bad::UnknownField(name).to_string();
        assert_eq!(text(String::new()), "Unknown Field: (No Name)");
        assert_eq!(text("ä".repeat(64)), format!("Unknown Field: {}", "ä".repeat(64)));
        assert_eq!(text("ä".repeat(65)), format!("Unknown Field: {}...", "ä".repeat(64)));
    }
}
