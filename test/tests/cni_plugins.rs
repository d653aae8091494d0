//! What plugins are told, and what becomes of pods whose plugins fail: networks of scripts.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use corten_proto::cri::{self, PodSandboxState, Protocol};
use corten_test::{leftovers::Leftovers, node::Node, plugins, pod, wait::until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tonic::Code;

/// Answers an ADD with an address, or with what the plugin before has printed.
const CHAINED: &str = r#"
    input=$(cat)
    echo "$input" > "$0.$CNI_COMMAND"
    echo "$CNI_COMMAND $(basename $0)" >> "$(dirname $0)/log"
    [ "$CNI_COMMAND" = ADD ] || exit 0
    case $input in
    *prevResult*) ;;
    *) echo '{ "cniVersion": "1.0.0", "ips": [{ "address": "10.79.0.9/24" }] }' ;;
    esac"#;

fn bridge(addresses: &PathBuf) -> Value {
    let ipam = json!({ "type": "host-local", "subnet": "10.78.0.0/24", "dataDir": addresses });
    json!({ "type": "bridge", "bridge": "br-test", "isGateway": true, "ipam": ipam })
}

fn addresses(node: &Node) -> PathBuf {
    node.dir().join("addresses")
}

/// The files with an address that is given.
fn given(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(addresses(node).join("test")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).collect()
}

/// What a plugin was given with this command.
fn input(node: &Node, plugin: &str, command: &str) -> Value {
    let path = plugins::dir(node).join(format!("{plugin}.{command}"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

async fn pod_status(runtime: &mut pod::Runtime, id: &str) -> cri::PodSandboxStatus {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.into(),
        verbose: false,
    };
    let reply = runtime.pod_sandbox_status(request).await.unwrap();
    reply.into_inner().status.unwrap()
}

async fn stop_pod(runtime: &mut pod::Runtime, id: &str) -> Result<(), tonic::Status> {
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: id.into(),
    };
    runtime.stop_pod_sandbox(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_keeps_the_pod_and_not_its_address() {
    let mut node = plugins::node(&[]).await.unwrap();
    plugins::install(&node, "tail", CHAINED).unwrap();
    plugins::write_list(
        &node,
        &json!([bridge(&addresses(&node)), { "type": "tail" }]),
    )
    .unwrap();
    node.start_daemon().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("kept")).await.unwrap();
    assert_eq!(given(&node), ["10.78.0.2"]);
    let program = plugins::dir(&node).join("tail");
    fs::remove_file(&program).unwrap();
    for _ in 0..2 {
        let refused = stop_pod(&mut runtime, &id).await.unwrap_err();
        for word in ["tail", "install it again", "kept"] {
            assert!(refused.message().contains(word), "{word}: {refused}");
        }
        let status = pod_status(&mut runtime, &id).await;
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        until(|| async {
            anyhow::ensure!(given(&node).is_empty(), "{:?}", given(&node));
            Ok(())
        })
        .await
        .unwrap();
        node.end_daemon(Signal::SIGKILL).unwrap();
        node.start_daemon().await.unwrap();
        runtime = node.runtime().await.unwrap();
    }
    plugins::install(&node, "tail", CHAINED).unwrap();
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    assert!(input(&node, "tail", "DEL")["prevResult"]["ips"][0]["address"] == "10.78.0.2/24");
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_gives_no_address_fails_the_pod() {
    let mut node = plugins::node(&[]).await.unwrap();
    plugins::install(
        &node,
        "poor",
        r#"cat > "$0.$CNI_COMMAND"; [ $CNI_COMMAND = DEL ] || echo '{ "cniVersion": "1.0.0", "interfaces": [] }'"#,
    )
    .unwrap();
    plugins::write_list(
        &node,
        &json!([bridge(&addresses(&node)), { "type": "poor" }]),
    )
    .unwrap();
    node.start_daemon().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let refused = pod::run_pod(&mut runtime, &pod::pod("poor")).await;
    let refused = refused.unwrap_err();
    for word in ["no address", "10-test.conflist", "eth0"] {
        assert!(refused.message().contains(word), "{word}: {refused}");
    }
    assert!(input(&node, "poor", "DEL").is_object());
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_the_first_versions_run() {
    let mut node = plugins::node(&[]).await.unwrap();
    plugins::install(
        &node,
        "old",
        r#"cat > "$0.$CNI_COMMAND"
        [ $CNI_COMMAND = DEL ] || echo '{ "ip4": { "ip": "10.79.0.9/24" }, "ip6": { "ip": "fd79::9/64" } }'"#,
    )
    .unwrap();
    plugins::write(
        &node,
        "10-test.conf",
        &json!({ "name": "test", "type": "old" }),
    )
    .unwrap();
    node.start_daemon().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    for version in [None, Some("0.1.0"), Some("0.2.0")] {
        let mut list = json!({ "name": "test", "plugins": [{ "type": "old" }] });
        if let Some(version) = version {
            list["cniVersion"] = json!(version);
        }
        let id = pod::run_pod(&mut runtime, &pod::pod("old")).await.unwrap();
        let network = pod_status(&mut runtime, &id).await.network.unwrap();
        assert_eq!(
            (&*network.ip, &*network.additional_ips[0].ip),
            ("10.79.0.9", "fd79::9")
        );
        pod::remove_pod(&mut runtime, &id).await.unwrap();
        // The next one.
        let _ = fs::remove_file(node.dir().join("net.d/10-test.conf"));
        plugins::write(&node, "20-test.conflist", &list).unwrap();
    }
    assert_eq!(input(&node, "old", "ADD")["cniVersion"], "0.1.0");
    Leftovers::settle(&node, &before).await.unwrap();
}

/// A pod that has something for every capability.
fn rich_pod() -> cri::PodSandboxConfig {
    let mut config = pod::pod("rich");
    config.annotations = BTreeMap::from([
        ("kubernetes.io/ingress-bandwidth".into(), "10M".into()),
        ("kubernetes.io/egress-bandwidth".into(), "1Gi".into()),
        ("example.com/key".into(), "value".into()),
    ]);
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.96.0.10".into()],
        searches: vec!["test.svc".into()],
        options: vec!["ndots:5".into()],
    });
    config.port_mappings = vec![cri::PortMapping {
        protocol: Protocol::Udp.into(),
        container_port: 53,
        host_port: 5353,
        ..Default::default()
    }];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_given_the_capabilities_that_they_ask_for() {
    let mut node = plugins::node(&[]).await.unwrap();
    plugins::install(&node, "asking", CHAINED).unwrap();
    plugins::install(&node, "modest", CHAINED).unwrap();
    let all = [
        "io.kubernetes.cri.pod-annotations",
        "bandwidth",
        "dns",
        "cgroupPath",
        "portMappings",
        "ipRanges",
        "ips",
        "mac",
        "aliases",
        "infinibandGUID",
        "deviceID",
    ];
    let asked: serde_json::Map<String, Value> = all
        .map(|name| (name.to_owned(), json!(true)))
        .into_iter()
        .collect();
    let network = json!([
        { "type": "asking", "capabilities": asked },
        { "type": "modest", "capabilities": { "dns": false } },
    ]);
    plugins::write_list(&node, &network).unwrap();
    node.start_daemon().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut config = rich_pod();
    let parent = format!("/corten/{}/pod-rich", node.instance().unwrap());
    config
        .linux
        .as_mut()
        .unwrap()
        .cgroup_parent
        .clone_from(&parent);
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    // What the pod was attached with counts, for the next daemon and whatever the configuration is by then.
    node.end_daemon(Signal::SIGKILL).unwrap();
    plugins::write_list(&node, &json!([{ "type": "modest" }])).unwrap();
    node.start_daemon().await.unwrap();
    runtime = node.runtime().await.unwrap();
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    let want = json!({
        "io.kubernetes.cri.pod-annotations": config.annotations,
        "bandwidth": {
            "ingressRate": 10_000_000, "ingressBurst": u32::MAX,
            "egressRate": 1u64 << 30, "egressBurst": u32::MAX,
        },
        "dns": { "servers": ["10.96.0.10"], "searches": ["test.svc"], "options": ["ndots:5"] },
        "cgroupPath": parent,
        "portMappings": [{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }],
    });
    for command in ["ADD", "DEL"] {
        assert_eq!(
            input(&node, "asking", command)["runtimeConfig"],
            want,
            "{command}"
        );
        let modest = input(&node, "modest", command);
        assert!(modest["runtimeConfig"].is_null(), "{command}: {modest}");
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

/// As containerd: a limit that cannot be read is refused, whether a plugin asks for it or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_bandwidth_that_is_no_rate_is_refused_by_name() {
    let node = Node::start().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    for value in ["fast", "1", "-5M"] {
        let name = "kubernetes.io/egress-bandwidth";
        let mut config = pod::pod("slow");
        config.annotations.insert(name.into(), value.into());
        let refused = pod::run_pod(&mut runtime, &config).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(name), "{refused}");
        // The host's network has no plugin.
        let mut config = pod::host_network_pod("fast");
        config.annotations.insert(name.into(), value.into());
        let id = pod::run_pod(&mut runtime, &config).await.unwrap();
        pod::remove_pod(&mut runtime, &id).await.unwrap();
    }
}
