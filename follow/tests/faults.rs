//! What a follower makes of machines that cut off, lie, fall silent or refuse: of each, a
//! server that does exactly that, and one that is as it should be.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/limit.rs"]
mod limit;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use etcd_follow::{Events, Fault, FollowError, Follower, Start};
use etcd_log::{EventNumber, KeyPath};
use tokio_stream::StreamExt as _;

/// How many events there are.
const LAST: u64 = 8;

/// Longer than anything takes on a busy machine: reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a server is asked: the method, the path, and how often it was asked before for a
/// stream.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    before: usize,
}

impl Asked<'_> {
    fn after(&self) -> u64 {
        self.path.rsplit_once("after=").map_or(0, |(_, number)| number.parse().unwrap())
    }
}

/// What it does then.
enum Act {
    /// Says this, and nothing more, but keeps the connection open.
    Say(String),
    /// Says this and breaks off.
    BreakOff(String),
}

/// Starts a server, and returns its address. It goes on until the test ends.
fn server(act: impl Fn(&Asked<'_>) -> Act + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (act, streams) = (Arc::new(act), Arc::new(Mutex::new(0)));
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let (act, streams) = (Arc::clone(&act), Arc::clone(&streams));
            thread::spawn(move || serve(&connection, &*act, &streams));
        }
    });
    url
}

/// Answers one request. Either side may end at any moment.
fn serve(mut connection: &TcpStream, act: &dyn Fn(&Asked<'_>) -> Act, streams: &Mutex<usize>) {
    let mut head = BufReader::new(connection).lines().map_while(Result::ok);
    let Some(first) = head.next() else { return };
    head.find(String::is_empty);
    let [method, path, _] = first.split(' ').collect::<Vec<_>>()[..] else { panic!("{first}") };
    let before = {
        let mut streams = streams.lock().unwrap();
        *streams += usize::from(path.contains("after="));
        streams.saturating_sub(1)
    };
    match act(&Asked { method, path, before }) {
        Act::Say(text) => {
            let _gone = connection.write_all(text.as_bytes());
            // Until the other side has heard enough.
            let _ended = std::io::copy(&mut connection, &mut std::io::sink());
        }
        Act::BreakOff(text) => {
            let _gone = connection.write_all(text.as_bytes());
            let _ended = connection.shutdown(Shutdown::Both);
        }
    }
}

fn answer(status: &str, body: &str) -> Act {
    let length = body.len();
    let cluster = "X-Etcd-Cluster-Id: 00000000000000c1";
    let event = format!("X-Etcd-Event: {LAST}");
    let head = format!("HTTP/1.1 {status}\r\n{cluster}\r\n{event}\r\nContent-Length: {length}");
    Act::BreakOff(format!("{head}\r\n\r\n{body}"))
}

/// A stream of messages, in the chunks that a server sends.
fn stream(cluster: &str, messages: impl IntoIterator<Item = String>) -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked";
    let mut text = format!("{head}\r\nX-Etcd-Cluster-Id: {cluster}\r\n\r\n");
    for message in messages {
        write!(text, "{:x}\r\n{message}\r\n", message.len()).unwrap();
    }
    text
}

fn message(number: u64) -> String {
    let time = "1970-01-01T00:00:01.000000000+00:00";
    let fields = format!(r#""key":"/a","value":"{number}","index":{number},"event":{number}"#);
    format!("id: {number}\ndata: {{\"action\":\"SET\",{fields},\"time\":\"{time}\"}}\n\n")
}

fn honest_stream(asked: &Asked<'_>) -> String {
    stream("00000000000000c1", (asked.after() + 1..=LAST).map(message))
}

/// What a machine does that is as it should be.
fn honest(asked: &Asked<'_>) -> Act {
    match asked.path {
        "/health" => answer("200 OK", "{\"health\":\"true\"}\n"),
        "/v1/machines" => answer("200 OK", ""),
        _ if asked.method == "HEAD" => answer("204 No Content", ""),
        _ => Act::Say(honest_stream(asked)),
    }
}

/// One that answers streams in its own way.
fn otherwise(act: impl Fn(&Asked<'_>) -> Act + Send + Sync + 'static) -> String {
    server(move |asked| if asked.path.contains("after=") { act(asked) } else { honest(asked) })
}

/// Takes the numbers up to the last event.
async fn numbers(events: &mut Events) -> Result<Vec<u64>, FollowError> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&LAST) {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("it hangs");
        numbers.push(event.expect("it does not end")?.number.0);
    }
    Ok(numbers)
}

/// Follows these machines from the beginning to the last event.
async fn follow(urls: &[&str]) -> Result<Vec<u64>, FollowError> {
    numbers(&mut Follower::new(urls.iter().copied()).events()).await
}

fn all() -> Vec<u64> {
    (1..=LAST).collect()
}

/// Wherever a stream breaks off, in the middle of a line too, what was whole counts once.
#[tokio::test]
async fn stream_that_is_cut_off_anywhere_is_gone_on_with() {
    limit::begin();
    let length = stream("00000000000000c1", (1..=LAST).map(message)).len();
    let cut_at = Arc::new(Mutex::new(0));
    let cut = Arc::clone(&cut_at);
    let cutting = otherwise(move |asked| {
        let text = honest_stream(asked);
        Act::BreakOff(text[..text.len().min(*cut.lock().unwrap())].to_owned())
    });
    let good = server(honest);
    for at in (0..length).step_by(5) {
        *cut_at.lock().unwrap() = at;
        assert_eq!(follow(&[&cutting, &good]).await.unwrap(), all(), "cut at byte {at}");
    }
}

/// An end that is in order, with half a message before it.
#[tokio::test]
async fn half_a_message_counts_for_nothing() {
    limit::begin();
    let half = otherwise(|asked| {
        let next = message(asked.after() + 1);
        let pieces = [next.clone(), message(asked.after() + 2)[..next.len() / 2].to_owned()];
        Act::BreakOff(stream("00000000000000c1", pieces) + "0\r\n\r\n")
    });
    assert_eq!(follow(&[&half]).await.unwrap(), all());
}

/// Which events a server sends that is asked for those from a number on.
type Lie = fn(u64) -> Vec<u64>;

#[tokio::test]
async fn liar_is_not_believed() {
    limit::begin();
    let lies: [Lie; 4] = [
        |after| vec![after + 2, after + 3],
        |after| vec![after + 1, after + 1, after + 2],
        |after| vec![after],
        |after| vec![after + 1, after + 3],
    ];
    for lie in lies {
        let liar = otherwise(move |asked| {
            let numbers = lie(asked.after()).into_iter().filter(|number| *number <= LAST + 3);
            Act::Say(stream("00000000000000c1", numbers.map(message)))
        });
        let good = server(honest);
        assert_eq!(follow(&[&liar, &good]).await.unwrap(), all());
    }
    let liar =
        otherwise(|asked| Act::Say(stream("00000000000000c1", [message(asked.after() + 2)])));
    let error = follow(&[&liar]).await.unwrap_err();
    let FollowError::Broken { source, .. } = error else { panic!("{error}") };
    let (found, expected) = (EventNumber(2), EventNumber(1));
    assert!(
        matches!(*source, Fault::OutOfOrder { found: f, expected: e } if (f, e) == (found, expected))
    );
}

#[tokio::test]
async fn what_is_no_event_is_told() {
    limit::begin();
    for text in [
        "id: 1\ndata: {}\n\n",
        "id: 2\ndata: x\n\n",
        "id: x\n",
        &message(1).replace("id: 1", "id: 2"),
    ] {
        let text = text.to_owned();
        let wrong = otherwise(move |_| Act::Say(stream("00000000000000c1", [text.clone()])));
        let error = follow(&[&wrong]).await.unwrap_err();
        let FollowError::Broken { source, .. } = error else { panic!("{error}") };
        assert!(matches!(*source, Fault::Unreadable(_)), "{source}");
    }
}

#[tokio::test]
async fn what_is_gone_everywhere_ends_it() {
    limit::begin();
    let said = "Watch From Event: 1 Is No Longer Kept; The Oldest Is 17";
    let gone = otherwise(move |_| answer("410 Gone", &format!("{said}\n")));
    let good = server(honest);
    assert_eq!(follow(&[&gone, &good]).await.unwrap(), all());
    let mut events = Follower::new([&*gone]).start(Start::After(EventNumber(3))).events();
    let error = events.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, FollowError::Gone { after: EventNumber(3), said: text, .. } if text == said),
        "{error}"
    );
    assert!(events.next().await.is_none());
}

/// One that has less history, or refuses, answers at once; another one restarts meanwhile, for
/// longer than it takes to ask both.
#[tokio::test]
async fn who_answers_is_not_believed_while_another_restarts() {
    limit::begin();
    for status in ["410 Gone", "400 Bad Request"] {
        let wrong = otherwise(move |_| answer(status, "No\n"));
        let restarting = otherwise(|asked| match asked.before {
            0..3 => Act::BreakOff(String::new()),
            _ => honest(asked),
        });
        assert_eq!(follow(&[&wrong, &restarting]).await.unwrap(), all(), "{status}");
    }
    let foreign = otherwise(|_| Act::Say(stream("00000000000000c2", [])));
    let restarting = otherwise(|asked| match asked.before {
        0..3 => answer("503 Service Unavailable", "No Leader\n"),
        _ => honest(asked),
    });
    let follower = Follower::new([&*foreign, &restarting]).cluster("c1".parse().unwrap());
    assert_eq!(numbers(&mut follower.events()).await.unwrap(), all());
}

#[tokio::test]
async fn another_cluster_is_not_taken_for_this_one() {
    limit::begin();
    let foreign = otherwise(|asked| {
        Act::Say(stream("00000000000000c2", (asked.after() + 1..=LAST).map(message)))
    });
    let cut =
        otherwise(|asked| Act::BreakOff(stream("00000000000000c1", [message(asked.after() + 1)])));
    let good = server(honest);
    assert_eq!(follow(&[&cut, &foreign, &good]).await.unwrap(), all());
    let known = Follower::new([&*foreign]).cluster("c1".parse().unwrap());
    let error = known.events().next().await.unwrap().unwrap_err();
    assert!(matches!(error, FollowError::OtherCluster { .. }), "{error}");
}

#[tokio::test]
async fn who_falls_silent_or_is_not_healthy_is_left() {
    limit::begin();
    let silent =
        otherwise(|asked| Act::Say(stream("00000000000000c1", [message(asked.after() + 1)])));
    let good = server(honest);
    let follower = Follower::new([&*silent, &good]).silence(Duration::from_millis(50));
    assert_eq!(numbers(&mut follower.events()).await.unwrap(), all());
    let unhealthy = server(|asked| match asked.path {
        "/health" => answer("503 Service Unavailable", "No Leader\n"),
        path if path.contains("after=") => {
            Act::Say(stream("00000000000000c1", [message(asked.after() + 1), ":\n\n".to_owned()]))
        }
        _ => honest(asked),
    });
    assert_eq!(follow(&[&unhealthy, &good]).await.unwrap(), all());
}

/// What a server says on a stream that is quiet, byte for byte.
fn heartbeat(number: u64) -> String {
    format!(":\nid: {number}\n\n")
}

/// How many heartbeats a quiet stream has here.
const QUIET: usize = 10;

/// A stream may be quiet for longer than any other fault lasts: each time the machine is
/// asked whether it is healthy, and nothing is wrong with it.
#[tokio::test]
async fn quiet_machine_is_followed_on() {
    limit::begin();
    let looks = Arc::new(Mutex::new(0));
    let looked = Arc::clone(&looks);
    let quiet = server(move |asked| {
        if asked.path == "/health" {
            *looked.lock().unwrap() += 1;
        }
        // Before the last event it is left again and again, once it has been quiet.
        match asked.before {
            _ if !asked.path.contains("after=") => honest(asked),
            QUIET.. => Act::Say(honest_stream(asked)),
            _ => Act::BreakOff(stream("00000000000000c1", [heartbeat(asked.after())])),
        }
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let follower = Follower::new([&*quiet]).on_fault(move |_, fault| {
        tell.lock().unwrap().push(matches!(fault, Fault::Http(_) | Fault::Io(_)));
    });
    assert_eq!(numbers(&mut follower.events()).await.unwrap(), all());
    assert_eq!(*told.lock().unwrap(), [true; QUIET]);
    assert_eq!(*looks.lock().unwrap(), QUIET);
}

/// Below a prefix, what has happened elsewhere is passed over: the next machine is asked
/// behind it, never before what was given.
#[tokio::test]
async fn what_is_not_wanted_is_passed_over() {
    limit::begin();
    let said = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&said);
    let url = otherwise(move |asked| {
        says.lock().unwrap().push(asked.after());
        let messages = match asked.before {
            0 => [heartbeat(2), message(3), heartbeat(1), heartbeat(5)].to_vec(),
            _ => vec![message(LAST)],
        };
        Act::BreakOff(stream("00000000000000c1", messages))
    });
    let follower = Follower::new([&*url]).prefix(KeyPath::clean("/a").unwrap());
    assert_eq!(numbers(&mut follower.events()).await.unwrap(), [3, LAST]);
    assert_eq!(*said.lock().unwrap(), [0, 5]);
}

/// Of the whole store nothing is passed over: who says so leaves something out.
#[tokio::test]
async fn what_was_not_given_is_not_passed_over() {
    limit::begin();
    let liar = otherwise(|asked| {
        let next = asked.after() + 1;
        Act::Say(stream("00000000000000c1", [message(next), heartbeat(next + 1)]))
    });
    let good = server(honest);
    assert_eq!(follow(&[&liar, &good]).await.unwrap(), all());
}

/// However long nobody can serve, that passes; and each fault is told.
#[tokio::test]
async fn who_cannot_serve_is_asked_again() {
    limit::begin();
    let later = otherwise(|asked| match asked.before {
        0..3 => answer("503 Service Unavailable", "No Leader\n"),
        _ => Act::Say(honest_stream(asked)),
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let follower = Follower::new([&*later]);
    let follower = follower.on_fault(move |url, fault| {
        tell.lock().unwrap().push((url.to_owned(), fault.to_string()));
    });
    assert_eq!(numbers(&mut follower.events()).await.unwrap(), all());
    let fault = (later.clone(), "status 503: No Leader".to_owned());
    assert_eq!(*told.lock().unwrap(), vec![fault; 3]);
}

#[tokio::test]
async fn machines_are_learned_from_each_other() {
    limit::begin();
    let good = server(honest);
    let known = server(move |asked| match asked.path {
        "/v1/machines" => answer("200 OK", &good),
        path if path.contains("after=") && asked.before == 0 => {
            Act::BreakOff(stream("00000000000000c1", [message(1)]))
        }
        path if path.contains("after=") => answer("503 Service Unavailable", "\n"),
        _ => honest(asked),
    });
    assert_eq!(follow(&[&known]).await.unwrap(), all());
}

#[tokio::test]
async fn now_is_behind_the_last_event() {
    limit::begin();
    let said = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&said);
    let url = otherwise(move |asked| {
        says.lock().unwrap().push(asked.after());
        match asked.before {
            // Nothing has come by the time that it breaks off.
            0 => Act::BreakOff(stream("00000000000000c1", [])),
            _ => Act::Say(stream("00000000000000c1", [message(LAST + 1)])),
        }
    });
    let mut events = Follower::new([&*url]).start(Start::Now).events();
    let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.number, EventNumber(LAST + 1));
    assert_eq!(*said.lock().unwrap(), [LAST, LAST]);
}

#[tokio::test]
async fn what_is_refused_or_no_address_ends_it() {
    limit::begin();
    let refusing = otherwise(|_| answer("400 Bad Request", "No\n"));
    let error = follow(&[&refusing]).await.unwrap_err();
    assert!(matches!(error, FollowError::Refused { status: 400, .. }), "{error}");
    let error = follow(&["https://127.0.0.1:1"]).await.unwrap_err();
    assert!(matches!(error, FollowError::Address(_)), "{error}");
    assert!(matches!(follow(&[]).await, Err(FollowError::Address(_))));
}
