//! A client for machines that run: one request, a connection each, and the lines of the
//! answer as they come.
//!
//! Whoever answers may be anybody: no more of what it says is held than a line, which is
//! bounded.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcd_log::ClusterId;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::tls::ClientTls;
use crate::util::printable::Printable;

/// How long the head of an answer may take, and each piece of it.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

/// How long a machine may look for an answer, in seconds: what it says in the end has to come
/// before it is waited for no longer.
pub(super) const LOOKING_SECONDS: u64 = 12;

/// The longest line. That of an event has a key, and two values of 1 MiB at most, each of
/// which grows sixfold at worst when JSON escapes all of it.
const LINE_BYTES: usize = 16 << 20;

/// How much is told of why a request was refused.
const REFUSAL_BYTES: usize = 4 << 10;

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no machine there.
    #[error("no machine answers at {url}")]
    Unreachable {
        /// Where nobody does.
        url: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else answers: the peer port, say.
    #[error("{0} answers, but it is not the client port of a machine")]
    NoMachine(String),
    /// It wants TLS.
    #[error("{0} speaks TLS: use https://, and say with --ca-file which authority to believe")]
    SpeaksTls(String),
    /// It was refused.
    #[error("{url} refuses with status {status}: {said}")]
    Refused {
        /// By whom.
        url: String,
        /// The status.
        status: StatusCode,
        /// Why.
        said: String,
    },
    /// The answer broke off, and some of it is missing.
    #[error("the answer of {0} breaks off")]
    BrokenOff(String),
    /// It has a line that no machine would say.
    #[error("{0} says a line of more than {LINE_BYTES} bytes: it is not read on")]
    TooLong(String),
}

/// Why there is no answer to a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was not sent.
    NotSent(Cause),
    /// It was, and nobody knows what has come of it.
    Unanswered(Cause),
}

/// Why that is so.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A connection, which ends with this.
pub(super) struct Connection(tokio::task::JoinHandle<()>);

/// An answer, line by line.
pub(super) struct Lines {
    url: String,
    cluster: ClusterId,
    body: Incoming,
    /// What has come, and was not taken.
    text: BytesMut,
    /// How many bytes of it were found to end no line.
    searched: usize,
    has_ended: bool,
    _connection: Connection,
}

/// Asks the first of these machines that can answer. If none can, what one of them said
/// tells more than that another one says nothing.
pub(super) async fn get(
    urls: &[String],
    tls: Option<&ClientTls>,
    path: &str,
) -> Result<Lines, ClientError> {
    let mut failed = ClientError::NoMachine(String::new());
    for url in urls {
        match get_at(url, tls, path).await {
            Err(ClientError::Refused { url, status, said }) if !status.is_server_error() => {
                return Err(ClientError::Refused { url, status, said });
            }
            Err(error) if !matches!(failed, ClientError::Refused { .. }) => failed = error,
            Err(_) => {}
            answered => return answered,
        }
    }
    Err(failed)
}

async fn get_at(url: &str, tls: Option<&ClientTls>, path: &str) -> Result<Lines, ClientError> {
    let (answer, connection) =
        ask((url, tls), Method::GET, path, LIMIT).await.map_err(|failure| {
            let (Failure::NotSent(source) | Failure::Unanswered(source)) = failure;
            ClientError::Unreachable { url: url.to_owned(), source }
        })?;
    let cluster = answer.headers().get("x-etcd-cluster-id").and_then(|id| id.to_str().ok());
    let cluster = cluster.and_then(|id| id.parse().ok());
    let Some(cluster) = cluster else {
        let what =
            if wants_tls(answer).await { ClientError::SpeaksTls } else { ClientError::NoMachine };
        return Err(what(url.to_owned()));
    };
    let (status, body) = (answer.status(), answer.into_body());
    let mut lines = Lines {
        url: url.to_owned(),
        cluster,
        body,
        text: BytesMut::new(),
        searched: 0,
        has_ended: false,
        _connection: connection,
    };
    if status == StatusCode::OK {
        return Ok(lines);
    }
    let said = lines.next().await?.unwrap_or_default();
    let said = String::from_utf8_lossy(&said[..said.len().min(REFUSAL_BYTES)]);
    let said = Printable(said).to_string();
    Err(ClientError::Refused { url: url.to_owned(), status, said })
}

/// A machine is spoken to with TLS, and nobody has said whom to believe.
#[derive(Debug, thiserror::Error)]
#[error("it speaks TLS: say with --ca-file which authority to believe")]
struct NoAuthority;

/// Asks one machine, and waits so long until its answer begins.
pub(super) async fn ask(
    (url, tls): (&str, Option<&ClientTls>),
    method: Method,
    path: &str,
    limit: Duration,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let with_tls = url.strip_prefix("https://");
    let address = with_tls.or(url.strip_prefix("http://")).unwrap_or(url).trim_end_matches('/');
    let tls = match (with_tls, tls) {
        (None, _) => None,
        (Some(_), Some(tls)) => Some(tls),
        (Some(_), None) => return Err(Failure::NotSent(NoAuthority.into())),
    };
    let request = Request::builder().method(method).uri(path).header(HOST, address);
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Failure::NotSent(error.into()))?;
    let by = Instant::now() + limit;
    let connecting = timeout_at(by, async {
        let stream = TcpStream::connect(address).await?;
        match tls {
            None => talk(stream).await,
            Some(tls) => talk(tls.connect(address, stream).await?).await,
        }
    });
    let connected = connecting.await.unwrap_or_else(|late| Err(Cause::from(late)));
    let (mut sender, connection) = connected.map_err(Failure::NotSent)?;
    let answering = timeout_at(by, sender.send_request(request)).await;
    let answer = answering.map_err(Cause::from).and_then(|answer| Ok(answer?));
    Ok((answer.map_err(Failure::Unanswered)?, connection))
}

/// Returns whether an answer says that TLS is spoken where it comes from.
async fn wants_tls(answer: Response<Incoming>) -> bool {
    let said = timeout(LIMIT, Limited::new(answer.into_body(), REFUSAL_BYTES).collect()).await;
    said.is_ok_and(|said| said.is_ok_and(|said| says_tls(&said.to_bytes())))
}

/// Returns whether this is what a port says that speaks TLS.
pub(super) fn says_tls(body: &[u8]) -> bool {
    body.starts_with(b"This Port Speaks TLS")
}

/// Begins to speak HTTP.
async fn talk<S>(stream: S) -> Result<(SendRequest<Empty<Bytes>>, Connection), Cause>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((sender, Connection(tokio::spawn(async move { drop(connection.await) }))))
}

impl Lines {
    /// Returns of which cluster the machine is that says them.
    pub(super) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Returns who says them.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the next line, without what ends it; nothing, at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.has_ended {
                self.searched = 0;
                let line = self.text.split().freeze();
                return Ok((!line.is_empty()).then_some(line));
            }
            if self.text.len() > LINE_BYTES {
                return Err(ClientError::TooLong(self.url.clone()));
            }
            let broken = || ClientError::BrokenOff(self.url.clone());
            match timeout(LIMIT, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let piece = frame.into_data().unwrap_or_default();
                    self.text.extend_from_slice(&piece);
                }
                Ok(None) => self.has_ended = true,
                Ok(Some(Err(_))) | Err(_) => return Err(broken()),
            }
        }
    }

    /// Takes the next line of what has come, if it is whole.
    fn take_line(&mut self) -> Option<Bytes> {
        let Some(at) = memchr(b'\n', &self.text[self.searched..]) else {
            self.searched = self.text.len();
            return None;
        };
        let end = self.searched + at;
        self.searched = 0;
        let mut line = self.text.split_to(end + 1);
        line.truncate(end);
        Some(line.freeze())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::util::limit;

    const BUSY: &str = "503 Service Unavailable";

    /// A machine that says this to whoever asks first.
    async fn machine(status: &'static str, said: impl Into<String>) -> String {
        let said = said.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let fields = format!("X-Etcd-Cluster-Id: c1\r\nContent-Length: {}", said.len());
            let answer = format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{said}");
            // Nobody need hear it out.
            let _written = stream.write_all(answer.as_bytes()).await;
        });
        url
    }

    /// Who cannot serve is passed over, and what it said is told if nobody can.
    #[tokio::test]
    async fn next_machine_is_asked_if_one_cannot_serve() {
        limit::begin();
        let urls = [machine(BUSY, "No Leader\n").await, machine("200 OK", "1\n").await];
        let mut lines = get(&urls, None, "/").await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), "1");
        let nobody = "127.0.0.1:1".to_owned();
        let urls = [nobody.clone(), machine(BUSY, "No Leader\n").await, nobody];
        let refused = get(&urls, None, "/").await.err().unwrap();
        assert!(matches!(&refused, ClientError::Refused { said, .. } if said == "No Leader"));
    }

    /// A request that is wrong is so everywhere.
    #[tokio::test]
    async fn nobody_else_is_asked_what_is_refused() {
        limit::begin();
        let urls = [machine("400 Bad Request", "No\n").await, machine("200 OK", "1\n").await];
        let refused = get(&urls, None, "/").await.err().unwrap();
        assert!(matches!(&refused, ClientError::Refused { url, .. } if *url == urls[0]));
    }

    /// However many pieces a line comes in, each byte is looked at once.
    #[tokio::test]
    async fn line_is_as_long_as_a_machine_can_make_it_and_no_longer() {
        limit::begin();
        let long = "x".repeat(LINE_BYTES - 1);
        let url = machine("200 OK", format!("{long}\n1\n2")).await;
        let mut lines = get(&[url], None, "/").await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), long);
        for line in ["1", "2"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), line);
        }
        assert_eq!((lines.next().await.unwrap(), lines.next().await.unwrap()), (None, None));
        let url = machine("200 OK", "x".repeat(2 * LINE_BYTES)).await;
        let mut lines = get(std::slice::from_ref(&url), None, "/").await.unwrap();
        let error = lines.next().await.unwrap_err();
        assert!(matches!(&error, ClientError::TooLong(of) if *of == url), "{error}");
    }

    #[tokio::test]
    async fn beginning_of_a_refusal_is_told() {
        limit::begin();
        let url = machine("400 Bad Request", "No, ".repeat(REFUSAL_BYTES)).await;
        let refused = get(&[url], None, "/").await.err().unwrap();
        let ClientError::Refused { said, .. } = refused else { panic!("{refused}") };
        assert_eq!(said.len(), REFUSAL_BYTES);
    }
}
