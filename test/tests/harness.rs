//! The tests' own eyes: what a pod has is counted, and is missed when it is gone.
#![allow(clippy::unwrap_used, reason = "tests")]

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod};

#[tokio::test(flavor = "multi_thread")]
async fn the_count_sees_all_that_a_pod_has() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("counted");
    config.port_mappings = vec![cri::PortMapping {
        container_port: 80,
        host_port: 8080,
        ..Default::default()
    }];
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let with_pod = Leftovers::count(&node).unwrap();
    pod::run(&mut runtime, &id, &pod::container("one", "sleep 1000"))
        .await
        .unwrap();
    let with_container = Leftovers::count(&node).unwrap();

    assert!(with_pod.mounts.len() > before.mounts.len());
    assert!(with_pod.namespaces.len() > before.namespaces.len());
    assert!(with_pod.addresses.len() > before.addresses.len());
    assert!(with_pod.links.len() > before.links.len());
    assert!(with_pod.firewall.len() > before.firewall.len());
    assert!(with_pod.files.len() > before.files.len());
    assert!(with_container.files.len() > with_pod.files.len());
    assert!(with_container.processes.len() > with_pod.processes.len());
    assert!(with_container.cgroups.len() > with_pod.cgroups.len());
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_count_sees_an_image() {
    let node = Node::start_with(&[]).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    image::load_busybox(&node).await.unwrap();
    let after = Leftovers::count(&node).unwrap();
    assert!(after.files.len() > before.files.len(), "{after:?}");
}
