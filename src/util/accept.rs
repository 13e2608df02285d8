//! Accepting connections, also when there is no room for one.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::rate_limit::RateLimit;

/// How long to wait when the operating system has no room for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for the next connection. If there is no room for one, there is when another ends; who
/// is not accepted until then is told to who runs this.
pub(crate) async fn accept(listener: &TcpListener, who: &str, told: &RateLimit) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if told.is_due() {
                    tracing::warn!("{who} are not accepted: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
