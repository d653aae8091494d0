//! ExecSync.
//!
//! Rule (CRI, ExecSync): an exit code other than 0 is an answer; a timeout is `DeadlineExceeded`, since the kubelet takes only
//! that code for a failed probe. A process of the background that keeps the pipes open does not keep the caller waiting.
//! A caller that leaves ends the command.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use corten_proto::{cri, layout};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, task::JoinHandle, time::timeout};

use crate::{
    context::Context,
    error::{Error, Result},
    shim::{self, Command, ExecIo},
};

/// Both streams together, so that the answer fits into the 16 MiB that clients take.
const MAX_OUTPUT: usize = (16 << 20) - (64 << 10);
/// How long output is read once the command's own process has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Between the end that the shim has seen and the one that it tells.
const END: Duration = Duration::from_secs(5);

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse> {
    if request.cmd.is_empty() {
        return Err(Error::invalid("cmd", "is empty"));
    }
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    container.running_shim()?;

    let room = Arc::new(AtomicUsize::new(MAX_OUTPUT));
    let (stdout, out) = Stream::open(&room)?;
    let (stderr, err) = Stream::open(&room)?;
    let io = ExecIo {
        stdin: None,
        stdout: Some(out),
        stderr: Some(err),
        terminal: None,
    };
    let limit = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let args = request
        .cmd
        .iter()
        .map(|arg| arg.clone().into_bytes())
        .collect();
    let state_dir = layout::container_state(&cx.config.state, &container.record.id);
    let command = Command {
        args,
        io,
        limit,
        hangup_grace: Duration::ZERO,
    };
    let done = match shim::exec(&state_dir, command).await {
        Ok(done) => done,
        // Its shim has ended with it, or is about to, and the end will be told.
        Err(source) if source.is_gone() && timeout(END, container.exited()).await.is_ok() => {
            return Err(container.in_state("exited", "it must be running"));
        }
        Err(source) => {
            let doing = format!(
                "run {:?} in container {}",
                request.cmd[0], container.record.id
            );
            return Err(Error::Shim { doing, source });
        }
    };
    if done.timed_out {
        return Err(Error::Timeout {
            what: format!("command {:?}", request.cmd.join(" ")),
            limit,
        });
    }
    let (stdout, stderr) = tokio::join!(stdout.finish(), stderr.finish());
    Ok(cri::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: done.exit_code,
    })
}

/// One output stream of the command.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    /// Begins to read. The other end is for the command.
    fn open(room: &Arc<AtomicUsize>) -> Result<(Self, OwnedFd)> {
        let failed = |source| Error::Io {
            doing: "make a pipe for a command's output".into(),
            source,
        };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let receiver = Receiver::from_owned_fd(read).map_err(failed)?;
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(read_all(receiver, Arc::clone(&bytes), Arc::clone(room)));
        Ok((Self { bytes, reader }, write))
    }

    /// Returns what was read until the end of the stream or of our patience.
    async fn finish(mut self) -> Vec<u8> {
        let _ = timeout(DRAIN, &mut self.reader).await;
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads to the end, so that the command never blocks; what there is no room for is dropped.
async fn read_all(mut pipe: Receiver, bytes: Arc<Mutex<Vec<u8>>>, room: Arc<AtomicUsize>) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        let taken = take(&room, read);
        bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&chunk[..taken]);
    }
}

/// Takes up to `wanted` bytes of the room that is left.
fn take(room: &AtomicUsize, wanted: usize) -> usize {
    let before = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        Some(left.saturating_sub(wanted))
    });
    before.unwrap_or(0).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_until_there_is_none() {
        let room = AtomicUsize::new(10);
        assert_eq!([take(&room, 6), take(&room, 6), take(&room, 6)], [6, 4, 0]);
    }
}
