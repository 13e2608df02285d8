//! One request, and the stream that answers it. A connection each: whoever is asked again
//! may have been another machine meanwhile.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::addresses::TLS_SCHEME;
use crate::error::Fault;
use crate::messages::{Message, Messages};

/// How long it may take until an answer begins. A machine looks for the first event of a
/// stream for two seconds before it begins one.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How many bytes of a short answer are read.
const SHORT_BYTES: usize = 64 << 10;

/// An answer, and the connection that it comes over: with the one the other ends.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response<Incoming>,
    _connection: JoinSet<()>,
}

/// A stream of messages.
#[derive(Debug)]
pub(crate) struct Stream {
    answer: Answer,
    messages: Messages,
    silence: Duration,
}

impl Answer {
    /// Asks a machine, `host:port` or `https://host:port`, for a path. An answer begins with any
    /// status.
    pub(crate) async fn ask(
        address: &str,
        tls: Option<&TlsConnector>,
        method: Method,
        path: &str,
        is_stream: bool,
    ) -> Result<Self, Fault> {
        let asked = tokio::time::timeout(ANSWER_LIMIT, async {
            let with_tls = address.strip_prefix(TLS_SCHEME);
            let authority = with_tls.unwrap_or(address);
            let stream = TcpStream::connect(authority).await?;
            let (mut sender, task) = match tls.filter(|_| with_tls.is_some()) {
                None => talk(stream).await?,
                Some(tls) => {
                    let (host, _port) = authority.rsplit_once(':').unwrap_or((authority, ""));
                    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                    let name = name.map_err(std::io::Error::other)?;
                    talk(Box::new(tls.connect(name, stream).await?)).await?
                }
            };
            let accept = if is_stream { "text/event-stream" } else { "*/*" };
            let request = Request::builder().method(method).uri(path);
            let request = request.header(header::HOST, authority).header(header::ACCEPT, accept);
            let request = request.body(Empty::<Bytes>::new());
            let request = request.map_err(|error| Fault::Unreadable(error.to_string()))?;
            let response = sender.send_request(request).await?;
            Ok(Self { response, _connection: task })
        });
        asked.await.unwrap_or(Err(Fault::Silent { seconds: ANSWER_LIMIT.as_secs() }))
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Returns a field of the head, if it is there and as it should be.
    pub(crate) fn field<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.response.headers().get(name)?.to_str().ok()?.parse().ok()
    }

    /// Reads a short body, without the end of its line.
    pub(crate) async fn text(self) -> Result<String, Fault> {
        let body = Limited::new(self.response.into_body(), SHORT_BYTES).collect();
        let body = tokio::time::timeout(ANSWER_LIMIT, body).await;
        let body = body.map_err(|_| Fault::Silent { seconds: ANSWER_LIMIT.as_secs() })?;
        let body = body.map_err(|error| Fault::Unreadable(error.to_string()))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    }

    /// Reads the body as a stream, which is given up after so long a silence.
    pub(crate) fn into_stream(self, silence: Duration) -> Stream {
        Stream { answer: self, messages: Messages::default(), silence }
    }
}

/// Begins to speak HTTP.
async fn talk<S>(stream: S) -> Result<(SendRequest<Empty<Bytes>>, JoinSet<()>), Fault>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    // Why it ended is told to whoever reads from it.
    task.spawn(async { drop(connection.await) });
    Ok((sender, task))
}

impl Stream {
    /// Waits for the next message. If this call is given up, nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(message) = self.messages.next() {
                return Ok(message);
            }
            let frame = tokio::time::timeout(self.silence, self.answer.response.frame()).await;
            let frame = frame.map_err(|_| Fault::Silent { seconds: self.silence.as_secs() })?;
            let frame = frame.ok_or(Fault::Ended)??;
            if let Some(bytes) = frame.data_ref() {
                self.messages.feed(bytes)?;
            }
        }
    }
}
