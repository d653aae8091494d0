//! A client's connection as h2 reads it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use super::Rewriter;

/// Bytes of one read from the socket.
const READ: usize = 16 << 10;

/// A client's connection whose requests have an authority that h2 accepts.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    rewriter: Rewriter,
    /// What h2 has not read yet.
    rewritten: BytesMut,
}

impl Stream {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            rewriter: Rewriter::new(),
            rewritten: BytesMut::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        output: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rewritten.is_empty() {
            let mut bytes = [0; READ];
            let mut input = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut input))?;
            if input.filled().is_empty() {
                // A client that leaves amid a frame has asked for nothing.
                return Poll::Ready(Ok(()));
            }
            this.rewriter.feed(input.filled(), &mut this.rewritten);
        }
        let length = this.rewritten.len().min(output.remaining());
        output.put_slice(&this.rewritten[..length]);
        this.rewritten.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
