//! Requests: keys out of paths, fields out of queries and bodies.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{EventNumber, Index, KeyPath, RequestId, Ttl};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderName;
use hyper::{Request, header};
use percent_encoding::percent_decode_str;

use super::bad::Bad;
use super::head::number;
use super::problem::Problem;
use crate::node::{Freshness, LivesOn, Moment};
use crate::state::filter::Actions;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest body, in bytes.
const BODY_BYTES: usize = 1 << 20;

/// How much of a body that is too long is read and thrown away, so that its
/// sender gets to read the answer before the connection closes.
const DISCARD_BYTES: usize = 64 << 20;

/// For how long it is read.
const DISCARD_LIMIT: Duration = Duration::from_secs(3);

/// How long a body may take to come, and how long a request may take unless it
/// says otherwise.
pub(in crate::api) const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The longest time limit that a request can set: a year.
const LONGEST_LIMIT: f64 = 365.0 * 24.0 * 3600.0;

/// The longest time to live: a thousand years are beyond every calendar here.
const LONGEST_TTL: u64 = 1000 * 365 * 24 * 3600;

/// How much of a name that means nothing is noted: more than is ever shown.
const NOTED_BYTES: usize = 512;

/// The fields that mean something somewhere; of the others, the first is noted.
const NAMES: [&str; 24] = [
    "value",
    "prevValue",
    "prevExist",
    "ttl",
    "index",
    "after",
    "stream",
    "timeout",
    "stale",
    "min_index",
    "detail",
    "dir",
    "children",
    "action",
    "bookmarks",
    "recursive",
    "limit",
    "start",
    "at",
    "from",
    "to",
    "reverse",
    "dry_run",
    "if_index",
];

/// The fields of a request, each once: a body's before the query's, and the first of
/// those that have one name.
#[derive(Debug, Default)]
pub(in crate::api) struct Fields {
    fields: Vec<(&'static str, Vec<u8>)>,
    /// The name of the first field that means nothing anywhere.
    unknown: Option<String>,
}

impl Fields {
    /// Reads the fields of a request's query.
    pub(in crate::api) fn of_query<B>(request: &Request<B>) -> Self {
        let mut fields = Self::default();
        fields.add(request.uri().query().unwrap_or_default().as_bytes());
        fields
    }

    /// Reads the fields of a request's body and query; a field in both is that
    /// of the body.
    pub(in crate::api) async fn of_request(request: Request<Incoming>) -> Result<Self, Problem> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let asks_first = request.headers().contains_key(header::EXPECT);
        let mut body = request.into_body();
        // Who asks first has sent nothing yet, and will not.
        let announced = body.size_hint().lower();
        if announced > BODY_BYTES as u64 && asks_first {
            return Err(Problem::TooLarge);
        }
        let read = tokio::time::timeout(REQUEST_LIMIT, read_body(&mut body)).await;
        let Some(bytes) = read.map_err(|_| Problem::Slow)?? else {
            discard(body).await;
            return Err(Problem::TooLarge);
        };
        let mut fields = Self::default();
        fields.add(&bytes);
        fields.add(query.as_bytes());
        Ok(fields)
    }

    /// Adds the fields of an urlencoded text.
    fn add(&mut self, text: &[u8]) {
        // Nothing between two signs, or behind the last one, is no field.
        for field in text.split(|byte| *byte == b'&').filter(|field| !field.is_empty()) {
            let mut halves = field.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default());
            let known = NAMES.iter().find(|known| known.as_bytes() == name);
            match known {
                Some(name) if self.get(name).is_none() => {
                    self.fields.push((name, decode(halves.next().unwrap_or_default())));
                }
                None if self.unknown.is_none() => {
                    let beginning = &name[..name.len().min(NOTED_BYTES)];
                    self.unknown = Some(String::from_utf8_lossy(beginning).into_owned());
                }
                Some(_) | None => {}
            }
        }
    }

    /// Refuses a request that has any other field than these.
    pub(in crate::api) fn allow_only(&self, names: &[&str]) -> Result<(), Problem> {
        let other = self.fields.iter().map(|(name, _)| *name).find(|name| !names.contains(name));
        match self.unknown.as_deref().or(other) {
            Some(name) => Err(Bad::UnknownField(name.to_owned()).into()),
            None => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().find(|(found, _)| *found == name)?;
        Some(&field.1)
    }

    /// Returns a field that is not empty, as text.
    fn text(&self, name: &str) -> Result<Option<Arc<str>>, Problem> {
        let Some(bytes) = self.get(name).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map_err(|_| Bad::ValueText)?;
        Ok(Some(Arc::from(text)))
    }

    pub(in crate::api) fn value(&self) -> Result<Option<Arc<str>>, Problem> {
        self.text("value")
    }

    /// Returns the value that a test asks for, or says what is bad. No key holds an empty value, so an
    /// empty one is a mistake rather than no test.
    pub(in crate::api) fn prev_value(&self, empty: Bad) -> Result<Option<Arc<str>>, Problem> {
        match (self.get("prevValue"), self.text("prevValue")?) {
            (Some(_), None) => Err(empty.into()),
            (_, prev_value) => Ok(prev_value),
        }
    }

    /// Returns whether a key is to be set only if it is not there.
    pub(in crate::api) fn creates(&self) -> Result<bool, Problem> {
        match self.get("prevExist") {
            None => Ok(false),
            Some(b"false" | b"0") => Ok(true),
            Some(_) => Err(Bad::PrevExist.into()),
        }
    }

    pub(in crate::api) fn ttl(&self) -> Result<Option<Ttl>, Problem> {
        let ttl = self.number_or_nothing("ttl", Bad::Ttl)?;
        ttl.map(|ttl| Ttl::new(ttl.min(LONGEST_TTL)).ok_or(Bad::Ttl.into())).transpose()
    }

    /// Returns from where a watch wants to begin; nothing for 0, before which there is
    /// nothing, as clients of the first etcd say it.
    pub(in crate::api) fn index(&self) -> Result<Option<Index>, Problem> {
        let index = self.number_or_nothing("index", Bad::Index)?;
        Ok(index.filter(|index| *index > 0).map(Index))
    }

    pub(in crate::api) fn after(&self) -> Result<Option<EventNumber>, Problem> {
        Ok(self.number("after", Bad::After)?.map(EventNumber))
    }

    pub(in crate::api) fn stream(&self) -> Result<bool, Problem> {
        self.flag("stream")
    }

    /// Returns whether the request wants to know how far its stream has come.
    pub(in crate::api) fn bookmarks(&self) -> Result<bool, Problem> {
        self.flag("bookmarks")
    }

    /// Returns whether the request is about the children of a directory alone.
    pub(in crate::api) fn children(&self) -> Result<bool, Problem> {
        self.flag("children")
    }

    /// Returns whether the request means all that lies below a directory.
    pub(in crate::api) fn recursive(&self) -> Result<bool, Problem> {
        self.flag("recursive")
    }

    /// Returns which kinds of events the request wants.
    pub(in crate::api) fn actions(&self) -> Result<Actions, Problem> {
        let Some(bytes) = self.get("action") else { return Ok(Actions::ALL) };
        let names = String::from_utf8_lossy(bytes);
        let unknown = |name: &str| Bad::Action(name.to_owned()).into();
        names.split(',').try_fold(Actions::NONE, |actions, name| {
            actions.with(name).ok_or_else(|| unknown(name))
        })
    }

    /// Returns how many lines the request wants at most.
    pub(in crate::api) fn lines(&self) -> Result<Option<usize>, Problem> {
        let lines = self.number("limit", Bad::Lines)?.map(|lines| usize::try_from(lines).ok());
        let lines = lines.map(|lines| lines.unwrap_or(usize::MAX));
        if lines == Some(0) { Err(Bad::Lines.into()) } else { Ok(lines) }
    }

    /// Returns the moment that a field names; nothing, if it is not there.
    pub(in crate::api) fn moment(
        &self,
        field: &str,
        shown: &'static str,
    ) -> Result<Option<Moment>, Problem> {
        let Some(bytes) = self.get(field) else { return Ok(None) };
        let text = String::from_utf8_lossy(bytes);
        let moment = text.parse().map_err(|_| Bad::Moment(shown, text.into_owned()));
        Ok(moment.map(Some)?)
    }

    /// Returns whether the newest is to come first.
    pub(in crate::api) fn reverse(&self) -> Result<bool, Problem> {
        self.flag("reverse")
    }

    /// Returns whether nothing is to be written.
    pub(in crate::api) fn dry_run(&self) -> Result<bool, Problem> {
        self.flag("dry_run")
    }

    /// Returns after which command nothing may have changed.
    pub(in crate::api) fn if_index(&self) -> Result<Option<Index>, Problem> {
        Ok(self.number("if_index", Bad::IfIndex)?.map(Index))
    }

    /// Returns how long the keys live that are put back.
    pub(in crate::api) fn lives_on(&self) -> Result<LivesOn, Problem> {
        match self.get("ttl") {
            None | Some(b"rest") => Ok(LivesOn::Rest),
            Some(b"keep") => Ok(LivesOn::Keep),
            Some(b"drop") => Ok(LivesOn::Drop),
            Some(_) => Err(Bad::LivesOn.into()),
        }
    }

    /// Returns where a listing is to begin: what stands behind the directory's own slash;
    /// nothing, for the beginning.
    pub(in crate::api) fn start(&self) -> Result<Option<KeyPath>, Problem> {
        let Some(bytes) = self.get("start").filter(|bytes| !bytes.is_empty()) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| Bad::KeyText)?;
        let start = KeyPath::clean(text).map_err(|_| Bad::KeySize)?;
        if start.is_root() { Err(Bad::Start.into()) } else { Ok(Some(start)) }
    }

    /// Returns whether the request means a directory.
    pub(in crate::api) fn dir(&self) -> Result<bool, Problem> {
        self.flag("dir")
    }

    /// Returns whether the request wants to know more.
    pub(in crate::api) fn detail(&self) -> Result<bool, Problem> {
        self.flag("detail")
    }

    /// Returns the time limit that the request sets.
    pub(in crate::api) fn limit(&self) -> Result<Option<Duration>, Problem> {
        let Some(bytes) = self.get("timeout") else { return Ok(None) };
        let seconds = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<f64>().ok());
        let seconds = seconds.filter(|seconds| *seconds >= 0.0).ok_or(Bad::Timeout)?;
        Ok(Some(Duration::from_secs_f64(seconds.min(LONGEST_LIMIT))))
    }

    /// Returns how fresh the request wants its answer.
    pub(in crate::api) fn freshness(&self) -> Result<Freshness, Problem> {
        if self.flag("stale")? {
            return Ok(Freshness::Stale);
        }
        let index = self.number("min_index", Bad::MinIndex)?;
        Ok(index.map_or(Freshness::Linearizable, |index| Freshness::AtLeast(Index(index))))
    }

    fn number(&self, name: &str, bad: Bad) -> Result<Option<u64>, Problem> {
        let Some(bytes) = self.get(name) else { return Ok(None) };
        number(bytes).map(Some).ok_or(bad.into())
    }

    /// Returns a number; nothing if the field is empty, as with the first etcd.
    fn number_or_nothing(&self, name: &str, bad: Bad) -> Result<Option<u64>, Problem> {
        if self.get(name).is_some_and(<[u8]>::is_empty) {
            return Ok(None);
        }
        self.number(name, bad)
    }

    fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"true" | b"1") => Ok(true),
            Some(_) => Err(Bad::Flag(name).into()),
        }
    }
}

/// Reads the id that a client asks for a write under, if it gives one.
pub(in crate::api) fn request_id<B>(request: &Request<B>) -> Result<Option<RequestId>, Problem> {
    let mut given = request.headers().get_all(X_REQUEST_ID).iter();
    let Some(id) = given.next() else { return Ok(None) };
    let id = id.to_str().ok().and_then(|text| text.parse().ok());
    let is_one = given.next().is_none();
    id.filter(|_| is_one).map(Some).ok_or(Bad::RequestId.into())
}

/// Reads the key that a path names.
pub(in crate::api) fn key(path: &str) -> Result<KeyPath, Problem> {
    let decoded: Cow<'_, str> = percent_decode_str(path).decode_utf8().map_err(|_| Bad::KeyText)?;
    KeyPath::clean(&decoded).map_err(|_| Bad::KeySize.into())
}

/// Decodes a name or a value of an urlencoded form.
fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

/// Reads a body; nothing of it, if it is over the limit.
async fn read_body(body: &mut Incoming) -> Result<Option<Vec<u8>>, Problem> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > BODY_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(announced);
    while let Some(data) = next_data(body).await? {
        if bytes.len() + data.len() > BODY_BYTES {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

/// Reads the rest of a body that is too large, so that its sender gets to read
/// the answer, for a while and up to a bound.
async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut length = 0;
        while let Ok(Some(data)) = next_data(&mut body).await {
            length += data.len();
            if length > DISCARD_BYTES {
                break;
            }
        }
    };
    // Running out of time is no reason for another answer.
    let _in_time = tokio::time::timeout(DISCARD_LIMIT, discarding).await;
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Bad::Body)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::fuzz::fuzz;

    /// Whatever stands in a form, each field says something or is refused; and a key is as clean
    /// as it becomes.
    #[test]
    fn fuzzed_forms_and_keys_are_read_or_refused() {
        let forms = NAMES.map(|name| format!("{name}=1&{name}=false&value=%41+b"));
        let words = [
            "&",
            "=",
            "%",
            "%00",
            "%ff",
            "%2F",
            "+",
            "-10m",
            "2026-11-30T00:00:00Z",
            "e9",
            ".5",
            "true",
            "rest",
            "set,expire",
            "/",
            "..",
            "\u{202e}",
        ];
        fuzz(&forms, &words, |bytes| {
            let mut fields = Fields::default();
            fields.add(bytes);
            let _value = (fields.value(), fields.prev_value(Bad::PrevValue), fields.ttl());
            let _flags = (fields.creates(), fields.stream(), fields.recursive(), fields.dir());
            let _cursor = (fields.index(), fields.after(), fields.freshness(), fields.if_index());
            let _part = (fields.lines(), fields.start(), fields.actions(), fields.lives_on());
            let _moments = ["at", "from", "to"].map(|field| fields.moment(field, "At"));
            if let Ok(Some(limit)) = fields.limit() {
                assert!(limit <= Duration::from_secs_f64(LONGEST_LIMIT));
            }
            if let Ok(key) = key(&String::from_utf8_lossy(bytes)) {
                assert_eq!(KeyPath::clean(key.as_str()).as_ref(), Ok(&key));
                assert!(key.as_str().len() <= KeyPath::MAX_BYTES);
            }
        });
    }

    fn fields(text: &str) -> Fields {
        let mut fields = Fields::default();
        fields.add(text.as_bytes());
        fields
    }

    #[test]
    fn form_is_decoded() {
        let fields = fields("value=Hello+w%C3%B6rld%21&other=x&&=&ttl=5&value=second");
        assert_eq!(fields.value(), Ok(Some(Arc::from("Hello wörld!"))));
        assert_eq!(fields.prev_value(Bad::PrevValue), Ok(None));
        assert_eq!(fields.ttl(), Ok(Ttl::new(5)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in
            ["ttl=0", "ttl=1.5", "ttl=-1", "ttl=%2B5", "ttl=abc", "ttl=99999999999999999999"]
        {
            assert_eq!(fields(text).ttl(), Err(Bad::Ttl.into()), "{text}");
        }
        for text in ["index=x", "index=-1", "index=+"] {
            assert_eq!(fields(text).index(), Err(Bad::Index.into()), "{text}");
        }
        assert_eq!(fields("prevValue=").prev_value(Bad::PrevValue), Err(Bad::PrevValue.into()));
        for text in ["timeout=x", "timeout=-1", "timeout=NaN", "timeout="] {
            assert_eq!(fields(text).limit(), Err(Bad::Timeout.into()), "{text}");
        }
        assert_eq!(fields("stream=maybe").stream(), Err(Bad::Flag("stream").into()));
    }

    #[test]
    fn actions_are_a_list_of_names() {
        let set_and_expire = Actions { delete: false, ..Actions::ALL };
        assert_eq!(fields("action=set,expire").actions(), Ok(set_and_expire));
        assert_eq!(fields("action=set%2Cexpire").actions(), Ok(set_and_expire));
        assert_eq!(fields("").actions(), Ok(Actions::ALL));
        for (text, name) in
            [("paint", "paint"), ("set,paint", "paint"), ("SET", "SET"), ("set,", ""), ("", "")]
        {
            let bad = Err(Bad::Action(name.to_owned()).into());
            assert_eq!(fields(&format!("action={text}")).actions(), bad, "{text}");
        }
    }

    #[test]
    fn part_of_a_listing_has_lines_and_a_start() {
        assert_eq!(fields("limit=5").lines(), Ok(Some(5)));
        for text in ["limit=0", "limit=x", "limit=-1", "limit=", "limit=1.5"] {
            assert_eq!(fields(text).lines(), Err(Bad::Lines.into()), "{text}");
        }
        let start = |text| fields(text).start().map(|start| start.map(|start| start.to_string()));
        assert_eq!(start("start=a%20b/c"), Ok(Some("/a b/c".to_owned())));
        assert_eq!(start("start="), Ok(None));
        assert_eq!(start("start=.."), Err(Bad::Start.into()));
    }

    #[test]
    fn what_is_empty_means_none_where_the_first_etcd_took_it_so() {
        assert_eq!(fields("ttl=").ttl(), Ok(None));
        for text in ["index=", "index=0", "index=00", ""] {
            assert_eq!(fields(text).index(), Ok(None), "{text}");
        }
        assert_eq!(fields("index=1").index(), Ok(Some(Index(1))));
    }

    #[test]
    fn first_field_that_is_not_known_is_named() {
        let refused = |text: &str| fields(text).allow_only(&["value", "ttl"]);
        assert_eq!(refused("value=a&ttl=5&&value=b&"), Ok(()));
        for (text, name) in [
            ("value=a&TTL=5&other=x", "TTL"),
            ("value=a&b", "b"),
            ("ttl=5&=x", ""),
            ("value=a&prevExist=false", "prevExist"),
            ("value=a&index=3", "index"),
            ("value=a&%FF", "\u{fffd}"),
        ] {
            let bad = Bad::UnknownField(name.to_owned());
            assert_eq!(refused(text), Err(bad.into()), "{text}");
        }
    }

    #[test]
    fn value_that_is_not_utf8_is_refused() {
        assert_eq!(fields("value=%FF").value(), Err(Bad::ValueText.into()));
        assert_eq!(key("/%FF"), Err(Bad::KeyText.into()));
    }

    #[test]
    fn key_is_decoded_and_cleaned() {
        assert_eq!(key("/a%20b//c/").unwrap().as_str(), "/a b/c");
        assert_eq!(key("").unwrap().as_str(), "/");
        assert_eq!(key(&"/x".repeat(4096)), Err(Bad::KeySize.into()));
    }
}
