//! A session of Attach: a client at the streams of a container's own process, beside others.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use corten_proto::{cri, layout, shim::Attach};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    net::unix::pipe,
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    copy::{carry, feed},
    remote_command::{self, Ends, Wanted},
    server::Client,
    terminal::{self, receive, receive_master, resize},
};
use crate::{
    context::Context,
    error::{Error, Result},
    shim::{self, End, Printed},
};

pub(super) async fn run(cx: &Arc<Context>, request: cri::AttachRequest, client: Client) {
    let attach = async |ends| attach(cx, &request, ends).await.map(|()| 0);
    remote_command::serve(cx, client, Wanted::from(&request), attach).await;
}

/// Until the container ends, or one at a terminal leaves: that is what the end of its input says there (crictl's Ctrl-P Ctrl-Q).
async fn attach(cx: &Context, request: &cri::AttachRequest, ends: Ends) -> Result<()> {
    let container = cx.store.container(&request.container_id)?;
    container.settled().await;
    container.running_shim()?;
    let _session = container.begin_session(cx.config.container.max_sessions)?;
    let mut tasks = JoinSet::new();
    let (ended, end) = watch::channel(None);
    let mut wanted = Attach::default();
    let mut fds = Vec::new();
    let config = container.record.config.as_ref();
    let tty = config.is_some_and(|config| config.tty);
    let connected = connect(ends, tty, &end, &mut tasks, &mut wanted, &mut fds);
    let left = connected.map_err(|source| Error::Io {
        doing: "make an attached client's streams".into(),
        source,
    })?;
    let state_dir = layout::container_state(&cx.config.state, &container.record.id);
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let attached = shim::attach(&state_dir, wanted, &borrowed).await;
    let attached = attached.map_err(|source| Error::Shim {
        doing: format!("attach to container {}", container.record.id),
        source,
    })?;
    drop(fds);
    let patience = tokio::select! {
        () = container.exited() => cx.config.container.exec_drain_timeout(),
        Ok(()) = left, if request.tty => Duration::ZERO,
    };
    ended.send_replace(Some(Instant::now() + patience));
    while tasks.join_next().await.is_some() {}
    drop(attached);
    Ok(())
}

/// Has tasks copy between the client and pipes, whose other ends are `fds`. Returns what tells the end of its input.
fn connect(
    ends: Ends,
    tty: bool,
    end: &End,
    tasks: &mut JoinSet<()>,
    wanted: &mut Attach,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<oneshot::Receiver<()>> {
    let (leave, left) = oneshot::channel();
    if ends.stdin.is_some() || ends.sizes.is_some() {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        wanted.stdin = true;
        fds.push(theirs.into());
        let writer = Writer {
            input: ends.stdin,
            sizes: ends.sizes,
            tty,
            leave,
            end: end.clone(),
        };
        tasks.spawn(writer.run(ours.try_into()?));
    }
    for (output, flag) in [
        (ends.stdout, &mut wanted.stdout),
        (ends.stderr, &mut wanted.stderr),
    ] {
        if output.is_some() {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            *flag = true;
            fds.push(write);
            let printed = Printed::new(pipe::Receiver::from_owned_fd(read)?, end.clone());
            tasks.spawn(carry(printed, output));
        }
    }
    Ok(left)
}

/// What the client does to the container's input.
struct Writer {
    input: Option<remote_command::Input>,
    sizes: Option<remote_command::Sizes>,
    /// Whether the container has a terminal.
    tty: bool,
    leave: oneshot::Sender<()>,
    end: End,
}

impl Writer {
    /// Copies what it types to the input, or terminal, which comes over `socket`.
    async fn run(self, socket: tokio::net::UnixStream) {
        if let Err(error) = self.copy(&socket).await {
            tracing::debug!(%error, "an attached client has no input");
        }
    }

    async fn copy(self, socket: &tokio::net::UnixStream) -> io::Result<()> {
        let received = match self.tty {
            true => receive_master(socket).await?,
            false => receive(socket).await?,
        };
        let Some(fd) = received else {
            return Ok(());
        };
        let mut tasks = JoinSet::new();
        if let Some(sizes) = self.sizes {
            tasks.spawn(resize(fd.try_clone()?, sizes));
        }
        let mut ended = self.end.clone();
        if let Some(input) = self.input {
            feed(input, terminal::writer(fd)?, self.end).await;
            let _ = self.leave.send(());
        }
        // The size can change without input.
        let _ = ended.wait_for(Option::is_some).await;
        Ok(())
    }
}
