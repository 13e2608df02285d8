//! `etcd machine`: the machines of a running cluster, as a table.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use crate::tls::{ClientTls, TlsFileError};
use crate::tools::client::{self, Failure};
use crate::util::printable::Printable;

/// How long an answer may take: the cluster may have to elect a leader first.
const LIMIT: Duration = client::LIMIT;

/// The longest answer: thousands of machines.
const ANSWER_BYTES: usize = 1 << 20;

/// The client port of a machine that is asked.
#[derive(Clone, Debug)]
pub struct ClientPort {
    /// `http://host:port`, `https://host:port`, or `host:port`.
    pub url: String,
    /// How TLS is spoken to it, if it is to be.
    pub tls: Option<ClientTls>,
}

/// Why the cluster did not do what was wanted.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// What TLS takes is not what it should be.
    #[error("no TLS")]
    Tls(#[from] TlsFileError),
    /// Nobody answers.
    #[error("no machine answers at {url}")]
    Unreachable {
        /// Where nobody does.
        url: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// That is where machines speak to each other.
    #[error("{0} is the peer port of a machine: -u wants the client port, 4001 by default")]
    PeerPort(String),
    /// It wants TLS.
    #[error("{0} speaks TLS: use https://, and say with --ca-file which authority to believe")]
    SpeaksTls(String),
    /// That is something else.
    #[error("{0} answers, but it is no machine of a cluster: {1}")]
    NoMachine(String, StatusCode),
    /// It may have been done.
    #[error(
        "no certain answer from {url}: machine {name} may be removed nevertheless, as etcd machine list will show"
    )]
    Unknown {
        /// Who was asked.
        url: String,
        /// The machine.
        name: String,
        /// What there is instead of an answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was refused.
    #[error("the cluster refuses: {0}")]
    Refused(String),
    /// There is no such machine.
    #[error("there is no machine {0}")]
    NotFound(String),
    /// The answer makes no sense.
    #[error("the answer cannot be read")]
    Answer(#[from] serde_json::Error),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// A machine, as the API tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MachineRow {
    name: String,
    id: String,
    role: String,
    peer_url: String,
    client_url: String,
    index: Option<u64>,
    lag: Option<u64>,
}

/// Prints the machines of the cluster.
///
/// # Errors
///
/// If nobody answers, or the output cannot be written.
pub async fn list(at: &ClientPort, out: &mut impl Write) -> Result<(), MachineError> {
    let answer = ask(at, Method::GET, "/v1/machines?detail=true").await;
    let Answer { status, body, .. } = of_machine(at, answer).await?;
    if status != StatusCode::OK {
        return Err(refused(&body));
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let titles = ["NAME", "ID", "ROLE", "PEERS", "CLIENTS", "INDEX", "LAG"].map(str::to_owned);
    let lines = serde_json::from_slice::<Vec<MachineRow>>(&body)?;
    let rows = lines.into_iter().map(|line| {
        let MachineRow { name, id, role, peer_url, client_url, index, lag } = line;
        let [name, id, role] = [name, id, role].map(printable);
        let [peers, clients] = [peer_url, client_url].map(printable);
        [name, id, role, peers, clients, number(index), number(lag)]
    });
    let rows: Vec<_> = std::iter::once(titles).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Removes a machine from the cluster.
///
/// # Errors
///
/// If nobody answers, or the machine may not be removed; and if nobody knows whether it is.
pub async fn remove(at: &ClientPort, name: &str, out: &mut impl Write) -> Result<(), MachineError> {
    let path = format!("/v1/machines/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let unknown = |source| {
        let (url, name) = (at.url.clone(), name.to_owned());
        Err(MachineError::Unknown { url, name, source })
    };
    let answer = match ask(at, Method::DELETE, &path).await {
        Err(Failure::Unanswered(source)) => return unknown(source),
        answer => of_machine(at, answer).await?,
    };
    match answer.status {
        StatusCode::NO_CONTENT => Ok(writeln!(out, "machine {} is removed", Printable(name))?),
        StatusCode::NOT_FOUND => Err(MachineError::NotFound(name.to_owned())),
        StatusCode::GATEWAY_TIMEOUT => unknown(said(&answer.body).into()),
        _ => Err(refused(&answer.body)),
    }
}

fn printable(text: String) -> String {
    Printable(text).to_string()
}

fn said(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim_end().to_owned()
}

fn refused(body: &[u8]) -> MachineError {
    MachineError::Refused(said(body))
}

/// Returns the answer of a machine; or says who answers instead, if it is no machine.
async fn of_machine(
    at: &ClientPort,
    answer: Result<Answer, Failure>,
) -> Result<Answer, MachineError> {
    let failed = |failure| {
        let (Failure::NotSent(source) | Failure::Unanswered(source)) = failure;
        MachineError::Unreachable { url: at.url.clone(), source }
    };
    let answer = answer.map_err(failed)?;
    if answer.is_from_machine {
        return Ok(answer);
    }
    if client::says_tls(&answer.body) {
        return Err(MachineError::SpeaksTls(at.url.clone()));
    }
    // To curious people, the peer port tells its version, and nothing else.
    let version = ask(at, Method::GET, "/version").await.map_err(failed)?;
    if version.status == StatusCode::OK && version.body.starts_with(b"etcd ") {
        return Err(MachineError::PeerPort(at.url.clone()));
    }
    Err(MachineError::NoMachine(at.url.clone(), answer.status))
}

/// What came back.
struct Answer {
    status: StatusCode,
    body: Bytes,
    /// Whether it says of which cluster it is, as all answers of a machine do.
    is_from_machine: bool,
}

async fn ask(at: &ClientPort, method: Method, path: &str) -> Result<Answer, Failure> {
    let at = (&*at.url, at.tls.as_ref());
    let (answer, _connection) = client::ask(at, method, path, LIMIT).await?;
    let status = answer.status();
    let is_from_machine = answer.headers().contains_key("x-etcd-cluster-id");
    let body = timeout(LIMIT, Limited::new(answer.into_body(), ANSWER_BYTES).collect()).await;
    let body = body.unwrap_or_else(|late| Err(late.into())).map_err(Failure::Unanswered)?;
    Ok(Answer { status, body: body.to_bytes(), is_from_machine })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::util::error_chain::ErrorChain;
    use crate::util::limit;

    /// A machine that says this to whoever asks first, and breaks off.
    async fn machine(said: impl Into<String>) -> ClientPort {
        let said = said.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = port(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            // Nobody need hear it out.
            let _written = stream.write_all(said.as_bytes()).await;
        });
        port
    }

    fn port(url: &str) -> ClientPort {
        ClientPort { url: url.to_owned(), tls: None }
    }

    fn answer(status: &str, body: &str) -> String {
        let fields = format!("X-Etcd-Cluster-Id: c1\r\nContent-Length: {}", body.len());
        format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn removal_whose_outcome_is_unknown_may_be_done() {
        limit::begin();
        let half = answer("204 No Content", "");
        for (said, why) in [
            (answer("504 Gateway Timeout", "Outcome Unknown\n"), "Outcome Unknown"),
            (half[..half.len() / 2].to_owned(), ""),
            (String::new(), ""),
        ] {
            let url = machine(said).await;
            let error = remove(&url, "two", &mut Vec::new()).await.unwrap_err();
            assert!(matches!(error, MachineError::Unknown { .. }), "{error}");
            let text = ErrorChain(&error).to_string();
            assert!(text.contains("machine two may be removed") && text.contains(why), "{text}");
        }
    }

    #[tokio::test]
    async fn removal_that_was_not_asked_for_is_not_done() {
        limit::begin();
        let error = remove(&port("127.0.0.1:1"), "two", &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, MachineError::Unreachable { .. }), "{error}");
        let url = machine(answer("503 Service Unavailable", "No Leader\n")).await;
        let error = remove(&url, "two", &mut Vec::new()).await.unwrap_err();
        assert!(matches!(&error, MachineError::Refused(why) if why == "No Leader"), "{error}");
        // Nothing is done by asking who is there.
        let error = list(&machine("").await, &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, MachineError::Unreachable { .. }), "{error}");
    }

    #[tokio::test]
    async fn answer_without_end_is_not_waited_for() {
        limit::begin();
        let url = machine(answer("200 OK", &"x".repeat(2 * ANSWER_BYTES))).await;
        let error = list(&url, &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, MachineError::Unreachable { .. }), "{error}");
    }
}
