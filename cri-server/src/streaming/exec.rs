//! A session of Exec: a process in the container, with a client at its standard streams.

use std::{io, os::unix::net::UnixStream, sync::Arc, time::Duration};

use corten_proto::{cri, layout};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{net::unix::pipe, sync::watch, task::JoinSet, time::Instant};

use super::{
    copy::{carry, feed},
    remote_command::{self, Ends, Wanted},
    server::Client,
    terminal,
};
use crate::{
    context::Context,
    error::{Error, Result},
    shim::{self, Command, End, ExecIo, Printed},
};

pub(super) async fn run(cx: &Arc<Context>, request: cri::ExecRequest, client: Client) {
    let command = async |ends| command(cx, &request, ends).await;
    remote_command::serve(cx, client, Wanted::from(&request), command).await;
}

/// Runs it to its end, and until its output is with the client. Returns its exit code.
async fn command(cx: &Context, request: &cri::ExecRequest, ends: Ends) -> Result<i32> {
    let container = cx.store.container(&request.container_id)?;
    container.settled().await;
    container.running_shim()?;
    let _session = container.begin_session(cx.config.container.max_sessions)?;
    let mut tasks = JoinSet::new();
    let (ended, end) = watch::channel(None);
    let connected = match request.tty {
        true => connect_terminal(ends, end, &mut tasks),
        false => connect_pipes(ends, end, &mut tasks),
    };
    let io = connected.map_err(|source| Error::Io {
        doing: "make a command's streams".into(),
        source,
    })?;
    let args = request.cmd.iter().map(|arg| arg.clone().into_bytes());
    let state_dir = layout::container_state(&cx.config.state, &container.record.id);
    let command = Command {
        args: args.collect(),
        io,
        limit: Duration::ZERO,
        hangup_grace: cx.config.streaming.hangup_grace(),
    };
    let done = shim::exec(&state_dir, command).await;
    let done = done.map_err(|source| Error::Shim {
        doing: format!(
            "run {:?} in container {}",
            request.cmd[0], container.record.id
        ),
        source,
    })?;
    let patience = cx.config.container.exec_drain_timeout();
    ended.send_replace(Some(Instant::now() + patience));
    while tasks.join_next().await.is_some() {}
    Ok(done.exit_code)
}

/// Has tasks copy between pipes and the client. Returns the command's ends.
fn connect_pipes(ends: Ends, end: End, tasks: &mut JoinSet<()>) -> io::Result<ExecIo> {
    let mut io = ExecIo::default();
    if let Some(input) = ends.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        io.stdin = Some(read);
        tasks.spawn(feed(
            input,
            pipe::Sender::from_owned_fd(write)?,
            end.clone(),
        ));
    }
    // What nobody wants to see is read, and dropped.
    for (output, slot) in [(ends.stdout, &mut io.stdout), (ends.stderr, &mut io.stderr)] {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        *slot = Some(write);
        let printed = Printed::new(pipe::Receiver::from_owned_fd(read)?, end.clone());
        tasks.spawn(carry(printed, output));
    }
    Ok(io)
}

/// The same with a terminal, which the container's side makes.
fn connect_terminal(ends: Ends, end: End, tasks: &mut JoinSet<()>) -> io::Result<ExecIo> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    tasks.spawn(terminal::connect(ours.try_into()?, ends, end));
    Ok(ExecIo {
        terminal: Some(theirs.into()),
        ..ExecIo::default()
    })
}
