//! Exec with a terminal, as a person at one sees it: crictl in tmux.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_test::{
    handler, image,
    node::Node,
    pod,
    streams::{self, PROTOCOLS},
    terminal::Terminal,
    wait::until,
};

struct Site {
    node: Node,
    runtime: pod::Runtime,
    container: String,
}

async fn site() -> Site {
    let (node, runtime, pod_id) = streams::site(&[]).await.unwrap();
    Site::in_pod(node, runtime, &pod_id).await
}

impl Site {
    async fn in_pod(node: Node, mut runtime: pod::Runtime, pod_id: &str) -> Self {
        let config = pod::container("main", "exec sleep 3600");
        let container = pod::run(&mut runtime, pod_id, &config).await.unwrap();
        Self {
            node,
            runtime,
            container,
        }
    }

    /// The line that has crictl run `command` on a terminal of its own.
    fn crictl(&self, flags: &str, command: &str) -> String {
        let line = streams::crictl(&self.node, "exec", flags).unwrap();
        format!("{line} {} {command}", self.container)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_job_control() {
    job_control(&site().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_job_control_under_another_runtime() {
    let node = handler::node(&handler::oci_table().unwrap()).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::host_network_pod("other");
    let pod_id = handler::run_pod(&mut runtime, &config, handler::OCI).await;
    job_control(&Site::in_pod(node, runtime, &pod_id.unwrap()).await).await;
}

async fn job_control(site: &Site) {
    for transport in ["spdy", "websocket"] {
        let line = site.crictl(&format!("-it -r {transport}"), "sh");
        let terminal = Terminal::open(&site.node, transport, &line).unwrap();
        terminal
            .type_line("PS1='ready: '; tty | tr -d 0-9; stty size")
            .unwrap();
        terminal.shows("/dev/pts/").await.unwrap();
        terminal.shows("24 80").await.unwrap();
        // Ctrl-C ends what is in front, and not the shell.
        let waits = "while :; do sleep 0.1; done";
        terminal
            .type_line(&format!("sh -c 'trap \"exit 9\" INT; echo begun; {waits}'"))
            .unwrap();
        terminal.shows("begun").await.unwrap();
        terminal.press("C-c").unwrap();
        terminal.type_line("echo \"code $?\"").unwrap();
        terminal.shows("code 9").await.unwrap();
        // Ctrl-Z stops it, and it can go on behind.
        terminal
            .type_line(&format!("sh -c 'echo begun anew; {waits}'"))
            .unwrap();
        terminal.shows("begun anew").await.unwrap();
        terminal.press("C-z").unwrap();
        terminal
            .type_line("clear; kill -0 %1 && echo \"is there\"")
            .unwrap();
        terminal.shows("is there").await.unwrap();
        terminal
            .type_line("kill %1; bg; wait; echo \"gone\"")
            .unwrap();
        terminal.shows("gone").await.unwrap();
        // Ctrl-D is the end of the input.
        terminal.type_line("(exit 42)").unwrap();
        terminal.press("C-d").unwrap();
        terminal.ended(1).await.unwrap();
        let screen = terminal.screen().unwrap();
        assert!(screen.contains("exit code 42"), "{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_size_is_told() {
    let site = site().await;
    for transport in ["spdy", "websocket"] {
        let script =
            "'trap \"stty size; echo told\" WINCH; echo waits; while :; do sleep 0.1; done'";
        let line = site.crictl(&format!("-it -r {transport}"), &format!("sh -c {script}"));
        let terminal = Terminal::open(&site.node, transport, &line).unwrap();
        terminal.shows("waits").await.unwrap();
        terminal.resize(100, 30).unwrap();
        terminal.shows("30 100").await.unwrap();
        terminal.press("C-c").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_has_the_whole_screen() {
    let mut site = site().await;
    let line = site.crictl("-it", "busybox vi /tmp/text");
    let terminal = Terminal::open(&site.node, "vi", &line).unwrap();
    terminal.shows("~").await.unwrap();
    terminal.press("i").unwrap();
    terminal.type_line("first line").unwrap();
    terminal.type_line("second line").unwrap();
    terminal.press("Escape").unwrap();
    terminal.shows("second line").await.unwrap();
    // What follows an escape at once would be a key's sequence with it.
    let commands = "- /tmp/text [Modified] 3/3 100%";
    terminal.shows(commands).await.unwrap();
    terminal.type_line(":wq").unwrap();
    terminal.ended(0).await.unwrap();
    let text = pod::output(&mut site.runtime, &site.container, "head -2 /tmp/text").await;
    assert_eq!(text.unwrap(), "first line\nsecond line\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_until_the_person_leaves() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("served"))
        .await
        .unwrap();
    let serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8007 -h /www";
    pod::run(&mut runtime, &pod_id, &pod::container("httpd", serve))
        .await
        .unwrap();
    let descriptors = || {
        let pid = node.daemon_pid().unwrap();
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    };
    let before = descriptors();
    for transport in ["spdy", "websocket"] {
        let flags = format!("-r {transport} {pod_id} 18007:8007 18009:8009");
        let line = streams::crictl(&node, "port-forward", &flags).unwrap();
        let terminal = Terminal::open(&node, transport, &line).unwrap();
        terminal
            .shows("Forwarding from 127.0.0.1:18007 -> 8007")
            .await
            .unwrap();
        terminal
            .shows("Forwarding from 127.0.0.1:18009 -> 8009")
            .await
            .unwrap();
        let fetch = "curl -s --max-time 10 http://127.0.0.1:18007/";
        assert_eq!(node.shell_until(fetch).await.unwrap(), "hello\n");
        // Nobody is at the other port, which harms neither the session nor what comes after.
        assert!(
            node.shell("curl -s --max-time 10 http://127.0.0.1:18009/")
                .is_err()
        );
        let all = format!("for n in $(seq 20); do {fetch} & done; wait");
        assert_eq!(node.shell(&all).unwrap(), "hello\n".repeat(20));
        terminal.press("C-c").unwrap();
        terminal.ended(0).await.unwrap();
        assert!(node.shell(fetch).is_err());
    }
    until(|| async {
        let now = descriptors();
        anyhow::ensure!(now <= before, "{now} descriptors, and {before} before");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_terminal_is_one_and_whole() {
    let mut site = site().await;
    for protocol in PROTOCOLS {
        let script = "echo out; echo err >&2; test -t 0 && test -t 1 && test -t 2; echo $?; seq 50000; exit 3";
        let mut request = streams::exec_request(&site.container, script);
        request.tty = true;
        request.stdin = false;
        request.stderr = false;
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        assert_eq!(output.status.code(), Some(3));
        let numbers = (1..=50_000).map(|number| format!("{number}\r\n"));
        let want = format!("out\r\nerr\r\n0\r\n{}", numbers.collect::<String>());
        assert!(
            output.stdout == want.as_bytes(),
            "{protocol:?}: {}",
            output.stdout.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_belongs_to_the_user() {
    let site = site().await;
    let mut runtime = site.runtime.clone();
    let config = pod::host_network_pod("user");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let mut config = pod::container("user", "exec sleep 3600");
    pod::security(&mut config).run_as_user = Some(corten_proto::cri::Int64Value { value: 1000 });
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let mut request = streams::exec_request(
        &container,
        "stat -c %u $(tty); echo > $(tty) && echo opened",
    );
    request.tty = true;
    request.stderr = false;
    let command = streams::exec(&site.node, &mut runtime, request, PROTOCOLS[0]);
    let output = streams::run(command.await.unwrap(), b"").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1000\r\n\r\nopened\r\n"
    );
}
