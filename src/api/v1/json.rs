//! The lines of JSON that clients see. The order of the fields is part of the
//! contract; a field that is empty, zero or absent is left out.

use chrono::{Local, SecondsFormat};
use etcd_log::{Index, KeyPath, LogTime};
use etcd_projections::{Change, Event, Position, TreeNode};
use serde::Serialize;

use crate::api::http::escapes::to_vec;
use crate::node::{MemberStatus, Seen};

/// One line: an event, or what a key holds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine<'a> {
    action: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    new_key: bool,
    #[serde(skip_serializing_if = "is_false")]
    dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    ttl: u64,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl<'a> EventLine<'a> {
    fn new(action: &'a str, key: &'a KeyPath, index: Index) -> Self {
        Self {
            action,
            key: key.as_str(),
            prev_value: None,
            value: None,
            new_key: false,
            dir: false,
            expiration: None,
            ttl: 0,
            index: index.0,
            event: None,
            time: None,
        }
    }
}

/// A machine of the cluster, and how it stands.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineLine<'a> {
    name: &'a str,
    id: String,
    role: &'a str,
    peer_url: &'a str,
    client_url: &'a str,
    /// The last command that it has applied; absent if it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// How many commands it is behind the one that is furthest.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
}

/// Writes a machine, given the newest command that any machine has applied.
pub fn machine(listed: &MemberStatus, newest: Index) -> Vec<u8> {
    let MemberStatus { machine, votes, standing } = listed;
    let role = match standing {
        None => "unreachable",
        Some(standing) if standing.leads => "leader",
        Some(_) if *votes => "follower",
        Some(_) => "learner",
    };
    let index = standing.as_ref().map(|standing| standing.applied.0);
    to_vec(&MachineLine {
        name: &machine.name,
        id: machine.node.to_string(),
        role,
        peer_url: &machine.peer_url,
        client_url: &machine.client_url,
        index,
        lag: index.map(|index| newest.0.saturating_sub(index)),
    })
}

/// Writes an event as the v1 API shows it: an expiry looks like a delete. The
/// same event gives the same bytes to everybody, at any time.
pub fn event(event: &Event) -> Vec<u8> {
    to_vec(&line(event))
}

/// Writes an event as streams show it: with its number and time, and with an
/// expiry called one.
pub fn streamed_event(event: &Event) -> Vec<u8> {
    let mut line = line(event);
    line.event = Some(event.number.0);
    line.time = Some(rfc3339(event.time));
    if matches!(event.change, Change::Expire { .. }) {
        line.action = "EXPIRE";
    }
    to_vec(&line)
}

fn line(event: &Event) -> EventLine<'_> {
    let expiration = event.change.deadline().map(rfc3339);
    match &event.change {
        Change::Set { value, prev, deadline } => EventLine {
            value: Some(value),
            prev_value: prev.as_deref(),
            new_key: prev.is_none(),
            expiration,
            ttl: deadline.map_or(0, |deadline| remaining(deadline, event.time)),
            ..EventLine::new("SET", &event.key, event.index)
        },
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => EventLine {
            prev_value: Some(prev),
            expiration,
            ..EventLine::new("DELETE", &event.key, event.index)
        },
        Change::DeleteDir => {
            EventLine { dir: true, ..EventLine::new("DELETE", &event.key, event.index) }
        }
    }
}

/// Writes what a key holds at an index and a time.
pub fn node(key: &KeyPath, node: &TreeNode, index: Index, now: LogTime) -> Vec<u8> {
    let line = EventLine::new("GET", key, index);
    let line = match node {
        TreeNode::File { value, deadline } => EventLine {
            value: Some(value),
            expiration: deadline.map(rfc3339),
            ttl: deadline.map_or(0, |deadline| remaining(deadline, now)),
            ..line
        },
        TreeNode::Directory => EventLine { dir: true, ..line },
    };
    to_vec(&line)
}

/// Writes a child of a directory as a listing shows it.
pub fn child(name: &str, node: &TreeNode) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Child<'a> {
        key: &'a str,
        value: &'a str,
        r#type: &'a str,
    }
    let (value, r#type) = match node {
        TreeNode::File { value, .. } => (&**value, "f"),
        TreeNode::Directory => (".", "d"),
    };
    to_vec(&Child { key: name, value, r#type })
}

/// A place in a stream, to go on from.
#[derive(Serialize)]
struct PlaceLine<'a> {
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl<'a> PlaceLine<'a> {
    fn at(action: &'a str, key: Option<&'a KeyPath>, position: Position) -> Self {
        let time = (position.time > LogTime(0)).then(|| rfc3339(position.time));
        let (index, event) = (position.index.0, Some(position.event.0));
        Self { action, key: key.map(KeyPath::as_str), index, event, time }
    }
}

/// Writes how far a stream has come: a watch behind its event sees what follows. Without
/// an event, all commands up to its index were passed over.
pub fn bookmark(seen: Seen) -> Vec<u8> {
    to_vec(&match seen {
        Seen::Upto(position) => PlaceLine::at("BOOKMARK", None, position),
        Seen::NothingBefore(index) => PlaceLine {
            action: "BOOKMARK",
            key: None,
            index: index.0.saturating_sub(1),
            event: None,
            time: None,
        },
    })
}

/// Writes that the state of a subtree has been told, and how far it had come.
pub fn state(key: &KeyPath, position: Position) -> Vec<u8> {
    to_vec(&PlaceLine::at("STATE", Some(key), position))
}

/// Writes what became of a key between two moments.
pub fn net_change(key: &KeyPath, from: Option<&str>, to: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct NetChange<'a> {
        key: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a str>,
    }
    to_vec(&NetChange { key: key.as_str(), from, to })
}

/// Writes that keys were put back as they were behind a command; and which command did it.
pub fn restored(key: &KeyPath, at: Index, changed: usize, index: Index) -> Vec<u8> {
    #[derive(Serialize)]
    struct Restored<'a> {
        action: &'a str,
        key: &'a str,
        at: u64,
        changed: usize,
        index: u64,
    }
    let (action, key) = ("RESTORE", key.as_str());
    to_vec(&Restored { action, key, at: at.0, changed, index: index.0 })
}

/// Writes why a stream ends before its time.
pub fn error(why: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    to_vec(&Error { error: why })
}

/// Returns how many whole seconds remain at the least, looking at a time shortly
/// after `now`: directly after a set with a TTL of 5 it is 4.
fn remaining(deadline: LogTime, now: LogTime) -> u64 {
    deadline.0.saturating_sub(now.0).saturating_sub(1) / 1_000_000_000
}

/// Writes a time as RFC 3339 with nanoseconds, in this machine's time zone.
fn rfc3339(time: LogTime) -> String {
    time.to_utc().with_timezone(&Local).to_rfc3339_opts(SecondsFormat::Nanos, false)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_log::EventNumber;

    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn happened(change: Change) -> Event {
        let key = KeyPath::clean("/foo").unwrap();
        let (number, index) = (EventNumber(9), Index(6));
        Event { number, index, time: LogTime(1_000_000_000), key, change }
    }

    #[test]
    fn fields_stand_in_the_order_of_the_first_etcd() {
        let deadline = Some(LogTime(6_000_000_000));
        let (value, prev) = (Arc::from("bar"), Some(Arc::from("old")));
        let line = text(event(&happened(Change::Set { value, prev, deadline })));
        let names: Vec<_> = line.split(',').map(|field| field.split(':').next().unwrap()).collect();
        let expected = [
            "{\"action\"",
            "\"key\"",
            "\"prevValue\"",
            "\"value\"",
            "\"expiration\"",
            "\"ttl\"",
            "\"index\"",
        ];
        assert_eq!(names, expected);
        assert!(line.contains(r#""ttl":4,"#), "{line}");
    }

    #[test]
    fn ttl_of_nothing_is_left_out() {
        let deadline = Some(LogTime(2_000_000_000));
        let (value, prev) = (Arc::from("bar"), None);
        let line = text(event(&happened(Change::Set { value, prev, deadline })));
        assert!(
            line.contains(r#""newKey":true,"expiration":""#) && !line.contains("ttl"),
            "{line}"
        );
    }

    #[test]
    fn expiry_is_called_one_in_streams_only() {
        let deadline = LogTime(1_000_000_000);
        let expired = happened(Change::Expire { prev: Arc::from("bar"), deadline });
        assert!(
            text(event(&expired))
                .starts_with(r#"{"action":"DELETE","key":"/foo","prevValue":"bar""#)
        );
        let streamed = text(streamed_event(&expired));
        assert!(
            streamed.starts_with(r#"{"action":"EXPIRE""#) && streamed.contains(r#""event":9,"#)
        );
    }
}
