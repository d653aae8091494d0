//! No client and no container takes what the others need: lists that fit, commands, pulls and creations at once, descriptors.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command, time::Duration,
};

use corten_proto::cri;
use corten_test::{
    image,
    node::Node,
    pod,
    registry::{self, Protection},
    streams::{self, PROTOCOLS},
    wait::until,
};
use tokio::task::JoinSet;
use tonic::{Code, Request};

/// What the cluster's API lets through, and more: bytes.
const LARGE: usize = 480 << 10;

async fn node_with(options: &[&str]) -> Node {
    let node = Node::start_with(options).await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

fn words(bytes: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("example.com/large".to_owned(), "x".repeat(bytes))])
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_all_pods_and_containers_always_fit() {
    let node = node_with(&["--dev-network"]).await;
    let mut runtime = node.runtime().await.unwrap();
    let mut pods = Vec::new();
    let config = |number: usize| {
        let mut config = pod::host_network_pod(&format!("large-{number}"));
        config.annotations = words(LARGE);
        config
    };
    // Seventy of them are more than a client takes in one answer.
    let refused = loop {
        match pod::run_pod(&mut runtime, &config(pods.len())).await {
            Ok(id) => pods.push(id),
            Err(status) => break status,
        }
        assert!(pods.len() < 70, "all are admitted");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("annotations"), "{refused}");
    assert!(pods.len() >= 10, "{}", pods.len());

    let mut containers = Vec::new();
    let config_of = |number: usize| {
        let mut config = pod::container(&format!("large-{number}"), "true");
        config.annotations = words(LARGE);
        config
    };
    let refused = loop {
        let config = config_of(containers.len());
        match pod::create(&mut runtime, &pods[0], &config).await {
            Ok(id) => containers.push(id),
            Err(status) => break status,
        }
        assert!(containers.len() < 40, "all are admitted");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(containers.len() >= 10, "{}", containers.len());

    // The test's client takes as much as the kubelet's.
    let listed = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().items.len(), pods.len());
    let listed = pod::containers(&mut runtime).await.unwrap();
    assert_eq!(listed.len(), containers.len());
    let stats = runtime
        .list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default())
        .await
        .unwrap();
    assert_eq!(stats.into_inner().stats.len(), pods.len());
    let stats = runtime
        .list_container_stats(cri::ListContainerStatsRequest::default())
        .await
        .unwrap();
    assert_eq!(stats.into_inner().stats.len(), containers.len());

    // There is room again for what was removed, and none for more; also for the next daemon.
    let mut node = node;
    node.end_daemon(nix::sys::signal::Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let again = pod::run_pod(&mut runtime, &config(100)).await.unwrap_err();
    assert_eq!(again.code(), Code::ResourceExhausted, "{again}");
    pod::remove_pod(&mut runtime, &pods[1]).await.unwrap();
    pod::run_pod(&mut runtime, &config(100)).await.unwrap();
    pod::run_pod(&mut runtime, &pod::host_network_pod("small"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_by_its_field() {
    let node = node_with(&["--dev-network"]).await;
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::host_network_pod("large");
    config.labels = words(2 << 20);
    let refused = pod::run_pod(&mut runtime, &config).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("config.labels: "),
        "{refused}"
    );

    let id = pod::run_pod(&mut runtime, &pod::host_network_pod("good"))
        .await
        .unwrap();
    let refuse = async |field: &str, change: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut config = pod::container("large", "true");
        change(&mut config);
        let refused = pod::create(&mut runtime.clone(), &id, &config)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert!(
            refused.message().starts_with(&format!("{field}: ")),
            "{refused}"
        );
    };
    refuse("config.annotations", &|config| {
        config.annotations = words(1 << 20);
    })
    .await;
    refuse("config.mounts", &|config| {
        let mount = pod::mount("/tmp", "/x");
        config.mounts = vec![mount; 5000];
    })
    .await;
    refuse("config", &|config| {
        let env = cri::KeyValue {
            key: "K".into(),
            value: vec![b'x'; 100 << 10],
        };
        config.envs = vec![env; 100];
    })
    .await;
    let config = pod::container("good", "exec sleep 1000");
    let container = pod::run(&mut runtime, &id, &config).await.unwrap();
    let request = cri::ExecSyncRequest {
        container_id: container,
        cmd: vec!["echo".into(), "x".repeat(5 << 20)],
        timeout: 10,
    };
    let refused = runtime.exec_sync(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("cmd: "), "{refused}");
}

/// A command that goes on until its call is dropped, and leaves a file of this name.
fn endless(container: &str, name: &str) -> cri::ExecSyncRequest {
    let script = format!("touch /{name}; exec sleep 1000");
    cri::ExecSyncRequest {
        container_id: container.into(),
        cmd: vec!["sh".into(), "-c".into(), script],
        timeout: 0,
    }
}

/// Begins a command and waits until it runs.
async fn begin(node: &Node, calls: &mut JoinSet<Result<(), tonic::Status>>, container: &str) {
    let name = format!("runs-{}", calls.len());
    let mut runtime = node.runtime().await.unwrap();
    let request = endless(container, &name);
    calls.spawn(async move { runtime.exec_sync(request).await.map(drop) });
    let upper = node.root().join("containers").join(container).join("upper");
    let runs = until(|| async { upper.join(&name).exists().then_some(()).ok_or(&name) });
    runs.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_at_once_are_limited_in_one_container_and_in_all() {
    let limits = ["--max-container-sessions", "3", "--max-exec-syncs", "4"];
    let node = node_with(&[&["--dev-network"][..], &limits[..]].concat()).await;
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::host_network_pod("execs"))
        .await
        .unwrap();
    let mut containers = Vec::new();
    for name in ["one", "other", "third"] {
        let config = pod::container(name, "exec sleep 1000");
        containers.push(pod::run(&mut runtime, &id, &config).await.unwrap());
    }
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        begin(&node, &mut calls, &containers[0]).await;
    }
    let status = pod::exec(&mut runtime, &containers[0], "true").await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("max_sessions"), "{status}");
    for protocol in PROTOCOLS {
        let exec = streams::exec_request(&containers[0], "true");
        let attach = cri::AttachRequest {
            container_id: containers[0].clone(),
            stdin: false,
            tty: false,
            stdout: true,
            stderr: true,
        };
        let clients = [
            streams::exec(&node, &mut runtime, exec, protocol).await,
            streams::attach(&node, &mut runtime, attach, protocol).await,
        ];
        for client in clients {
            let output = streams::run(client.unwrap(), b"").unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success());
            assert!(said.contains("max_sessions"), "{protocol:?}: {said}");
        }
    }
    // Another container has its own.
    let done = pod::exec(&mut runtime, &containers[1], "true").await;
    assert_eq!(done.unwrap().exit_code, 0);
    begin(&node, &mut calls, &containers[1]).await;
    let status = pod::exec(&mut runtime, &containers[2], "true").await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("max_exec_syncs"), "{status}");
    // Callers that leave make room.
    calls.shutdown().await;
    for container in &containers {
        let done = until(|| async { pod::exec(&mut runtime.clone(), container, "true").await });
        assert_eq!(done.await.unwrap().exit_code, 0);
    }
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}

fn within<T>(seconds: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(seconds));
    request
}

fn pull(image: &str) -> cri::PullImageRequest {
    cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_wait_for_their_turn_and_their_callers_for_their_deadlines() {
    let node = node_with(&["--dev-network", "--max-concurrent-pulls", "1"]).await;
    registry::start(&node, Protection::None).await.unwrap();
    let archive = image::busybox_archive(node.dir()).unwrap();
    registry::push(&node, &archive, "tools/busybox:1", &[]).unwrap();
    let hosts = registry::hosts(&node, Protection::None, registry::ADDRESS);
    node.write_hosts("registry.example", &hosts).unwrap();
    // One that takes what comes, and never says a word.
    node.write_hosts("silent.example", "server = 'http://127.0.0.1:5009'\n")
        .unwrap();
    let mut silent = node
        .command("socat")
        .args(["TCP-LISTEN:5009,fork,reuseaddr", "EXEC:sleep 1000"])
        .spawn()
        .unwrap();
    until(|| async { node.connect("127.0.0.1:5009").map(drop) })
        .await
        .unwrap();
    let mut images = node.images().await.unwrap();
    let mut first = images.clone();
    let first = tokio::spawn(async move { first.pull_image(pull("silent.example/a:1")).await });
    // It has its turn as soon as it is told of.
    until(|| async {
        let listed = node.shell("ss -Htn state established '( dport = :5009 )'")?;
        anyhow::ensure!(!listed.is_empty(), "nobody has connected");
        Ok(())
    })
    .await
    .unwrap();
    let name = "registry.example/tools/busybox:1";
    let waited = images.pull_image(within(2, pull(name))).await.unwrap_err();
    let late = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(late.contains(&waited.code()), "{waited}");
    // The first goes, the other has its turn.
    // Not the shell that says so.
    node.shell("pkill -f 'TCP-LISTEN:500[9]'").unwrap();
    silent.wait().unwrap();
    images.pull_image(pull(name)).await.unwrap();
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn creations_wait_for_their_turn() {
    let mut node = Node::without_daemon(&["--max-concurrent-creations", "1"])
        .await
        .unwrap();
    let programs = node.dir().join("programs");
    fs::create_dir(&programs).unwrap();
    let (go, plugin) = (node.dir().join("go"), programs.join("slow"));
    let result = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.99.0.2/24","interface":0}]}"#;
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\ntest $CNI_COMMAND = ADD || exit 0\nuntil test -e {}; do sleep 0.1; done\necho '{result}'\n",
        go.display()
    );
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let list = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"slow"}]}"#;
    fs::write(node.dir().join("net.d/10-test.conflist"), list).unwrap();
    node.add_options(["--cni-bin-dir".into(), programs.display().to_string()]);
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut slow = runtime.clone();
    let first = tokio::spawn(async move { pod::run_pod(&mut slow, &pod::pod("slow")).await });
    until(|| async {
        let listed = node.shell("pgrep -f programs/slow")?;
        anyhow::ensure!(!listed.is_empty(), "the plugin does not run");
        Ok(())
    })
    .await
    .unwrap();
    let quick = cri::RunPodSandboxRequest {
        config: Some(pod::host_network_pod("quick")),
        ..Default::default()
    };
    let waited = runtime.run_pod_sandbox(within(2, quick.clone())).await;
    let waited = waited.unwrap_err();
    let late = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(late.contains(&waited.code()), "{waited}");
    fs::write(&go, "").unwrap();
    let first = first.await.unwrap().unwrap();
    // Joins the one that waits, or gets what it has made.
    let second = runtime.run_pod_sandbox(quick).await.unwrap().into_inner();
    for id in [first, second.pod_sandbox_id] {
        pod::remove_pod(&mut runtime, &id).await.unwrap();
    }
}

fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The host's id of the only container's shim.
fn shim(node: &Node) -> u32 {
    let daemon = node.daemon_pid().unwrap();
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| {
            text.split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut shims = children.into_iter().filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with("corten-shim\0container")
    });
    let shim = shims.next().unwrap();
    assert!(shims.next().is_none(), "there is more than one");
    shim
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_container_costs_its_shim_and_the_daemon_nothing() {
    let node = node_with(&["--dev-network", "--pids-limit", "40"]).await;
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::host_network_pod("full"));
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    // The inner shell ends where it can fork no more, and says so; all that it has forked stay.
    let bomb = "(while :; do sleep 1000 & done); exec sleep 1000";
    let config = pod::container("full", bomb);
    let container = pod::run(&mut runtime, &id, &config).await.unwrap();
    let log = node.dir().join("logs/full.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    until(|| async { said().contains("fork").then_some(()).ok_or_else(said) })
        .await
        .unwrap();
    let full = |status: &tonic::Status| status.message().contains("limit of processes");
    let mut calls = JoinSet::new();
    until(|| {
        // What the loop has left free is taken up by commands.
        let (mut own, request) = (runtime.clone(), endless(&container, "runs"));
        calls.spawn(async move { own.exec_sync(request).await.map(drop) });
        async {
            match pod::exec(&mut runtime.clone(), &container, "true").await {
                Err(status) if full(&status) => Ok(()),
                other => Err(other),
            }
        }
    })
    .await
    .unwrap();
    // Those of them that found no place have been told.
    while let Some(call) = calls.try_join_next() {
        assert!(full(&call.unwrap().unwrap_err()));
    }
    let (shim, daemon) = (
        shim(&node),
        u32::try_from(node.daemon_pid().unwrap()).unwrap(),
    );
    let before = open_descriptors(shim);
    let before_daemon = open_descriptors(daemon);
    for _ in 0..50 {
        let status = pod::exec(&mut runtime, &container, "true")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(full(&status), "{status}");
    }
    until(|| async {
        let now = (open_descriptors(shim), open_descriptors(daemon));
        // The daemon's other work opens and closes some.
        let few = now.0 <= before && now.1 <= before_daemon + 10;
        few.then_some(()).ok_or(now)
    })
    .await
    .unwrap();
    pod::stop(&mut runtime, &container, 0).await.unwrap();
    let status = pod::exited(&runtime, &container).await.unwrap();
    assert_eq!((status.exit_code, &*status.reason), (137, "Error"));
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_without_descriptors_refuses_and_recovers() {
    let node = node_with(&["--dev-network"]).await;
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::host_network_pod("few"))
        .await
        .unwrap();
    let config = pod::container("few", "exec sleep 1000");
    let container = pod::run(&mut runtime, &id, &config).await.unwrap();
    pod::output(&mut runtime, &container, "true").await.unwrap();
    let shim = shim(&node);
    let before = open_descriptors(shim);
    // Enough for one command.
    let limit = |descriptors: usize| {
        let limit = format!("--nofile={descriptors}:");
        let set = Command::new("prlimit")
            .args(["--pid", &shim.to_string(), &limit])
            .status();
        assert!(set.unwrap().success());
    };
    limit(before + 12);
    let mut calls = JoinSet::new();
    for _ in 0..30 {
        let (mut runtime, request) = (runtime.clone(), endless(&container, "runs"));
        calls.spawn(async move { runtime.exec_sync(request).await.map(drop) });
    }
    // Those that find no place hear of it, and are not left waiting.
    let mut refused = 0;
    while refused < 20 {
        let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_ne!(status.code(), Code::DeadlineExceeded, "{status}");
        refused += 1;
    }
    // Each is told of once: it does not turn in circles for those that it cannot take.
    let log = node.state().join("containers").join(&container);
    let count = format!("grep -c . {}/shim.log || true", log.display());
    let told: usize = node.shell(&count).unwrap().trim().parse().unwrap();
    assert!(told <= 60, "{told} lines");
    calls.shutdown().await;
    let done = until(|| async { pod::exec(&mut runtime.clone(), &container, "true").await });
    assert_eq!(done.await.unwrap().exit_code, 0);
    until(|| async {
        let now = open_descriptors(shim);
        (now <= before).then_some(()).ok_or(now)
    })
    .await
    .unwrap();
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_has_as_many_descriptors_as_it_may() {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    node.set_prelude("ulimit -Sn 300; ulimit -Hn 9000");
    node.start_daemon().await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.daemon_pid().unwrap()));
    let limits = limits.unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = line.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["9000", "9000"]);
}
