//! ExecSync.
//!
//! Rule (CRI, ExecSync): an exit code other than 0 is an answer; a timeout is `DeadlineExceeded`, since the kubelet takes only
//! that code for a failed probe. A process of the background that keeps the pipes open does not keep the caller waiting.
//! A caller that leaves ends the command.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use corten_proto::{cri, layout};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{net::unix::pipe, sync::watch, time::Instant};

use crate::{
    container::Container,
    context::Context,
    error::{Error, Result},
    shim::{self, Command, End, ExecIo, Printed},
    spec,
};

/// Both streams together, so that the answer fits into the 16 MiB that clients take.
const MAX_OUTPUT: usize = (16 << 20) - (64 << 10);

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse> {
    if request.cmd.is_empty() {
        return Err(Error::invalid("cmd", "is empty"));
    }
    spec::check_command(&request.cmd)?;
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    container.settled().await;
    container.running_shim()?;
    let limits = &cx.config.container;
    let _session = container.begin_session(limits.max_sessions)?;
    let _command = cx.exec_syncs.one(
        limits.max_exec_syncs,
        "commands in all containers at once: see container.max_exec_syncs",
    )?;

    let (ended, end) = watch::channel(None);
    let (stdout, out) = stream(&end)?;
    let (stderr, err) = stream(&end)?;
    let io = ExecIo {
        stdout: Some(out),
        stderr: Some(err),
        ..ExecIo::default()
    };
    let command = async {
        let done = run(cx, &container, &request, io).await;
        // Without a good answer nobody waits for output.
        let patience = match done {
            Ok(_) => cx.config.container.exec_drain_timeout(),
            Err(_) => Duration::ZERO,
        };
        ended.send_replace(Some(Instant::now() + patience));
        done
    };
    let room = AtomicUsize::new(MAX_OUTPUT);
    let (done, stdout, stderr) =
        tokio::join!(command, read_all(stdout, &room), read_all(stderr, &room));
    Ok(cri::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: done?,
    })
}

/// Runs the command to its own end. Returns its exit code.
async fn run(
    cx: &Context,
    container: &Container,
    request: &cri::ExecSyncRequest,
    io: ExecIo,
) -> Result<i32> {
    let limit = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let args = request.cmd.iter().map(|arg| arg.clone().into_bytes());
    let command = Command {
        args: args.collect(),
        io,
        limit,
        hangup_grace: Duration::ZERO,
    };
    let state_dir = layout::container_state(&cx.config.state, &container.record.id);
    match shim::exec(&state_dir, command).await {
        Ok(done) if done.timed_out => Err(Error::Timeout {
            what: format!("command {:?}", request.cmd.join(" ")),
            limit,
        }),
        Ok(done) => Ok(done.exit_code),
        // Its shim has ended with it, or is about to, and the end will be told.
        Err(source) if container.has_ended_before(&source).await => {
            Err(container.in_state("exited", "it must be running"))
        }
        Err(source) => {
            let doing = format!(
                "run {:?} in container {}",
                request.cmd[0], container.record.id
            );
            Err(Error::Shim { doing, source })
        }
    }
}

/// One output stream of the command. Returns its end, too.
fn stream(end: &End) -> Result<(Printed, OwnedFd)> {
    let make = || -> io::Result<_> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((pipe::Receiver::from_owned_fd(read)?, write))
    };
    let (read, write) = make().map_err(|source| Error::Io {
        doing: "make a pipe for a command's output".into(),
        source,
    })?;
    Ok((Printed::new(read, end.clone()), write))
}

/// Reads to the end, so that the command never blocks; what there is no room for is dropped.
async fn read_all(mut printed: Printed, room: &AtomicUsize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    loop {
        let length = bytes.len();
        let read = printed.read(&mut bytes).await;
        if read == 0 {
            return bytes.into();
        }
        bytes.truncate(length + take(room, read));
    }
}

/// Takes up to `wanted` bytes of the room that is left.
fn take(room: &AtomicUsize, wanted: usize) -> usize {
    let before = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        Some(left.saturating_sub(wanted))
    });
    before.unwrap_or(0).min(wanted)
}
