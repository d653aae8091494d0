//! A WebSocket as a stream of bytes, for SPDY in it: where messages begin and end means nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, protocol::frame::coding::CloseCode},
};

use super::{farewell, frames, verdict};

#[derive(Debug)]
pub(in crate::streaming) struct Tunnel<T> {
    socket: WebSocketStream<T>,
    unread: Bytes,
    /// What the client has done that one may not.
    violation: Option<CloseCode>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    /// Through `io`, which is past its handshake. `unread`: what came behind that.
    pub(in crate::streaming) async fn open(io: T, unread: &[u8]) -> Self {
        Self {
            socket: frames(io, unread).await,
            unread: Bytes::new(),
            violation: None,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.unread = data,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    self.violation = Some(CloseCode::Unsupported);
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(_)) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    self.violation = verdict(&error);
                    return Poll::Ready(Err(broken(error)));
                }
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// All at once is one message.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(broken)?;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let mut message = BytesMut::with_capacity(length);
        for piece in pieces {
            message.extend_from_slice(piece);
        }
        let message = Message::Binary(message.freeze());
        socket.start_send(message).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(code) = self.violation {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
            self.violation = None;
            let frame = Message::Close(Some(farewell(code)));
            let _ = Pin::new(&mut self.socket).start_send(frame);
        }
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
