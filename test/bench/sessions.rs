//! What open sessions of Exec cost: the daemon's and the shim's memory with many of them, idle and with data on its way.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::NamespaceMode;

use crate::{
    cri::Pod,
    daemon::{Daemon, Runtime, Setup},
    processes::Snapshot,
    streams::Protocol,
};

/// Until what an opening took is free again, and data flows in all of them.
const SETTLE: Duration = Duration::from_secs(3);

/// One side's memory in one protocol, before any session and with `count`: bytes that belong to no file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sessions {
    pub(crate) runtime: Runtime,
    pub(crate) protocol: Protocol,
    pub(crate) count: u64,
    pub(crate) before: Snapshot,
    pub(crate) idle: Snapshot,
    pub(crate) flowing: Snapshot,
}

/// Holds `count` sessions open on a fresh daemon. `client`: `corten-streams`.
pub(crate) async fn memory(
    setup: &Setup,
    runtime: Runtime,
    client: &Path,
    (protocol, count): (Protocol, u64),
) -> Result<Sessions> {
    let mut daemon = setup.start(runtime).await?;
    let kind = daemon.pod_kind(NamespaceMode::Node);
    let (pod, _) = daemon.client.start_pod(&kind, "sessions").await?;
    // One that has ended: what the first of all brings along is no session's.
    drop(Holder::open(&mut daemon, &pod, client, (protocol, 1)).await?);
    let before = settled(&daemon).await?;
    let mut holder = Holder::open(&mut daemon, &pod, client, (protocol, count)).await?;
    let idle = settled(&daemon).await?;
    holder.flow()?;
    let flowing = settled(&daemon).await?;
    drop(holder);
    daemon.client.remove_pod(pod).await?;
    daemon.stop().await?;
    Ok(Sessions {
        runtime,
        protocol,
        count,
        before,
        idle,
        flowing,
    })
}

async fn settled(daemon: &Daemon) -> Result<Snapshot> {
    tokio::time::sleep(SETTLE).await;
    Snapshot::take(daemon)
}

/// A client with open sessions. They end with this.
struct Holder {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    async fn open(
        daemon: &mut Daemon,
        pod: &Pod,
        client: &Path,
        (protocol, count): (Protocol, u64),
    ) -> Result<Self> {
        let mut urls = String::new();
        for _ in 0..count {
            urls += &daemon.client.exec(pod, &["cat"]).await?;
            urls.push('\n');
        }
        let mut command = Command::new(client);
        command.args(["hold", "-"]);
        command.args((protocol == Protocol::WebSocket).then_some("--websocket"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("start a client of sessions")?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let mut holder = Self {
            process,
            input: input.context("no input")?,
            output: BufReader::new(output.context("no output")?),
        };
        holder.tell(&urls, "open")?;
        Ok(holder)
    }

    /// Has every session send, and get back, 160 KiB a second.
    fn flow(&mut self) -> Result<()> {
        self.tell("flow", "flowing")
    }

    /// Sends text and waits for an answer.
    fn tell(&mut self, text: &str, wanted: &str) -> Result<()> {
        writeln!(self.input, "{text}").context("tell a client of sessions")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).context("hear it")?;
        ensure!(
            answer.trim_end() == wanted,
            "a client of sessions said {answer:?}, not {wanted}"
        );
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only on a process that has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
