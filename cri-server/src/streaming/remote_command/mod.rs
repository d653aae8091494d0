//! The streams of a command: what exec and attach have in common, in whichever protocol the client speaks.
//!
//! | version | differs by |
//! | --- | --- |
//! | 1 | the error stream is reset at once |
//! | 2 | the error stream has the error's text |
//! | 3 | a terminal's size can change |
//! | 4 | the error stream has a status, as JSON, also of a success |
//! | 5 (WebSocket) | a channel can be closed by the client |

mod open;
mod size;
mod status;

use bytes::Bytes;
use corten_proto::cri;

use self::open::{Opened, open};
pub(super) use self::size::Sizes;
use super::{
    handshake::Offer,
    server::Client,
    spdy::{self, Broken},
    websocket,
};
use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) const OFFER: Offer = Offer {
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ],
};

/// Which streams a request names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl From<&cri::ExecRequest> for Wanted {
    fn from(request: &cri::ExecRequest) -> Self {
        Self {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        }
    }
}

impl From<&cri::AttachRequest> for Wanted {
    fn from(request: &cri::AttachRequest) -> Self {
        Self {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        }
    }
}

impl Wanted {
    /// Checks what a request asks for.
    pub(crate) fn check(&self) -> Result<()> {
        if self.tty && self.stderr {
            let reason = "is not possible with tty: a terminal has one output";
            return Err(Error::invalid("stderr", reason));
        }
        if !(self.stdin || self.stdout || self.stderr) {
            let reason = "is false, and so are stdout and stderr: one is needed";
            return Err(Error::invalid("stdin", reason));
        }
        Ok(())
    }
}

/// The client's ends of a command's streams.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) sizes: Option<Sizes>,
}

/// Serves a client: `command` runs with its ends, returns an exit code, and is dropped when it goes.
pub(super) async fn serve(
    cx: &Context,
    client: Client,
    wanted: Wanted,
    command: impl AsyncFnOnce(Ends) -> Result<i32>,
) {
    let settings = &cx.config.streaming;
    let mut ending = client.ending.clone();
    let opening = open(
        client,
        wanted,
        settings.idle_timeout(),
        settings.creation_timeout(),
    );
    let Opened {
        ends,
        status,
        mut connection,
    } = match opening.await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!(%error, "a streaming client was given up");
            return;
        }
    };
    let outcome = tokio::select! {
        outcome = command(ends) => Some(outcome),
        () = connection.gone() => None,
        // Without a word, clients of SPDY take it for a success.
        _ = ending.changed() => Some(Err(Error::State {
            subject: "the container runtime".into(),
            state: "ending",
            need: "begin the session anew",
        })),
    };
    if let Some(outcome) = outcome {
        let outcome = outcome.map_err(|error| {
            let error = error.chain();
            tracing::info!(error, "a streaming client's command failed");
            error
        });
        // The client may go meanwhile, too, and need not read.
        tokio::select! {
            () = status.write(&outcome) => {}
            () = connection.gone() => {}
        }
    }
    connection.close().await;
}

/// What the client sends.
#[derive(Debug)]
pub(super) enum Input {
    Spdy {
        receiver: spdy::Receiver,
        /// Nothing is sent on it, and the stream is over for both sides when it is dropped.
        _sender: spdy::Sender,
    },
    WebSocket(websocket::Receiver),
}

impl Input {
    /// Waits for data; `None` is the end that the client has set. Nothing is lost when this is cancelled.
    pub(super) async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Spdy { receiver, .. } => receiver.receive().await,
            Self::WebSocket(receiver) => receiver.receive().await,
        }
    }
}

/// What is sent to the client.
#[derive(Debug)]
pub(super) enum Output {
    Spdy(spdy::Sender),
    WebSocket(websocket::Sender),
}

impl Output {
    /// Queues `data`, as fast as the client takes it.
    pub(super) async fn send(&self, data: Bytes) -> Result<(), Broken> {
        match self {
            Self::Spdy(sender) => sender.send(data).await,
            Self::WebSocket(sender) => sender.send(data).await,
        }
    }

    /// There will be no more.
    pub(super) async fn finish(self) -> Result<(), Broken> {
        match self {
            Self::Spdy(sender) => sender.finish().await,
            // Nothing there says that one channel of several ends.
            Self::WebSocket(_) => Ok(()),
        }
    }
}

/// What the streams run on.
#[derive(Debug)]
pub(super) enum Connection {
    Spdy(spdy::Session, spdy::Incoming),
    WebSocket(websocket::Session),
}

impl Connection {
    /// Resolves when the client has gone.
    pub(super) async fn gone(&mut self) {
        match self {
            // Streams that nobody has asked for are refused.
            Self::Spdy(_, incoming) => while incoming.next().await.is_some() {},
            Self::WebSocket(session) => session.gone().await,
        }
    }

    /// Sends what is left and closes.
    pub(super) async fn close(self) {
        match self {
            Self::Spdy(session, _) => session.close().await,
            Self::WebSocket(session) => session.close().await,
        }
    }
}
