//! Copying between a process and its client.

use std::{os::fd::AsFd, time::Duration};

use bytes::BytesMut;
use rustix::io::ioctl_fionread;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::remote_command::{Input, Output};

/// Bytes read at once.
const READ: usize = 32 << 10;

/// How long is waited for the end of the output, once the command's own process has ended: another may keep it open.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// `None` as long as the command runs; then, until when others may print.
pub(super) type End = watch::Receiver<Option<Instant>>;

/// Copies what the client types, until either side ends.
pub(super) async fn feed(mut input: Input, mut pipe: pipe::Sender, mut end: End) {
    let copy = async {
        while let Ok(Some(data)) = input.receive().await {
            if pipe.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = copy => {}
        _ = end.wait_for(Option::is_some) => {}
    }
}

/// Copies what the command prints; without an output it is dropped. Once it has ended, what it had printed by then is copied,
/// and what others print as long as there is time.
pub(super) async fn carry(mut pipe: pipe::Receiver, output: Option<Output>, mut end: End) {
    let mut buffer = BytesMut::new();
    let (mut deadline, mut owed) = (None, 0);
    loop {
        buffer.reserve(READ);
        let read = tokio::select! {
            biased;
            () = until(deadline), if owed == 0 => break,
            ended = end.wait_for(Option::is_some), if deadline.is_none() => {
                // Where the one who would tell has gone, so have we in a moment.
                deadline = ended.map_or(Some(Instant::now()), |end| *end);
                owed = waiting(&pipe);
                continue;
            }
            read = pipe.read_buf(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else {
            break;
        };
        owed = owed.saturating_sub(length);
        let data = buffer.split().freeze();
        if let Some(output) = &output
            && output.send(data).await.is_err()
        {
            return;
        }
    }
    if let Some(output) = output {
        let _ = output.finish().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Bytes that are in the pipe.
fn waiting(pipe: &pipe::Receiver) -> usize {
    let waiting = ioctl_fionread(pipe.as_fd()).unwrap_or(0);
    usize::try_from(waiting).unwrap_or(usize::MAX)
}
