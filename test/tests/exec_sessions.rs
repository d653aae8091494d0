//! Sessions of Exec, with the library that kubectl has.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{env, os::unix::process::CommandExt, process::Child};

use corten_proto::cri;
use corten_test::{
    node::Node,
    pod,
    streams::{self, PROTOCOLS, Protocol},
    wait::until,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use sha2::{Digest, Sha256};
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    container: String,
}

/// `grace`: seconds that a command has when its client goes.
async fn site(grace: &str) -> Site {
    site_with(&["--stream-hangup-grace", grace]).await
}

async fn site_with(options: &[&str]) -> Site {
    let (node, mut runtime, pod_id) = streams::site(options).await.unwrap();
    let mut config = pod::container("main", "exec sleep 3600");
    config.envs.push(cri::KeyValue {
        key: "FROM".into(),
        value: "config".into(),
    });
    config.working_dir = "/tmp".into();
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    Site {
        node,
        runtime,
        container,
    }
}

impl Site {
    /// Exit code, standard output and standard error of a script.
    async fn exec(
        &mut self,
        script: &str,
        input: &[u8],
        protocol: Protocol,
    ) -> (Option<i32>, String, String) {
        let request = streams::exec_request(&self.container, script);
        let command = streams::exec(&self.node, &mut self.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), input).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

impl Site {
    /// Of what [`NOTES`] it has been told. Then it is ended.
    async fn has_been_told(&mut self) {
        // Without a word to the others they would wait for the grace, an hour.
        wait_for(self, "1").await;
        let told = "cat /tmp/told; rm /tmp/told";
        let told = pod::output(&mut self.runtime, &self.container, told).await;
        assert_eq!(told.unwrap(), "told\n");
        let kill = r"kill -9 $(ps | sed -n 's/^ *\([0-9]*\) .*[s]leep 4321$/\1/p')";
        let killed = pod::output(&mut self.runtime, &self.container, kill).await;
        killed.unwrap();
        wait_for(self, "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_its_streams_and_tells_the_exit_code() {
    let mut site = site("10").await;
    for protocol in PROTOCOLS {
        let done = site
            .exec("echo out; echo err >&2; exit 7", b"", protocol)
            .await;
        assert_eq!(
            done,
            (Some(7), "out\n".into(), "err\n".into()),
            "{protocol:?}"
        );
        // Its input ends when the client's does.
        let done = site.exec("cat; echo end", b"some input\n", protocol).await;
        assert_eq!(done.1, "some input\nend\n", "{protocol:?}");
        // It is the container's in all else.
        let done = site.exec("echo $FROM; pwd; id -u", b"", protocol).await;
        assert_eq!(done.1, "config\n/tmp\n0\n", "{protocol:?}");
    }
}

/// By the client's choice: the exit code as its library tells it, and a part of its words; 124 is an error without a code.
/// Without a code it is chance: in version 1 the library does not wait for an error once the outputs have ended.
const VERSIONS: [(Protocol, &str, Option<i32>, &str); 8] = [
    (Protocol::Spdy, "channel.k8s.io", Some(0), ""),
    (
        Protocol::Spdy,
        "v2.channel.k8s.io",
        Some(124),
        "exit status 7",
    ),
    (
        Protocol::Spdy,
        "v3.channel.k8s.io",
        Some(124),
        "exit status 7",
    ),
    (Protocol::Spdy, "v4.channel.k8s.io", Some(7), ""),
    // One that only later versions of Kubernetes know goes first.
    (
        Protocol::Spdy,
        "v9.channel.k8s.io,v4.channel.k8s.io",
        Some(7),
        "",
    ),
    (Protocol::WebSocket, "channel.k8s.io", None, ""),
    (Protocol::WebSocket, "v4.channel.k8s.io", Some(7), ""),
    (Protocol::WebSocket, "v5.channel.k8s.io", Some(7), ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_the_protocol_tells_what_it_can() {
    let mut site = site("10").await;
    for (protocol, name, code, words) in VERSIONS {
        // Before version 5 a WebSocket's input has no end but the session's.
        let script = "head -c 5; echo; echo err >&2; exit 7";
        let request = streams::exec_request(&site.container, script);
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let mut command = command.await.unwrap();
        command.args(["--protocols", name]);
        let output = streams::run(command, b"input").unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if code.is_some() {
            assert_eq!(output.status.code(), code, "{protocol:?} {name}: {stderr}");
        }
        assert_eq!(output.stdout, b"input\n", "{protocol:?} {name}");
        assert!(
            stderr.starts_with("err\n") && stderr.contains(words),
            "{protocol:?} {name}: {stderr}"
        );
    }
    for (protocol, name) in [
        (Protocol::Spdy, "v3.channel.k8s.io"),
        (Protocol::Spdy, "v4.channel.k8s.io"),
        (Protocol::WebSocket, "v4.channel.k8s.io"),
        (Protocol::WebSocket, "v5.channel.k8s.io"),
    ] {
        let script =
            "until [ \"$(stty size 2>/dev/null)\" = '50 100' ]; do sleep 0.05; done; echo sized";
        let mut request = streams::exec_request(&site.container, script);
        (request.tty, request.stderr) = (true, false);
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let mut command = command.await.unwrap();
        command.args(["--protocols", name, "--sizes", "80x24,100x50"]);
        let output = streams::run(command, b"").unwrap();
        assert_eq!(output.stdout, b"sized\r\n", "{protocol:?} {name}");
    }
}

/// With CAP_FOWNER root inside could change the mode of the host's /dev/null.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_asked_for_is_nothing_of_the_hosts() {
    let mut site = site("10").await;
    for protocol in PROTOCOLS {
        let script = "chmod 600 /proc/self/fd/0 /proc/self/fd/1; echo unseen; stat -Lc %t:%T /dev/stdout >&2";
        let mut request = streams::exec_request(&site.container, script);
        request.stdin = false;
        request.stdout = false;
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "0:0\n",
            "not a pipe"
        );
        assert_eq!(output.stdout, b"");
        assert_eq!(site.node.shell("stat -c %a /dev/null").unwrap(), "666\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_told_by_name() {
    let mut site = site("10").await;
    for protocol in PROTOCOLS {
        let mut request = streams::exec_request(&site.container, "");
        request.cmd = vec!["no-such-program".into()];
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(124));
        assert!(
            stderr.contains("no-such-program") && stderr.contains("No such file"),
            "{stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_of_what_goes_through() {
    let mut site = site("10").await;
    let mib = env::var("CORTEN_STREAM_MIB").map_or(64, |mib| mib.parse().unwrap());
    let mut input = vec![0; mib << 20];
    let mut state = 1_u64;
    for chunk in input.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
    for protocol in PROTOCOLS {
        let request = streams::exec_request(&site.container, "cat");
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), &input).unwrap();
        assert_eq!(output.stdout.len(), input.len(), "{protocol:?}");
        assert_eq!(
            Sha256::digest(&output.stdout),
            Sha256::digest(&input),
            "{protocol:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_sessions_run_at_once() {
    let mut site = site("10").await;
    let mut clients = Vec::new();
    for number in 0..200 {
        let script = format!("cat; echo {number} >&2; exit {}", number % 100);
        let request = streams::exec_request(&site.container, &script);
        let protocol = PROTOCOLS[number % 2];
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        clients.push((number, command.await.unwrap()));
    }
    let running = clients.into_iter().map(|(number, command)| {
        let input = number.to_string();
        std::thread::spawn(move || (number, streams::run(command, input.as_bytes()).unwrap()))
    });
    for client in running.collect::<Vec<_>>() {
        let (number, output) = client.join().unwrap();
        assert_eq!(
            output.status.code(),
            Some(i32::try_from(number % 100).unwrap())
        );
        assert_eq!(output.stdout, number.to_string().into_bytes());
        assert_eq!(output.stderr, format!("{number}\n").into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_in_the_background_lives_on() {
    let mut site = site("10").await;
    for protocol in PROTOCOLS {
        let script = "(trap '' HUP; sleep 1234) & echo $!";
        let (code, pid, _) = site.exec(script, b"", protocol).await;
        assert_eq!(code, Some(0));
        let alive = format!("kill -0 {} && kill -9 {}", pid.trim(), pid.trim());
        let done = pod::exec(&mut site.runtime, &site.container, &alive)
            .await
            .unwrap();
        assert_eq!(done.exit_code, 0, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_behind_may_print_as_long_as_configured() {
    let mut site = site_with(&["--exec-drain-timeout", "3600"]).await;
    for protocol in PROTOCOLS {
        // Longer than the default.
        let script = "(sleep 4; echo late; echo later >&2) & echo now; exit 3";
        let done = site.exec(script, b"", protocol).await;
        assert_eq!(
            done,
            (Some(3), "now\nlate\n".into(), "later\n".into()),
            "{protocol:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_comes_without_waiting_for_others() {
    let mut site = site_with(&["--exec-drain-timeout", "0"]).await;
    for (round, tty) in [false, true].repeat(10).into_iter().enumerate() {
        let script = "(trap '' HUP; exec setsid sleep 1235) & seq 3000; exit 3";
        let mut request = streams::exec_request(&site.container, script);
        (request.tty, request.stderr) = (tty, !tty);
        let protocol = PROTOCOLS[round / 2 % 2];
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        assert_eq!(output.status.code(), Some(3));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 3000, "{protocol:?}, tty {tty}");
    }
}

/// A client in the middle of its session.
async fn begin(site: &mut Site, script: &str, begun: &str, protocol: Protocol) -> Child {
    let request = streams::exec_request(&site.container, script);
    let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
    // The client is a child of what enters the node for it.
    let client = command.await.unwrap().process_group(0).spawn().unwrap();
    wait_for(site, begun).await;
    client
}

/// Ends a client in the middle of its session.
async fn break_off(site: &mut Site, script: &str, begun: &str, protocol: Protocol) {
    let mut client = begin(site, script, begun, protocol).await;
    let group = Pid::from_raw(i32::try_from(client.id()).unwrap());
    killpg(group, Signal::SIGKILL).unwrap();
    client.wait().unwrap();
}

/// Notes a hangup and has three others in the foreground and in the background. What it prints would end it once nobody reads.
const NOTES: &str = "exec > /dev/null 2>&1; trap 'echo told > /tmp/told' HUP; sleep 4321 & sleep 4321; sleep 4321; true";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_command_along() {
    let mut site = site("3600").await;
    for protocol in PROTOCOLS {
        break_off(&mut site, NOTES, "2", protocol).await;
        site.has_been_told().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_is_as_a_client_that_goes() {
    let mut site = site("3600").await;
    let ends = [
        (Protocol::Spdy, Signal::SIGTERM),
        (Protocol::WebSocket, Signal::SIGTERM),
        (Protocol::Spdy, Signal::SIGKILL),
    ];
    for (protocol, signal) in ends {
        let mut client = begin(&mut site, NOTES, "2", protocol).await;
        site.node.end_daemon(signal).unwrap();
        let code = client.wait().unwrap().code();
        // Clients of SPDY take an end without a word for a success.
        let want = (signal == Signal::SIGTERM).then_some(124);
        assert!(want.is_none() || code == want, "{protocol:?}: {code:?}");
        site.node.start_daemon().await.unwrap();
        site.runtime = site.node.runtime().await.unwrap();
        site.has_been_told().await;
        let status = pod::status(&mut site.runtime, &site.container).await;
        assert_eq!(
            status.unwrap().state(),
            cri::ContainerState::ContainerRunning
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_go_with_its_client_is_killed() {
    let mut site = site("1").await;
    for protocol in PROTOCOLS {
        let script = "trap '' HUP; sleep 4321 & sleep 4321; true";
        break_off(&mut site, script, "2", protocol).await;
        wait_for(&site, "0").await;
    }
}

/// Until so many of the commands run.
async fn wait_for(site: &Site, wanted: &str) {
    let count = "ps | grep -c '[s]leep 4321$'; true";
    until(|| {
        let (mut runtime, container) = (site.runtime.clone(), site.container.clone());
        async move {
            let output = pod::output(&mut runtime, &container, count).await?;
            anyhow::ensure!(output.trim() == wanted, "{output}");
            Ok(())
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_good_for_one_session() {
    let mut site = site("10").await;
    let request = streams::exec_request(&site.container, "true");
    let url = site.runtime.exec(request).await.unwrap().into_inner().url;
    let status = |url: &str| {
        let script = format!("curl -s -o /dev/null -w '%{{http_code}}' -X POST '{url}'");
        site.node.shell(&script).unwrap()
    };
    // Not an upgrade; the URL is used up all the same.
    assert_eq!(status(&url), "400");
    assert_eq!(status(&url), "404");
    let (base, _) = url.rsplit_once('/').unwrap();
    assert_eq!(
        status(&format!("{base}/0123456789abcdef0123456789abcdef")),
        "404"
    );
    assert_eq!(status(base), "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_field() {
    let mut site = site("10").await;
    type Change = fn(&mut cri::ExecRequest);
    let cases: [(Change, Code, &str); 4] = [
        (|request| request.cmd.clear(), Code::InvalidArgument, "cmd"),
        (
            |request| request.tty = true,
            Code::InvalidArgument,
            "stderr",
        ),
        (
            |request| {
                request.stdin = false;
                request.stdout = false;
                request.stderr = false;
            },
            Code::InvalidArgument,
            "stdin",
        ),
        (
            |request| request.container_id = "none".into(),
            Code::NotFound,
            "none",
        ),
    ];
    for (change, code, word) in cases {
        let mut request = streams::exec_request(&site.container, "true");
        change(&mut request);
        let status = site.runtime.exec(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    pod::stop(&mut site.runtime, &site.container, 0)
        .await
        .unwrap();
    let request = streams::exec_request(&site.container, "true");
    let status = site.runtime.exec(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}
