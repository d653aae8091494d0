//! What plugins are told, and what becomes of pods whose plugins fail: networks of scripts, and sysctls of their interfaces.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use corten_proto::cri::{self, NamespaceMode, PodSandboxState, Protocol};
use corten_test::{image, leftovers::Leftovers, node::Node, plugins, pod, wait::until};
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

/// A pod with ids of its own.
fn with_users(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    let ids = vec![cri::IdMapping {
        host_id: 200_000,
        container_id: 0,
        length: 65_536,
    }];
    let context = config.linux.as_mut().unwrap().security_context.as_mut();
    let options = context.unwrap().namespace_options.as_mut();
    options.unwrap().userns_options = Some(cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    });
    config
}

/// Runs a pod with these sysctls and a container, and reads others in it.
async fn sysctls(
    runtime: &mut pod::Runtime,
    mut config: cri::PodSandboxConfig,
    set: &[(&str, &str)],
    read: &[&str],
) -> Result<Vec<String>, tonic::Status> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    config.linux.as_mut().unwrap().sysctls = set.iter().map(owned).collect();
    let id = pod::run_pod(runtime, &config).await?;
    let container = pod::container("sh", "sleep 1000");
    let container = pod::run(runtime, &id, &container).await.unwrap();
    let script = format!("cd /proc/sys; cat {}", read.join(" "));
    let told = pod::output(runtime, &container, &script).await.unwrap();
    pod::remove_pod(runtime, &id).await.unwrap();
    Ok(told.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_of_interfaces_are_set_and_defaults_are_for_later_ones() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let unset = [
        "net/ipv4/conf/eth0/arp_ignore",
        "net/ipv6/conf/eth0/hop_limit",
    ];
    let plain = pod::pod("plain");
    let untouched = sysctls(&mut runtime, plain, &[], &unset).await.unwrap();
    assert_ne!(untouched, ["2", "33"]);
    let set = [
        ("net.ipv4.conf.eth0.rp_filter", "2"),
        ("net.ipv4.conf.default.arp_ignore", "2"),
        ("net.ipv6.conf.default.hop_limit", "33"),
        // What names the interface counts, though `all` is set, too.
        ("net.ipv4.conf.all.forwarding", "1"),
        ("net.ipv4.conf.eth0.forwarding", "0"),
        ("net.ipv6.conf.eth0.disable_ipv6", "1"),
        ("net.core.somaxconn", "77"),
        ("kernel.msgmax", "4242"),
        ("net.ipv4.ip_unprivileged_port_start", "1000"),
        ("net.ipv4.ping_group_range", "5 7"),
    ];
    let read = [
        "net/ipv4/conf/eth0/rp_filter",
        "net/ipv4/conf/default/arp_ignore",
        "net/ipv6/conf/default/hop_limit",
        "net/ipv4/conf/all/forwarding",
        "net/ipv4/conf/eth0/forwarding",
        "net/ipv6/conf/eth0/disable_ipv6",
        "net/core/somaxconn",
        "kernel/msgmax",
        "net/ipv4/ip_unprivileged_port_start",
        "net/ipv4/ping_group_range",
    ];
    let all = [&read[..], &unset[..]].concat();
    let mut want = vec!["2", "2", "33", "1", "0", "1", "77", "4242", "1000", "5\t7"];
    want.extend(untouched.iter().map(String::as_str));
    for config in [pod::pod("tuned"), with_users(pod::pod("users"))] {
        let got = sysctls(&mut runtime, config, &set, &all).await.unwrap();
        assert_eq!(got, want);
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

/// A plugin's sysctl, and an interface with a dot in its name, which only the plugin makes.
#[tokio::test(flavor = "multi_thread")]
async fn sysctls_come_after_the_plugins() {
    let mut node = plugins::node(&[]).await.unwrap();
    plugins::install(
        &node,
        "making",
        r#"cat > /dev/null
        [ $CNI_COMMAND = ADD ] || exit 0
        nsenter --net=$CNI_NETNS sh -ec '
            ip link add eth0.100 type veth peer name peer
            echo 11 > /proc/sys/net/core/somaxconn' >&2 || exit
        echo '{ "ips": [{ "address": "10.79.0.9/24" }] }'"#,
    )
    .unwrap();
    plugins::write_list(&node, &json!([{ "type": "making" }])).unwrap();
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let read = ["net/core/somaxconn", "net/ipv4/conf/eth0.100/rp_filter"];
    for name in [
        "net.ipv4.conf.eth0/100.rp_filter",
        "net/ipv4/conf/eth0.100/rp_filter",
    ] {
        let set = [(name, "2"), ("net.core.somaxconn", "99")];
        let got = sysctls(&mut runtime, pod::pod("made"), &set, &read);
        assert_eq!(got.await.unwrap(), ["99", "2"], "{name}");
    }
    // One that nothing has made is named, and the pod is undone, network and all.
    let set = [("net.ipv4.conf.eth7.rp_filter", "2")];
    let refused = sysctls(&mut runtime, pod::pod("lost"), &set, &read).await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("eth7/rp_filter"), "{refused}");
    Leftovers::settle(&node, &before).await.unwrap();
}
