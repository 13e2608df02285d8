//! `etcd log replay --serve`: a state of the past, to look around in with curl.
//!
//! On loopback only: whoever looks back does so for himself.

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use etcd_projections::{Position, State};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::ToolError;
use crate::api::v1::frozen;
use crate::util::accept::accept;
use crate::util::rate_limit::RateLimit;

/// Serves a state at a port of this computer, any free one for 0, until the process ends.
///
/// # Errors
///
/// If that port cannot be had, or the output cannot be written.
pub async fn serve(state: State, port: u16, out: &mut dyn Write) -> Result<(), ToolError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failed = |source| ToolError::Listen { address: wanted, source };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let Position { index, time, .. } = state.position();
    writeln!(out, "the state behind command {index}, at {time}")?;
    writeln!(out, "read it: curl http://{address}/v1/keys/?recursive=true (Ctrl-C ends it)")?;
    out.flush()?;
    let (state, no_room) = (Arc::new(state), RateLimit::default());
    loop {
        let stream = accept(&listener, "connections", &no_room).await;
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(frozen::respond(&state, &request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new());
        // Whoever breaks off has seen enough.
        tokio::spawn(
            async move { drop(http.serve_connection(TokioIo::new(stream), service).await) },
        );
    }
}
