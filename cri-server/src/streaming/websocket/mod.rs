//! WebSockets: messages that begin with the number of a channel, or SPDY in a tunnel.
//!
//! Source: RFC 6455 for the framing, which tungstenite does; `k8s.io/streaming`'s `wsstream` for the channels.

mod channels;
mod tunnel;

use std::{io, time::Duration};

use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

pub(super) use self::{
    channels::{Receiver, Sender, Session, Settings},
    tunnel::Tunnel,
};
use super::{io::Io, server::Client};

/// The longest message that is taken, bytes. Clients send 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;
/// What is kept for a client that does not read, bytes.
const MAX_UNWRITTEN: usize = 4 << 20;

/// The framing of a connection that is past its handshake.
async fn frames(client: Client) -> WebSocketStream<Io> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_UNWRITTEN);
    let (io, unread) = (client.io, client.unread.to_vec());
    WebSocketStream::from_partially_read(io, unread, Role::Server, Some(config)).await
}
