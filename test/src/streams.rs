//! Sessions of Exec, Attach and PortForward, by the client in `test/streams`, which is made of Kubernetes' own library.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri;

use crate::{handler, image, node::Node, pod};

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Spdy,
    WebSocket,
}

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Spdy, Protocol::WebSocket];

/// A node whose daemon gets `options`, with the busybox image and a pod on the host's network.
pub async fn site(options: &[&str]) -> Result<(Node, pod::Runtime, String)> {
    let node = Node::start_with(options).await?;
    image::load_busybox(&node).await?;
    let mut runtime = node.runtime().await?;
    let config = pod::logged(&node, pod::host_network_pod("streams"));
    let pod_id = pod::run_pod(&mut runtime, &config).await?;
    Ok((node, runtime, pod_id))
}

/// Of a script in a container's shell, with all streams and without a terminal.
pub fn exec_request(container: &str, script: &str) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: container.into(),
        cmd: vec!["sh".into(), "-c".into(), script.into()],
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

/// The client's command line for a session of `request`, to which more can be added.
pub async fn exec(
    node: &Node,
    runtime: &mut pod::Runtime,
    request: cri::ExecRequest,
    protocol: Protocol,
) -> Result<Command> {
    let flags = Flags::of(request.stdin, request.tty, request.stdout, request.stderr);
    let url = runtime.exec(request).await?.into_inner().url;
    Ok(flags.add(client(node, "exec", &url, protocol)?))
}

/// The same for a session of Attach.
pub async fn attach(
    node: &Node,
    runtime: &mut pod::Runtime,
    request: cri::AttachRequest,
    protocol: Protocol,
) -> Result<Command> {
    let flags = Flags::of(request.stdin, request.tty, request.stdout, request.stderr);
    let url = runtime.attach(request).await?.into_inner().url;
    Ok(flags.add(client(node, "exec", &url, protocol)?))
}

/// The beginning of a shell's line that has crictl make a session with this node's daemon.
pub fn crictl(node: &Node, verb: &str, flags: &str) -> Result<String> {
    let program = tool("crictl")?;
    let socket = node.socket();
    Ok(format!(
        "{} --runtime-endpoint unix://{} {verb} {flags}",
        program.display(),
        socket.display()
    ))
}

/// What a session's client is told of its streams.
struct Flags(Vec<&'static str>);

impl Flags {
    fn of(stdin: bool, tty: bool, stdout: bool, stderr: bool) -> Self {
        let flags = [
            (stdin, "--stdin"),
            (tty, "--tty"),
            (!stdout, "--no-stdout"),
            (!stderr, "--no-stderr"),
        ];
        Self(
            flags
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, flag)| *flag)
                .collect(),
        )
    }

    fn add(self, mut command: Command) -> Command {
        command.args(self.0);
        command
    }
}

/// The client's command line for a session of PortForward.
pub async fn forward(
    node: &Node,
    runtime: &mut pod::Runtime,
    pod: &str,
    protocol: Protocol,
) -> Result<Command> {
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.into(),
        port: vec![],
    };
    let url = runtime.port_forward(request).await?.into_inner().url;
    client(node, "forward", &url, protocol)
}

fn client(node: &Node, kind: &str, url: &str, protocol: Protocol) -> Result<Command> {
    let program = tool("corten-streams")?;
    let mut command = node.command(program.to_str().context("its path is not UTF-8")?);
    command.args([kind, url]);
    if protocol == Protocol::WebSocket {
        command.arg("--websocket");
    }
    Ok(command)
}

/// What `hack/setup test` has built.
fn tool(name: &str) -> Result<PathBuf> {
    let path = handler::cache()?.join("bin").join(name);
    let there = path.exists();
    ensure!(
        there,
        "{} is not there: run hack/setup test",
        path.display()
    );
    Ok(path)
}

/// Runs the client with this input, to its end.
pub fn run(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // All at once: each may wait for the others.
    let (stdout, stderr) = thread::scope(|scope| -> Result<_> {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        let stdout = scope.spawn(move || read(stdout));
        let stderr = read(stderr)?;
        let stdout = stdout
            .join()
            .map_err(|_panic| anyhow::anyhow!("reading panicked"))??;
        Ok((stdout, stderr))
    })?;
    Ok(Output {
        status: child.wait()?,
        stdout,
        stderr,
    })
}

fn read(pipe: Option<impl Read>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut all)?;
    }
    Ok(all)
}
