//! Sessions of Attach, with the library that kubectl has.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
};

use corten_proto::cri;
use corten_test::{
    node::Node,
    pod,
    streams::{self, PROTOCOLS, Protocol},
    terminal::Terminal,
};
use nix::sys::signal::Signal;
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod_id: String,
}

async fn site() -> Site {
    let (node, runtime, pod_id) = streams::site(&[]).await.unwrap();
    Site {
        node,
        runtime,
        pod_id,
    }
}

impl Site {
    async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        pod::run(&mut self.runtime, &self.pod_id, config)
            .await
            .unwrap()
    }

    /// A client with pipes.
    async fn attach(&mut self, container: &str, stdin: bool, protocol: Protocol) -> Child {
        let request = cri::AttachRequest {
            container_id: container.into(),
            stdin,
            tty: false,
            stdout: true,
            stderr: true,
        };
        let command = streams::attach(&self.node, &mut self.runtime, request, protocol).await;
        let mut command = command.unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// A container that echoes each line, and ends with its input.
fn echo(name: &str, once: bool) -> cri::ContainerConfig {
    let script = "while read line; do echo \"$line\"; echo \"not $line\" >&2; done; exit 5";
    let mut config = pod::container(name, script);
    config.stdin = true;
    config.stdin_once = once;
    config
}

/// Writes a line, and reads one of the output.
fn ask(client: &mut Child, output: &mut impl BufRead, text: &str) -> String {
    writeln!(client.stdin.as_mut().unwrap(), "{text}").unwrap();
    line(output)
}

fn read_until(output: &mut impl BufRead, wanted: &str) {
    while line(output) != wanted {}
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(
        output.read_line(&mut line).unwrap() > 0,
        "the session has ended"
    );
    line.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn input_for_one_client_ends_with_it() {
    let mut site = site().await;
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        let container = site.run(&echo(&format!("once-{number}"), true)).await;
        let mut client = site.attach(&container, true, protocol).await;
        let mut stdout = BufReader::new(client.stdout.take().unwrap());
        let mut stderr = BufReader::new(client.stderr.take().unwrap());
        assert_eq!(
            ask(&mut client, &mut stdout, "hello"),
            "hello",
            "{protocol:?}"
        );
        assert_eq!(line(&mut stderr), "not hello");
        drop(client.stdin.take());
        // The container has ended, and so has the session.
        assert_eq!(client.wait().unwrap().code(), Some(0), "{protocol:?}");
        let status = pod::exited(&site.runtime, &container).await.unwrap();
        assert_eq!(status.exit_code, 5);
        let log = std::fs::read_to_string(status.log_path).unwrap();
        assert!(
            log.contains("stdout F hello") && log.contains("stderr F not hello"),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_clients_see_the_same_and_leave_without_harm() {
    let mut site = site().await;
    let container = site.run(&echo("many", false)).await;
    let mut clients = Vec::new();
    for protocol in [PROTOCOLS[0], PROTOCOLS[1], PROTOCOLS[0]] {
        let mut client = site.attach(&container, true, protocol).await;
        let output = BufReader::new(client.stdout.take().unwrap());
        clients.push((client, output));
    }
    // Each of them is attached once it sees what it has sent.
    for (number, (client, output)) in clients.iter_mut().enumerate() {
        writeln!(client.stdin.as_mut().unwrap(), "from {number}").unwrap();
        read_until(output, &format!("from {number}"));
    }
    writeln!(clients[0].0.stdin.as_mut().unwrap(), "to all").unwrap();
    for (_, output) in &mut clients {
        read_until(output, "to all");
    }
    // One that comes later is shown nothing of that.
    let mut late = site.attach(&container, true, PROTOCOLS[1]).await;
    let mut output = BufReader::new(late.stdout.take().unwrap());
    assert_eq!(
        ask(&mut late, &mut output, "from the last"),
        "from the last"
    );
    for (_, output) in &mut clients {
        read_until(output, "from the last");
    }
    late.kill().unwrap();
    late.wait().unwrap();
    // One that goes, and one that ends its input, take nothing along.
    let (mut first, _first_output) = clients.remove(0);
    drop(first.stdin.take());
    let (mut second, _) = clients.remove(0);
    second.kill().unwrap();
    second.wait().unwrap();
    let (client, output) = &mut clients[0];
    assert_eq!(ask(client, output, "still there"), "still there");
    pod::stop(&mut site.runtime, &container, 0).await.unwrap();
    let (mut last, _last_output) = clients.remove(0);
    assert_eq!(last.wait().unwrap().code(), Some(0));
    assert_eq!(first.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let mut site = site().await;
    let mut config = pod::container("much", "read go; seq 3000000; echo done; read end");
    config.stdin = true;
    let container = site.run(&config).await;
    let mut slow = site.attach(&container, true, Protocol::Spdy).await;
    let mut begin = site.attach(&container, true, Protocol::Spdy).await;
    writeln!(begin.stdin.as_mut().unwrap(), "go").unwrap();
    let status = pod::status(&mut site.runtime, &container).await.unwrap();
    corten_test::wait::until(|| async {
        let log = std::fs::read_to_string(&status.log_path)?;
        anyhow::ensure!(log.ends_with("stdout F done\n"), "{} bytes", log.len());
        anyhow::ensure!(log.lines().count() == 3_000_001);
        Ok(())
    })
    .await
    .unwrap();
    slow.kill().unwrap();
    slow.wait().unwrap();
    begin.kill().unwrap();
    begin.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_terminal_can_be_attached_to() {
    let mut site = site().await;
    for transport in ["spdy", "websocket"] {
        let mut config = pod::container(transport, "");
        config.command = vec!["sh".into()];
        config.stdin = true;
        config.tty = true;
        let container = site.run(&config).await;
        let line = streams::crictl(&site.node, "attach", &format!("-it -r {transport}"));
        let line = format!("{} {container}", line.unwrap());
        let terminal = Terminal::open(&site.node, transport, &line).unwrap();
        // There is no prompt before a line is sent: nothing is replayed.
        terminal.type_line("PS1='ready: '; stty size").unwrap();
        terminal.shows("24 80").await.unwrap();
        terminal.resize(100, 30).unwrap();
        corten_test::wait::until(|| async {
            terminal.type_line("clear; stty size")?;
            terminal.shows_now("30 100")
        })
        .await
        .unwrap();
        terminal.type_line("exit 0").unwrap();
        terminal.ended(0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_at_a_terminal_come_and_go() {
    let mut site = site().await;
    let mut config = pod::container("shared", "");
    config.command = vec!["sh".into()];
    (config.stdin, config.tty) = (true, true);
    let container = site.run(&config).await;
    let line = streams::crictl(&site.node, "attach", "-it").unwrap();
    let line = format!("{line} {container}");
    let first = Terminal::open(&site.node, "first", &line).unwrap();
    first.type_line("PS1='ready: '; echo first").unwrap();
    first.shows("first").await.unwrap();
    // crictl's keys to leave.
    first.press("C-p").unwrap();
    first.press("C-q").unwrap();
    first.ended(0).await.unwrap();

    let second = Terminal::open(&site.node, "second", &line).unwrap();
    second.type_line("echo second").unwrap();
    second.shows("second").await.unwrap();
    let screen = second.screen().unwrap();
    assert!(!screen.contains("first"), "replayed:\n{screen}");
    // Ctrl-C is for what the container has in front.
    second
        .type_line("sh -c 'echo begun; exec sleep 1000'")
        .unwrap();
    second.shows("begun").await.unwrap();
    second.press("C-c").unwrap();
    second.type_line("echo \"code $?\"").unwrap();
    second.shows("code 130").await.unwrap();
    // Whoever is there sees the same, and one who is torn away takes nothing along.
    let third = Terminal::open(&site.node, "third", &line).unwrap();
    third.type_line("echo third").unwrap();
    third.shows("third").await.unwrap();
    second.shows("third").await.unwrap();
    drop(third);
    second.type_line("echo \"still here\"").unwrap();
    second.shows("still here").await.unwrap();
    second.type_line("exit 7").unwrap();
    second.ended(0).await.unwrap();
    let status = pod::exited(&site.runtime, &container).await.unwrap();
    assert_eq!(status.exit_code, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_ends_sessions_and_not_the_container() {
    let mut site = site().await;
    let container = site.run(&echo("survivor", false)).await;
    let signals = [Signal::SIGKILL, Signal::SIGTERM];
    for (protocol, signal) in PROTOCOLS.into_iter().zip(signals) {
        let mut client = site.attach(&container, true, protocol).await;
        let mut output = BufReader::new(client.stdout.take().unwrap());
        assert_eq!(ask(&mut client, &mut output, "before"), "before");
        site.node.end_daemon(signal).unwrap();
        client.wait().unwrap();
        site.node.start_daemon().await.unwrap();
        site.runtime = site.node.runtime().await.unwrap();
        let mut client = site.attach(&container, true, protocol).await;
        let mut output = BufReader::new(client.stdout.take().unwrap());
        assert_eq!(ask(&mut client, &mut output, "after"), "after");
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_field() {
    let mut site = site().await;
    let container = site.run(&echo("refused", false)).await;
    let request = |change: fn(&mut cri::AttachRequest)| {
        let mut request = cri::AttachRequest {
            container_id: container.clone(),
            stdin: true,
            tty: false,
            stdout: true,
            stderr: true,
        };
        change(&mut request);
        request
    };
    let cases = [
        (
            request(|request| request.tty = true),
            Code::InvalidArgument,
            "stderr",
        ),
        (
            request(|request| {
                request.stdin = false;
                request.stdout = false;
                request.stderr = false;
            }),
            Code::InvalidArgument,
            "stdin",
        ),
        (
            request(|request| request.container_id = "none".into()),
            Code::NotFound,
            "none",
        ),
    ];
    for (request, code, word) in cases {
        let status = site.runtime.attach(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    pod::stop(&mut site.runtime, &container, 0).await.unwrap();
    let status = site.runtime.attach(request(|_| ())).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}
