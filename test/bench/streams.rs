//! Throughput of sessions: bytes that go to a pod and come back, by Kubernetes' own client, the sides in turns.

use std::{
    fmt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use corten_proto::cri::NamespaceMode;

use crate::{
    cri::{Pod, PodKind},
    daemon::{Daemon, Runtime},
    report,
    samples::Samples,
};

/// Where `cat` gives back what a connection brings, in the pod's own network.
const PORT: &str = "7";
/// Bytes of a round that is not counted: it fills caches, and shows what a side serves.
const WARM_UP: u64 = 8 << 20;
/// A server in a pod listens a moment after its container has started.
const ATTEMPTS: usize = 50;
const POLL: Duration = Duration::from_millis(100);

/// How much is sent, how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) rounds: usize,
    /// Bytes of a round, each way; a power of two, at most a GiB.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Session {
    Exec,
    PortForward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Spdy,
    WebSocket,
}

/// One kind of session in one protocol.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) session: Session,
    pub(crate) protocol: Protocol,
    pub(crate) load: Load,
    pub(crate) sides: Vec<Throughput>,
}

/// One side's rounds.
#[derive(Debug)]
pub(crate) struct Throughput {
    pub(crate) runtime: Runtime,
    /// From the first byte that is sent to the last that comes back.
    pub(crate) wall: Samples,
    /// Of daemon and shims, without what runs in the container; for a GiB.
    pub(crate) processor: Samples,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = match self.session {
            Session::Exec => "exec of `cat`",
            Session::PortForward => "port-forward to `cat`",
        };
        let protocol = match self.protocol {
            Protocol::Spdy => "SPDY",
            Protocol::WebSocket => "WebSocket",
        };
        write!(f, "{session}, {} MiB, {protocol}", self.load.bytes >> 20)
    }
}

/// Every kind of session in every protocol. `client`: `corten-streams`.
pub(crate) async fn throughput(
    sides: &mut [Daemon],
    client: &Path,
    load: Load,
) -> Result<Vec<Stream>> {
    let mut pods = Vec::new();
    for daemon in &mut *sides {
        let server = ["nc", "-ll", "-p", PORT, "-e", "cat"];
        let kind = PodKind {
            command: server.map(str::to_owned).into(),
            ..daemon.pod_kind(NamespaceMode::Pod)
        };
        pods.push(daemon.client.start_pod(&kind, "streams").await?.0);
    }
    let mut all = Vec::new();
    for session in [Session::Exec, Session::PortForward] {
        for protocol in [Protocol::Spdy, Protocol::WebSocket] {
            let mut stream = Stream {
                session,
                protocol,
                load,
                sides: Vec::new(),
            };
            report::note(&stream.to_string());
            stream.measure(sides, &pods, client).await?;
            all.push(stream);
        }
    }
    for (daemon, pod) in sides.iter_mut().zip(pods) {
        daemon.client.remove_pod(pod).await?;
    }
    Ok(all)
}

impl Stream {
    async fn measure(&mut self, sides: &mut [Daemon], pods: &[Pod], client: &Path) -> Result<()> {
        let mut served = Vec::new();
        for (daemon, pod) in sides.iter_mut().zip(pods) {
            if self.is_served(daemon, pod, client).await? {
                self.sides.push(Throughput {
                    runtime: daemon.runtime,
                    wall: Samples::default(),
                    processor: Samples::default(),
                });
                served.push((daemon, pod));
            }
        }
        let in_a_gib = u32::try_from((1 << 30) / self.load.bytes)?;
        for round in 0..self.load.rounds {
            report::progress(round, self.load.rounds);
            for (side, (daemon, pod)) in served.iter_mut().enumerate() {
                let before = daemon.processor().runtime()?;
                let output = self.send(daemon, pod, client, self.load.bytes).await?;
                let used = daemon.processor().runtime()?.saturating_sub(before);
                self.sides[side].wall.push(took(&output)?);
                self.sides[side].processor.push(used * in_a_gib);
            }
        }
        Ok(())
    }

    /// Whether the side speaks the protocol at all. Corten does, so that its errors are errors.
    async fn is_served(&self, daemon: &mut Daemon, pod: &Pod, client: &Path) -> Result<bool> {
        let mut told = String::new();
        for _ in 0..ATTEMPTS {
            let output = self.send(daemon, pod, client, WARM_UP).await?;
            if output.status.success() {
                return Ok(true);
            }
            told = String::from_utf8_lossy(&output.stderr).into_owned();
            if !told.contains("refused") {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let name = daemon.runtime.name();
        if daemon.runtime == Runtime::Corten {
            bail!("{self} on {name}: {told}");
        }
        report::note(&format!("{self}: {name} does not serve it: {told}"));
        Ok(false)
    }

    async fn send(
        &self,
        daemon: &mut Daemon,
        pod: &Pod,
        client: &Path,
        bytes: u64,
    ) -> Result<Output> {
        let mut command = Command::new(client);
        match self.session {
            Session::Exec => {
                let url = daemon.client.exec(pod, &["cat"]).await?;
                command.args(["exec", &url]);
            }
            Session::PortForward => {
                let url = daemon.client.port_forward(pod).await?;
                command.args(["forward", &url, "--port", PORT]);
            }
        }
        command.args(["--through", &bytes.to_string()]);
        command.args((self.protocol == Protocol::WebSocket).then_some("--websocket"));
        let output = command.stdin(Stdio::null()).output();
        output.with_context(|| format!("run {}", client.display()))
    }
}

/// What the client has printed.
fn took(output: &Output) -> Result<Duration> {
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a session broke: {told}");
    let nanoseconds = String::from_utf8_lossy(&output.stdout);
    let nanoseconds = nanoseconds.trim().parse().context("what a client tells")?;
    Ok(Duration::from_nanos(nanoseconds))
}
