//! A client for machines that run: one request, and the lines of the answer as they come.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::util::printable::Printable;

/// How long the head of an answer may take, and each piece of it.
const LIMIT: Duration = Duration::from_secs(15);

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
}

/// An answer, line by line.
pub(super) struct Lines {
    url: String,
    body: Incoming,
    /// What has come, and was not taken.
    text: Vec<u8>,
    has_ended: bool,
    connection: tokio::task::JoinHandle<()>,
}

/// Asks the first of these machines that answers.
pub(super) async fn get(urls: &[String], path: &str) -> Result<Lines, ClientError> {
    let mut failed = ClientError::NoMachine(String::new());
    for url in urls {
        match get_at(url, path).await {
            Err(error @ (ClientError::Unreachable { .. } | ClientError::NoMachine(_))) => {
                failed = error;
            }
            answered => return answered,
        }
    }
    Err(failed)
}

async fn get_at(url: &str, path: &str) -> Result<Lines, ClientError> {
    let failed = |source| ClientError::Unreachable { url: url.to_owned(), source };
    let asked = timeout(LIMIT, ask(url, path)).await;
    let (answer, connection) = asked.map_err(|late| failed(late.into()))?.map_err(failed)?;
    if !answer.headers().contains_key("x-etcd-cluster-id") {
        return Err(ClientError::NoMachine(url.to_owned()));
    }
    let (status, body) = (answer.status(), answer.into_body());
    let mut lines =
        Lines { url: url.to_owned(), body, text: Vec::new(), has_ended: false, connection };
    if status == StatusCode::OK {
        return Ok(lines);
    }
    let said = lines.next().await?.unwrap_or_default();
    let said = Printable(String::from_utf8_lossy(&said)).to_string();
    Err(ClientError::Refused { url: url.to_owned(), status, said })
}

async fn ask(
    url: &str,
    path: &str,
) -> Result<
    (Response<Incoming>, tokio::task::JoinHandle<()>),
    Box<dyn std::error::Error + Send + Sync>,
> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(path).header(HOST, address).body(Empty::<Bytes>::new())?;
    Ok((sender.send_request(request).await?, connection))
}

impl Lines {
    /// Returns the next line, without what ends it; nothing, at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(at) = self.text.iter().position(|byte| *byte == b'\n') {
                let rest = self.text.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.text, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.has_ended {
                let line = std::mem::take(&mut self.text);
                return Ok((!line.is_empty()).then_some(line));
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
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
