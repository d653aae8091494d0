//! Frames on the shim's socket: 4 bytes little-endian length, then a message.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
};

use corten_proto::shim::{Reply, Request};
use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::{UnixStream, unix::OwnedReadHalf},
};

/// A frame of more bytes is a fault of the other side.
pub(super) const MAX_FRAME: usize = 16 << 20;
/// stdin, stdout, stderr; or the template mount namespace.
const MAX_FDS: usize = 3;

/// Sends `request`, with `fds` on its first byte.
pub(super) async fn send(
    stream: &UnixStream,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = request.encode_to_vec();
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length as usize <= MAX_FRAME);
    let length = length
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the request is too large"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);

    let mut sent = 0;
    while sent < bytes.len() {
        let fds = if sent == 0 { fds } else { &[] };
        sent += stream
            .async_io(Interest::WRITABLE, || {
                send_some(stream, &bytes[sent..], fds)
            })
            .await?;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors in one request",
        ));
    }
    Ok(rustix::net::sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

/// Receives one reply; `None` at the end of the stream.
pub(super) async fn receive(stream: &mut OwnedReadHalf) -> io::Result<Option<Reply>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Reply::decode(&*body)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
