//! Seeing what a container prints, on a connection of its own: the shim forgets the client when that ends.

use std::{os::fd::BorrowedFd, path::Path};

use corten_proto::shim::Attach;

use super::{Client, Error, exec::Reader};

/// Attached as long as this is there.
#[derive(Debug)]
pub(crate) struct Attached {
    _client: Client,
    _reader: Reader,
}

/// Attaches to the container whose shim has this state directory; `fds` are those that `request` names.
pub(crate) async fn attach(
    state_dir: &Path,
    request: Attach,
    fds: &[BorrowedFd<'_>],
) -> Result<Attached, Error> {
    let (client, events) = Client::connect(state_dir).await?;
    let reader = Reader::spawn(events);
    client.attach(request, fds).await?;
    Ok(Attached {
        _client: client,
        _reader: reader,
    })
}
