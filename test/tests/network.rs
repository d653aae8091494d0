//! Pods on networks: reached, translated, and undone when a plugin fails.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri::{self, Protocol};
use corten_test::{image, leftovers::Leftovers, node::Node, plugins, pod, wait::until};
use nix::sys::signal::Signal;
use serde_json::json;

const HTTPD: &str = "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 80 -h /www";

fn write_conflist(node: &Node, plugins: &serde_json::Value) {
    plugins::write_list(node, plugins).unwrap();
}

/// A program of the test in the daemon's --cni-bin-dir.
fn write_plugin(node: &Node, name: &str, script: &str) {
    plugins::install(node, name, script).unwrap();
}

/// A node whose daemon looks for plugins in the test's own directory, too.
async fn node_with_plugins(options: &[&str]) -> Node {
    plugins::node(options).await.unwrap()
}

async fn pod_status(runtime: &mut pod::Runtime, id: &str) -> cri::PodSandboxStatus {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.into(),
        verbose: false,
    };
    let reply = runtime.pod_sandbox_status(request).await.unwrap();
    reply.into_inner().status.unwrap()
}

async fn ip(runtime: &mut pod::Runtime, id: &str) -> String {
    pod_status(runtime, id).await.network.unwrap().ip
}

async fn fetch(node: &Node, command: &str) -> String {
    until(|| async { node.shell(command) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_the_host_and_host_ports_reach_each_other() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("server");
    config.port_mappings = vec![cri::PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 80,
        host_port: 8081,
        ..Default::default()
    }];
    let server = pod::run_pod(&mut runtime, &config).await.unwrap();
    pod::run(&mut runtime, &server, &pod::container("server", HTTPD))
        .await
        .unwrap();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: server.clone(),
        verbose: true,
    };
    let status = runtime
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
    let ip = status.status.unwrap().network.unwrap().ip;
    assert!(status.info["info"].contains(&ip), "{}", status.info["info"]);
    let client = pod::run_pod(&mut runtime, &pod::pod("client"))
        .await
        .unwrap();
    let shell = pod::container("client", "sleep 1000");
    let shell = pod::run(&mut runtime, &client, &shell).await.unwrap();

    let from_host = fetch(&node, &format!("busybox wget -qO- http://{ip}/")).await;
    assert_eq!(from_host, "server\n");
    let get = format!("wget -qO- http://{ip}/");
    assert_eq!(
        pod::output(&mut runtime, &shell, &get).await.unwrap(),
        "server\n"
    );
    let by_port = fetch(&node, "busybox wget -qO- http://127.0.0.1:8081/").await;
    assert_eq!(by_port, "server\n");

    // A second pod cannot have the port.
    config.metadata = pod::pod("second").metadata;
    let error = pod::run_pod(&mut runtime, &config).await.unwrap_err();
    assert!(format!("{error:#}").contains("8081"), "{error:#}");
    for pod in [&server, &client] {
        pod::remove_pod(&mut runtime, pod).await.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_macvlan_pod_is_reached_by_a_neighbour() {
    let mut node = node_with_plugins(&[]).await;
    node.shell(
        "ip netns add neighbour; ip link add parent0 type veth peer name peer0; ip link set parent0 up; \
         ip link set peer0 netns neighbour; ip -n neighbour addr add 10.77.0.100/24 dev peer0; \
         ip -n neighbour link set peer0 up",
    )
    .unwrap();
    let addresses = node.dir().join("addresses");
    write_conflist(
        &node,
        &json!([{
            "type": "macvlan",
            "master": "parent0",
            "mode": "bridge",
            "ipam": { "type": "host-local", "subnet": "10.77.0.0/24", "dataDir": addresses },
        }]),
    );
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("far")).await.unwrap();
    pod::run(&mut runtime, &id, &pod::container("far", HTTPD))
        .await
        .unwrap();
    let ip = ip(&mut runtime, &id).await;
    let get = format!("ip netns exec neighbour busybox wget -qO- http://{ip}/");
    assert_eq!(fetch(&node, &get).await, "far\n");
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_plugin_is_quoted_and_leaves_nothing() {
    let mut node = node_with_plugins(&[]).await;
    let words =
        r#"echo '{"code": 11, "msg": "no luck today", "details": "the cable is out"}'; exit 1"#;
    write_plugin(
        &node,
        "unlucky",
        &format!("[ $CNI_COMMAND = DEL ] || {{ {words}; }}"),
    );
    let subnet = json!({ "type": "host-local", "subnet": "10.78.0.0/24" });
    write_conflist(
        &node,
        &json!([{ "type": "bridge", "bridge": "br-test", "isGateway": true, "ipam": subnet }, { "type": "unlucky" }]),
    );
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let error = pod::run_pod(&mut runtime, &pod::pod("poor"))
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    for want in ["unlucky", "no luck today", "the cable is out", "poor"] {
        assert!(text.contains(want), "{want}: {text}");
    }
    let list = cri::ListPodSandboxRequest::default();
    assert!(
        runtime
            .list_pod_sandbox(list)
            .await
            .unwrap()
            .into_inner()
            .items
            .is_empty()
    );
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_stays_listed_until_its_network_is_taken_away() {
    let mut node = node_with_plugins(&[]).await;
    let stuck = node.dir().join("stuck");
    write_plugin(
        &node,
        "sticky",
        &format!(
            r#"case $CNI_COMMAND in
            ADD) echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.79.0.9/24"}}]}}' ;;
            DEL) [ ! -e {} ] || {{ echo '{{"code": 100, "msg": "it sticks"}}'; exit 1; }} ;;
            esac"#,
            stuck.display()
        ),
    );
    write_conflist(&node, &json!([{ "type": "sticky" }]));
    node.start_daemon().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::pod("glued");
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    assert_eq!(ip(&mut runtime, &id).await, "10.79.0.9");
    fs::write(&stuck, "").unwrap();
    for _ in 0..2 {
        let refused = pod::remove_pod(&mut runtime, &id).await.unwrap_err();
        let text = format!("{refused:#}");
        assert!(
            text.contains("sticky") && text.contains("it sticks"),
            "{text}"
        );
        let status = pod_status(&mut runtime, &id).await;
        assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
        // The next daemon knows as much.
        node.end_daemon(Signal::SIGKILL).unwrap();
        node.start_daemon().await.unwrap();
        runtime = node.runtime().await.unwrap();
    }
    fs::remove_file(&stuck).unwrap();
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
    let again = pod::run_pod(&mut runtime, &config).await.unwrap();
    pod::remove_pod(&mut runtime, &again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_plugin_is_named_and_ended() {
    let mut node = node_with_plugins(&["--cni-plugin-timeout", "1"]).await;
    write_plugin(&node, "sleepy", "[ $CNI_COMMAND = DEL ] || sleep 1003");
    write_conflist(&node, &json!([{ "type": "sleepy" }]));
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let error = pod::run_pod(&mut runtime, &pod::pod("patient"))
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("sleepy") && text.contains("1s"), "{text}");
    let left = node
        .shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        .unwrap();
    assert!(!left.contains("sleep 1003"), "{left}");
    Leftovers::settle(&node, &before).await.unwrap();
}

async fn network_ready(runtime: &mut pod::Runtime) -> cri::RuntimeCondition {
    let request = cri::StatusRequest::default();
    let status = runtime.status(request).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    conditions
        .into_iter()
        .find(|condition| condition.r#type == "NetworkReady")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configuration_the_network_is_not_ready_and_says_why() {
    let node = Node::start_with(&[]).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let network = network_ready(&mut runtime).await;
    assert!(
        !network.status && network.message.contains("net.d"),
        "{}",
        network.message
    );
    // A configuration is taken without a restart; a plugin that is not there is named.
    write_conflist(&node, &json!([{ "type": "absent" }]));
    let network = network_ready(&mut runtime).await;
    assert!(network.message.contains("absent"), "{}", network.message);
    // Pods on the host's network need none.
    pod::run_pod(&mut runtime, &pod::host_network_pod("host"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_outlive_the_daemon_and_are_freed_after() {
    let mut node = Node::start().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("lasting"))
        .await
        .unwrap();
    let then = ip(&mut runtime, &id).await;
    node.end_daemon(Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    assert_eq!(ip(&mut runtime, &id).await, then);
    let other = pod::run_pod(&mut runtime, &pod::pod("other"))
        .await
        .unwrap();
    assert_ne!(ip(&mut runtime, &other).await, then);
    for pod in [&id, &other] {
        pod::remove_pod(&mut runtime, pod).await.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}
