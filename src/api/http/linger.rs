//! Reading on behind the last answer: a connection that is closed with something unread is
//! reset, and the answer with it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much of what a client goes on sending is read.
const BYTES: usize = 1 << 20;

/// For how long it is read.
const LIMIT: Duration = Duration::from_secs(1);

/// Reads on for a while, so that a client that still sends gets to read the answer. The sending
/// side has been closed.
pub(super) async fn linger(mut socket: impl AsyncRead + Unpin) {
    let reading = async {
        let mut scratch = [0; 1024];
        let mut length = 0;
        while length < BYTES {
            match socket.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(read) => length += read,
            }
        }
    };
    // Who goes on for longer has had its time.
    let _in_time = tokio::time::timeout(LIMIT, reading).await;
}
