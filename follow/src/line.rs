//! An event as the server writes it: a line of JSON.
//!
//! ```text
//! {"action":"SET","key":"/foo","prevValue":"old","value":"bar","expiration":"…","ttl":4,"index":6,"event":5,"time":"…"}
//! ```
//!
//! A field that is not known is passed over: a later server may have more to say of an event.
//! An action that is not known is refused, for nobody could tell what it changes.

use std::sync::Arc;

use etcd_log::{EventNumber, Index, KeyPath, LogTime};
use etcd_projections::{Change, Event};
use serde::Deserialize;

use crate::error::Fault;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    action: String,
    key: KeyPath,
    prev_value: Option<Arc<str>>,
    value: Option<Arc<str>>,
    #[serde(default)]
    dir: bool,
    expiration: Option<LogTime>,
    index: Index,
    event: EventNumber,
    time: LogTime,
}

/// Reads an event out of a line of JSON, as histories and streams of the API tell it.
///
/// # Errors
///
/// If it is none, or says something that is not known.
pub fn read(line: &[u8]) -> Result<Event, Fault> {
    let unreadable = |what: String| Fault::Unreadable(what);
    let line: Line = serde_json::from_slice(line).map_err(|error| unreadable(error.to_string()))?;
    let Line { action, key, prev_value: prev, value, dir, expiration, .. } = line;
    let change = match (&*action, value, prev, expiration) {
        ("SET", Some(value), prev, deadline) => Change::Set { value, prev, deadline },
        ("DELETE", None, None, None) if dir => Change::DeleteDir,
        ("DELETE", None, Some(prev), deadline) => Change::Delete { prev, deadline },
        ("EXPIRE", None, Some(prev), Some(deadline)) => Change::Expire { prev, deadline },
        _ => return Err(unreadable(format!("{action} of {key}, with these fields"))),
    };
    Ok(Event { number: line.event, index: line.index, time: line.time, key, change })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(fields: &str) -> Result<Event, Fault> {
        let time = r#""time":"1970-01-01T00:00:02.000000000+00:00""#;
        read(format!(r#"{{{fields},"index":6,"event":5,{time},"new":1}}"#).as_bytes())
    }

    #[test]
    fn each_kind_of_event_is_read() {
        let deadline = LogTime(1_500_000_000);
        let expiration = r#""expiration":"1970-01-01T01:00:01.500000000+01:00","ttl":4"#;
        let (value, prev): (Arc<str>, Arc<str>) = ("bar".into(), "old".into());
        let cases = [
            (
                r#""action":"SET","key":"/a","value":"bar","newKey":true"#.to_owned(),
                Change::Set { value: Arc::clone(&value), prev: None, deadline: None },
            ),
            (
                format!(
                    r#""action":"SET","key":"/a","prevValue":"old","value":"bar",{expiration}"#
                ),
                Change::Set { value, prev: Some(Arc::clone(&prev)), deadline: Some(deadline) },
            ),
            (
                r#""action":"DELETE","key":"/a","prevValue":"old""#.to_owned(),
                Change::Delete { prev: Arc::clone(&prev), deadline: None },
            ),
            (r#""action":"DELETE","key":"/a","dir":true"#.to_owned(), Change::DeleteDir),
            (
                format!(r#""action":"EXPIRE","key":"/a","prevValue":"old",{expiration}"#),
                Change::Expire { prev, deadline },
            ),
        ];
        for (fields, change) in cases {
            let read = read_with(&fields).unwrap();
            let key = KeyPath::clean("/a").unwrap();
            let (number, index, time) = (EventNumber(5), Index(6), LogTime(2_000_000_000));
            assert_eq!(read, Event { number, index, time, key, change });
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for fields in [
            r#""action":"SET","key":"/a""#,
            r#""action":"SET","key":"a/","value":"b""#,
            r#""action":"GET","key":"/a","value":"b""#,
            r#""action":"RESTORE","key":"/a""#,
            r#""action":"EXPIRE","key":"/a","prevValue":"b""#,
            r#""key":"/a","value":"b""#,
        ] {
            assert!(matches!(read_with(fields), Err(Fault::Unreadable(_))), "{fields}");
        }
    }
}
