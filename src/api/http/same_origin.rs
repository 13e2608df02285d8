//! Web pages: what they may have somebody's browser ask of this port.
//!
//! ```text
//! a page of another site ─▶ the browser of somebody inside ─▶ this port
//!    its form or script       Origin, Sec-Fetch-Site             a write: 403
//!    its name, led here       Host                               anything: 403
//!    by its DNS
//! ```
//!
//! A browser sends any page's form to any address that it reaches, and says whose page it
//! is: so a write that comes from another origin than that of this port is refused (Fetch
//! Standard, *Origin header*; W3C, *Fetch Metadata Request Headers*). A page whose own name
//! has been made to lead to this computer has the origin of this port; but a port that only
//! this computer reaches is called by its address, or `localhost`, and no other name.
//!
//! Programs that are no browsers say none of it, and notice nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Pages that may use a port although it is not theirs: `https://ui.example`, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`.
    Any,
    /// A scheme, a host, and a port where it is not the scheme's own; in lower case.
    One(Arc<str>),
}

/// A text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an origin like https://ui.example or http://localhost:8080, or *")]
pub struct NoOrigin;

impl FromStr for Origin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host) = text.split_once("://").ok_or(NoOrigin)?;
        let is_graphic = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@']);
        let origin = Self::One(Arc::from(text.to_ascii_lowercase()));
        (fits && is_graphic(text)).then_some(origin).ok_or(NoOrigin)
    }
}

/// The origin of a page that may read an answer, as its browser wrote it. On the heap: there
/// is seldom one, and who waits for an answer would have room for it.
pub(in crate::api) type Reader = Box<HeaderValue>;

/// Which web pages may use a port.
#[derive(Clone, Debug, Default)]
pub struct SameOrigin(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    /// The pages that may use it although it is not theirs.
    origins: Vec<Origin>,
    /// By which names the port may be called, besides addresses and `localhost`; any, if
    /// there is no list.
    hosts: Option<Vec<String>>,
}

impl SameOrigin {
    /// Makes the rules of a port: of pages that may use it although it is not theirs, and of
    /// names that it may be called by. A port that more than this computer reaches may be
    /// called anything, if nobody has named it.
    pub fn new(origins: Vec<Origin>, hosts: Vec<String>, is_loopback: bool) -> Self {
        let hosts = (is_loopback || !hosts.is_empty()).then_some(hosts);
        Self(Arc::new(Rules { origins, hosts }))
    }

    /// Looks at who asks. Returns which page may read the answer, where it is one of another
    /// origin.
    ///
    /// # Errors
    ///
    /// If a page asks that may not.
    pub(in crate::api) fn judge<B>(&self, request: &Request<B>) -> Result<Option<Reader>, Problem> {
        let headers = request.headers();
        let host = headers.get(header::HOST).map_or(&[][..], HeaderValue::as_bytes);
        if !self.may_be_called(host) {
            return Err(Problem::Host(String::from_utf8_lossy(host).into_owned()));
        }
        let (origin, site) = (headers.get(header::ORIGIN), headers.get(SEC_FETCH_SITE));
        let is_own = origin.is_none_or(|origin| is_at(origin.as_bytes(), host))
            && site.is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
        if is_own {
            return Ok(None);
        }
        match origin.filter(|origin| self.may_use(origin.as_bytes())) {
            Some(origin) => Ok(Some(Box::new(origin.clone()))),
            None if is_read(request.method()) => Ok(None),
            None => Err(Problem::CrossSite),
        }
    }

    /// Returns whether the port may be called so: a name or an address, and mostly a port.
    fn may_be_called(&self, host: &[u8]) -> bool {
        let Some(names) = &self.0.hosts else { return true };
        // Browsers always say a host.
        host.is_empty()
            || std::str::from_utf8(host).map(name_of).is_ok_and(|name| {
                is_address(name)
                    || name.eq_ignore_ascii_case("localhost")
                    || names.iter().any(|known| name.eq_ignore_ascii_case(known))
            })
    }

    fn may_use(&self, origin: &[u8]) -> bool {
        self.0.origins.iter().any(|allowed| match allowed {
            Origin::Any => true,
            Origin::One(allowed) => origin.eq_ignore_ascii_case(allowed.as_bytes()),
        })
    }
}

/// Returns whether a request is a browser's question whether it may ask another one.
pub(in crate::api) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns whether a request changes nothing: what comes of it, another page cannot read.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Returns whether a page comes from where the request went to. Whether by TLS or not is the
/// same there: a port speaks one of them.
fn is_at(origin: &[u8], host: &[u8]) -> bool {
    let at = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
    at.is_some_and(|at| at.eq_ignore_ascii_case(host))
}

/// Returns what of a host and a port is the host.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether a host is an address; one of IPv6 stands in brackets.
fn is_address(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri("/v1/keys/a");
        let with = |request: hyper::http::request::Builder, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        headers.iter().fold(request, with).body(()).unwrap()
    }

    #[test]
    fn write_of_another_page_is_refused() {
        let rules = SameOrigin::new(vec!["http://UI.example:8080".parse().unwrap()], vec![], true);
        let host = ("host", "127.0.0.1:4001");
        let judged = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = std::iter::once(host).chain(headers.iter().copied()).collect();
            rules.judge(&request(Method::POST, &headers))
        };
        for own in [
            &[][..],
            &[("origin", "http://127.0.0.1:4001")],
            &[("origin", "https://127.0.0.1:4001"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(judged(own), Ok(None), "{own:?}");
        }
        for foreign in [
            &[("origin", "http://127.0.0.1:4002")][..],
            &[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:4001")],
        ] {
            assert_eq!(judged(foreign), Err(Problem::CrossSite), "{foreign:?}");
        }
        let ui = [("origin", "http://ui.example:8080"), ("sec-fetch-site", "cross-site")];
        assert_eq!(
            judged(&ui),
            Ok(Some(Box::new(HeaderValue::from_static("http://ui.example:8080"))))
        );
    }

    #[test]
    fn what_another_page_cannot_read_it_may_ask_for() {
        let evil = [("host", "localhost:4001"), ("origin", "http://evil.example")];
        let rules = SameOrigin::new(vec![], vec![], true);
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(rules.judge(&request(method, &evil)), Ok(None));
        }
        let rules = SameOrigin::new(vec![Origin::Any], vec![], true);
        let reader = Some(Box::new(HeaderValue::from_static("http://evil.example")));
        assert_eq!(rules.judge(&request(Method::GET, &evil)), Ok(reader));
    }

    #[test]
    fn port_of_this_computer_is_called_by_its_address() {
        let named = vec!["Node1.example".to_owned()];
        let (loopback, known) = (SameOrigin::new(vec![], vec![], true), |is_loopback| {
            SameOrigin::new(vec![], named.clone(), is_loopback)
        });
        let is_let_in = |rules: &SameOrigin, host| {
            rules.judge(&request(Method::GET, &[("host", host)])).is_ok()
        };
        for host in ["127.0.0.1:4001", "10.0.0.1", "[::1]:4001", "[::1]", "LOCALHOST:1", ""] {
            assert!(is_let_in(&loopback, host) && is_let_in(&known(false), host), "{host}");
        }
        for host in ["evil.example:4001", "localhost.evil.example", "127.0.0.1.evil", "::1", "[x]"]
        {
            let refused = loopback.judge(&request(Method::GET, &[("host", host)]));
            assert_eq!(refused, Err(Problem::Host(host.to_owned())));
            assert!(!is_let_in(&known(true), host) && !is_let_in(&known(false), host), "{host}");
            assert!(is_let_in(&SameOrigin::default(), host), "{host}");
        }
        assert!(is_let_in(&known(true), "node1.EXAMPLE:4001"));
    }

    #[test]
    fn origin_is_no_address_of_a_page() {
        for text in ["http://a", "https://a.example:8443", "*", "app://x"] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in ["", "a.example", "http://", "http://a/", "http://a/x", "http://a b", "null"] {
            assert_eq!(text.parse::<Origin>(), Err(NoOrigin), "{text}");
        }
    }
}
