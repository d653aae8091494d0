//! WebSockets: messages that begin with the number of a channel, or SPDY in a tunnel.
//!
//! Source: RFC 6455 for the framing, which tungstenite does; `k8s.io/streaming`'s `wsstream` for the channels.

mod channels;
mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error,
        error::{CapacityError, ProtocolError},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

pub(super) use self::{
    channels::{Receiver, Sender, Session, Settings},
    tunnel::Tunnel,
};

/// The longest message that is taken, bytes. Clients send 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;
/// Bytes read at once. The memory is there from a session's beginning to its end.
const READ: usize = 32 << 10;
/// What is kept for a client that does not read, bytes.
const MAX_UNWRITTEN: usize = 4 << 20;

/// The framing of a connection that is past its handshake. `unread`: what came behind it.
async fn frames<T: AsyncRead + AsyncWrite + Unpin>(io: T, unread: &[u8]) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_UNWRITTEN);
    WebSocketStream::from_partially_read(io, unread.to_vec(), Role::Server, Some(config)).await
}

/// What a client is told of the violation that ends its session (RFC 6455, section 7.4.1). `None`: there is nobody to tell.
fn verdict(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseCode::Size),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        _ => None,
    }
}

fn farewell(code: CloseCode) -> CloseFrame {
    CloseFrame {
        code,
        reason: "".into(),
    }
}
