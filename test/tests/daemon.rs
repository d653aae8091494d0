//! The daemon itself: what it tells of itself, its neighbours, its end, its log.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::HashMap,
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    time::Duration,
};

use corten_proto::cri;
use corten_test::{
    image,
    node::{Node, binary},
    pod,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_the_start_is_whole_lines() {
    let node = Node::without_daemon(&[]).await.unwrap();
    let write = |name: &str, text: &str| {
        let path = node.dir().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (wrong, broken) = (write("wrong", "rooot = 1\n"), write("broken", "root = "));
    let root = node.root().display().to_string();
    for options in [
        &["--config", &wrong][..],
        &["--config", &broken],
        &["--config", "/nonexistent"],
        &["--root", "relative"],
        &["--root", &root, "--state", "/proc/nothing"],
        &["--root", &root, "--stream-address", "192.0.2.77"],
        &["--no-such-flag"],
    ] {
        let mut command = node.command(&binary("corten").unwrap().display().to_string());
        let output = command.arg("serve").args(options).output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.ends_with('\n') && !text.ends_with("\n\n"),
            "{options:?}: {text:?}"
        );
        assert!(!text.trim().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_status_and_config_say_what_a_kubelet_asks() {
    let node = Node::start().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let version = runtime
        .version(cri::VersionRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*version.version, &*version.runtime_api_version),
        ("0.1.0", "v1")
    );
    assert_eq!(version.runtime_name, "corten");
    let printed = node.corten(&["version"]).unwrap();
    assert_eq!(printed, format!("corten {}\n", version.runtime_version));

    let config = runtime
        .runtime_config(cri::RuntimeConfigRequest {})
        .await
        .unwrap();
    let linux = config.into_inner().linux.unwrap();
    assert_eq!(linux.cgroup_driver(), cri::CgroupDriver::Cgroupfs);

    let brief = runtime
        .status(cri::StatusRequest { verbose: false })
        .await
        .unwrap()
        .into_inner();
    assert!(brief.info.is_empty());
    let conditions: HashMap<_, _> = brief
        .status
        .unwrap()
        .conditions
        .into_iter()
        .map(|condition| (condition.r#type, condition.status))
        .collect();
    let ready = |name: &str| (name.to_owned(), true);
    assert_eq!(
        conditions,
        HashMap::from([ready("RuntimeReady"), ready("NetworkReady")])
    );
    assert!(
        brief
            .runtime_handlers
            .iter()
            .any(|handler| handler.name.is_empty())
    );

    let verbose = runtime
        .status(cri::StatusRequest { verbose: true })
        .await
        .unwrap()
        .into_inner();
    for (key, value) in &verbose.info {
        serde_json::from_str::<Value>(value).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    let config: Value = serde_json::from_str(&verbose.info["config"]).unwrap();
    assert_eq!(
        config["stateDir"].as_str().unwrap(),
        node.state().to_str().unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_range_is_taken_by_the_networks_that_ask_for_one() {
    let node = Node::start_with(&[]).await.unwrap();
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "ranged",
        "plugins": [{
            "type": "bridge",
            "bridge": "br-ranged",
            "isGateway": true,
            "ipam": { "type": "host-local" },
            "capabilities": { "ipRanges": true },
        }],
    });
    fs::write(
        node.dir().join("net.d/10-ranged.conflist"),
        list.to_string(),
    )
    .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let network_config = Some(cri::NetworkConfig {
        pod_cidr: "10.93.0.0/24".into(),
    });
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig { network_config }),
    };
    runtime.update_runtime_config(request).await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("ranged"))
        .await
        .unwrap();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id,
        verbose: false,
    };
    let status = runtime
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner()
        .status;
    let ip = status.unwrap().network.unwrap().ip;
    assert!(ip.starts_with("10.93.0."), "{ip}");
}

/// Calls an RPC with an empty request, which is enough where none is served.
macro_rules! refuse_all {
    ($client:ident: $($name:ident($request:ident);)*) => {
        $({
            let status = $client.$name(cri::$request::default()).await.map(drop).unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{}: {status}", stringify!($name));
        })*
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_yet_says_so() {
    let node = Node::start_with(&[]).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    refuse_all! { runtime:
        stream_pod_sandboxes(StreamPodSandboxesRequest);
        stream_containers(StreamContainersRequest);
        checkpoint_container(CheckpointContainerRequest);
        checkpoint_pod(CheckpointPodRequest);
        restore_pod(RestorePodRequest);
        get_container_events(GetEventsRequest);
        list_metric_descriptors(ListMetricDescriptorsRequest);
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest);
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest);
    }
    // The connection serves on.
    runtime
        .version(cri::VersionRequest::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_run_side_by_side() {
    let first = Node::start().await.unwrap();
    let mut second = first.beside(&["--dev-network"]).await.unwrap();
    let mut ids = Vec::new();
    for node in [&first, &second] {
        image::load_busybox(node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let pod_id = pod::run_pod(&mut runtime, &pod::pod("twin")).await.unwrap();
        ids.push(
            pod::run(&mut runtime, &pod_id, &pod::container("twin", "sleep 1000"))
                .await
                .unwrap(),
        );
    }
    assert_ne!(first.instance().unwrap(), second.instance().unwrap());
    // What one removes and recovers is its own.
    second.end_daemon(Signal::SIGKILL).unwrap();
    second.start_daemon().await.unwrap();
    for (node, id) in [&first, &second].into_iter().zip(&ids) {
        let mut runtime = node.runtime().await.unwrap();
        assert_eq!(
            pod::output(&mut runtime, id, "hostname").await.unwrap(),
            "twin\n"
        );
        let all = pod::containers(&mut runtime).await.unwrap();
        assert_eq!(
            all.iter()
                .map(|container| &container.id)
                .collect::<Vec<_>>(),
            [id]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_root_is_refused() {
    let node = Node::start().await.unwrap();
    let serve = node.serve_arguments();
    let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
    let refused = node.corten(&serve).unwrap_err().to_string();
    let root = node.root().display().to_string();
    assert!(
        refused.contains(&root) && refused.contains("in use"),
        "{refused}"
    );
    // With directories of its own it still cannot have the socket.
    let own = ["own-root", "own-state"].map(|name| node.dir().join(name).display().to_string());
    let socket = node.socket().display().to_string();
    let serve = [
        "serve", "--root", &own[0], "--state", &own[1], "--socket", &socket,
    ];
    let refused = node.corten(&serve).unwrap_err().to_string();
    assert!(
        refused.contains(&socket) && refused.contains("in use"),
        "{refused}"
    );
    let mut runtime = node.runtime().await.unwrap();
    runtime
        .version(cri::VersionRequest::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_root_and_its_group() {
    let node = Node::start_with(&[]).await.unwrap();
    let metadata = fs::metadata(node.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_pods_takes_all_of_its_own_away() {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    let seen = |node: &Node| {
        node.shell("cat /proc/self/mountinfo | awk '{ print $5 }' | sort; ip -o link | awk '{ print $2 }'; ls /run/netns; nft list ruleset; cat /proc/[0-9]*/comm | grep corten || true")
            .unwrap()
    };
    let before = seen(&node);
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("passing");
    config.port_mappings = vec![cri::PortMapping {
        container_port: 80,
        host_port: 8080,
        ..Default::default()
    }];
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    pod::run(&mut runtime, &id, &pod::container("passing", "sleep 1000"))
        .await
        .unwrap();
    assert_ne!(seen(&node), before);
    let instance = node.instance().unwrap();

    // With a pod: it and its network stay, and the next daemon knows them.
    node.end_daemon(Signal::SIGTERM).unwrap();
    assert!(!node.socket().exists());
    let left = seen(&node);
    assert!(
        left.contains("/run/netns/") && left.contains("corten-shim"),
        "{left}"
    );
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    node.end_daemon(Signal::SIGTERM).unwrap();
    assert_eq!(seen(&node), before);
    let cgroups = node
        .shell("find /sys/fs/cgroup -type d -path '*corten*'")
        .unwrap();
    assert!(!cgroups.contains(&instance), "{cgroups}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_one_line_of_json_with_all_causes() {
    let node = Node::start_with(&["--log-format", "json"]).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    // Nothing configures a network, and there is nothing at this file.
    let error = pod::run_pod(&mut runtime, &pod::pod("lonely"))
        .await
        .unwrap_err();
    let mut images = node.images().await.unwrap();
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: "127.0.0.1:1/a/b".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pull = images.pull_image(request).await.unwrap_err();
    let log = node.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let failed = |name: &str| {
        let of = |line: &&Value| line["fields"]["rpc"] == name;
        let found: Vec<_> = lines.iter().filter(of).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let line = failed("run_pod_sandbox");
    let text = line["fields"]["error"].as_str().unwrap();
    assert!(text.contains("lonely") && text.contains("net.d"), "{text}");
    assert!(format!("{error:#}").contains("net.d"), "{error:#}");
    let line = failed("pull_image");
    assert_eq!(line["level"], "ERROR");
    let text = line["fields"]["error"].as_str().unwrap();
    assert!(
        text.contains("127.0.0.1:1/a/b") && text.contains("refused"),
        "{text}"
    );
    assert!(pull.message().ends_with(text), "{pull}");
    for secret in ["password", "authorization"] {
        assert!(!log.to_lowercase().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_begin_and_end() {
    let node = Node::without_daemon(&[]).await.unwrap();
    let path = node.dir().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let corten = binary("corten").unwrap().display().to_string();
    let mut starter = node
        .command("env")
        .arg(format!("NOTIFY_SOCKET={}", path.display()))
        .arg(corten)
        .args(node.serve_arguments())
        .stderr(fs::File::create(node.dir().join("corten.log")).unwrap())
        .spawn()
        .unwrap();
    let told = |word: &str| {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        assert!(message.lines().any(|line| line == word), "{message}");
    };
    told("READY=1");
    // Whoever is told so may connect.
    let mut runtime = node.runtime().await.unwrap();
    runtime
        .version(cri::VersionRequest::default())
        .await
        .unwrap();
    drop(runtime);
    node.shell(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" != corten ] || kill ${p#/proc/}; done",
    )
    .unwrap();
    told("STOPPING=1");
    assert!(starter.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_file_is_obeyed_and_flags_win() {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    let file = node.dir().join("config.toml");
    fs::write(
        &file,
        "log_level = \"error\"\nlog_format = \"json\"\n[cni]\ndev_network = true\n[container]\npids_limit = 77\nlog_line_max = 256\n",
    )
    .unwrap();
    node.add_options(["--config".into(), file.display().to_string()]);
    node.add_options(["--pids-limit".into(), "78".into()]);
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let status = runtime
        .status(cri::StatusRequest { verbose: true })
        .await
        .unwrap()
        .into_inner();
    let config: Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(config["container"]["pids_limit"], 78);
    assert_eq!(config["cni"]["dev_network"], true);
    let config = pod::logged(&node, pod::pod("configured"));
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let long = pod::container(
        "long",
        "seq -s '' 1 200; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null",
    );
    let id = pod::run(&mut runtime, &pod_id, &long).await.unwrap();
    pod::exited(&runtime, &id).await.unwrap();
    let log = fs::read_to_string(node.dir().join("logs/long.log")).unwrap();
    let part = log
        .lines()
        .next()
        .unwrap()
        .split_once("stdout P ")
        .unwrap()
        .1;
    assert_eq!(part.len(), 256);
    assert!(log.ends_with("stdout F 78\n"), "{log}");
    // The log's level of the command line is the harness's own.
    assert!(
        node.log().lines().all(|line| line.starts_with('{')),
        "{}",
        node.log()
    );
}
