//! Lists and their filters.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use corten_proto::cri::{self, ContainerState, PodSandboxState};
use corten_test::{image, node::Node, pod};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

fn set<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

async fn pods(runtime: &mut pod::Runtime, filter: cri::PodSandboxFilter) -> BTreeSet<String> {
    let request = cri::ListPodSandboxRequest {
        filter: Some(filter),
    };
    let reply = runtime.list_pod_sandbox(request).await.unwrap();
    set(reply.into_inner().items.iter().map(|pod| &pod.id))
}

async fn containers(runtime: &mut pod::Runtime, filter: cri::ContainerFilter) -> BTreeSet<String> {
    let request = cri::ListContainersRequest {
        filter: Some(filter),
    };
    let reply = runtime.list_containers(request).await.unwrap();
    set(reply
        .into_inner()
        .containers
        .iter()
        .map(|container| &container.id))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_filtered_by_id_state_and_labels() {
    let node = Node::start().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut ids = Vec::new();
    for (name, tier) in [("one", "front"), ("two", "front"), ("three", "back")] {
        let mut config = pod::host_network_pod(name);
        config.labels = labels(&[("tier", tier), ("name", name)]);
        ids.push(pod::run_pod(&mut runtime, &config).await.unwrap());
    }
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: ids[1].clone(),
    };
    runtime.stop_pod_sandbox(request).await.unwrap();
    let by_label = |pairs: &[(&str, &str)]| cri::PodSandboxFilter {
        label_selector: labels(pairs),
        ..Default::default()
    };
    let by_id = |id: &str| cri::PodSandboxFilter {
        id: id.into(),
        ..Default::default()
    };
    let by_state = |state: PodSandboxState| {
        Some(cri::PodSandboxStateValue {
            state: state.into(),
        })
    };
    assert_eq!(pods(&mut runtime, Default::default()).await, set(&ids));
    assert_eq!(
        pods(&mut runtime, by_label(&[("tier", "front")])).await,
        set(&ids[..2])
    );
    let both = by_label(&[("tier", "front"), ("name", "one")]);
    assert_eq!(pods(&mut runtime, both).await, set(&ids[..1]));
    assert_eq!(
        pods(&mut runtime, by_label(&[("tier", "none")])).await,
        set([])
    );
    assert_eq!(pods(&mut runtime, by_id(&ids[2])).await, set(&ids[2..]));
    assert_eq!(
        pods(&mut runtime, by_id(&ids[2][..13])).await,
        set(&ids[2..])
    );
    assert_eq!(pods(&mut runtime, by_id("absent")).await, set([]));
    let mut filter = by_label(&[("tier", "front")]);
    filter.state = by_state(PodSandboxState::SandboxReady);
    assert_eq!(pods(&mut runtime, filter).await, set(&ids[..1]));
    let mut filter = by_id(&ids[2]);
    filter.state = by_state(PodSandboxState::SandboxNotready);
    assert_eq!(pods(&mut runtime, filter).await, set([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_filtered_by_id_pod_state_and_labels() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let (mut pod_ids, mut ids) = (Vec::new(), Vec::new());
    for pod_name in ["one", "two"] {
        let config = pod::host_network_pod(pod_name);
        let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
        for name in ["created", "running", "exited"] {
            let mut config = pod::container(name, "sleep 1000");
            config.labels = labels(&[("name", name), ("pod", pod_name)]);
            let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
            if name != "created" {
                pod::start(&mut runtime, &id).await.unwrap();
            }
            if name == "exited" {
                pod::stop(&mut runtime, &id, 0).await.unwrap();
            }
            ids.push(id);
        }
        pod_ids.push(pod_id);
    }
    let of_pod = |pod: &str| cri::ContainerFilter {
        pod_sandbox_id: pod.into(),
        ..Default::default()
    };
    let in_state = |state: ContainerState| cri::ContainerFilter {
        state: Some(cri::ContainerStateValue {
            state: state.into(),
        }),
        ..Default::default()
    };
    assert_eq!(
        containers(&mut runtime, Default::default()).await,
        set(&ids)
    );
    assert_eq!(
        containers(&mut runtime, of_pod(&pod_ids[1])).await,
        set(&ids[3..])
    );
    assert_eq!(
        containers(&mut runtime, of_pod(&pod_ids[1][..13])).await,
        set(&ids[3..])
    );
    assert_eq!(containers(&mut runtime, of_pod("absent")).await, set([]));
    for (state, at) in [
        (ContainerState::ContainerCreated, 0),
        (ContainerState::ContainerRunning, 1),
        (ContainerState::ContainerExited, 2),
    ] {
        let seen = containers(&mut runtime, in_state(state)).await;
        assert_eq!(seen, set([&ids[at], &ids[at + 3]]), "{state:?}");
    }
    let mut filter = of_pod(&pod_ids[0]);
    filter.label_selector = labels(&[("name", "running")]);
    assert_eq!(
        containers(&mut runtime, filter.clone()).await,
        set([&ids[1]])
    );
    filter.id = ids[4].clone();
    assert_eq!(containers(&mut runtime, filter).await, set([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_comes_back_unchanged_also_after_a_restart() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let odd = labels(&[
        ("a", ""),
        ("", "b"),
        ("io.kubernetes.x/y", "ü\n\"{}"),
        ("z", &"long".repeat(5000)),
    ]);
    let mut config = pod::host_network_pod("kept");
    (config.labels, config.annotations) = (odd.clone(), odd.clone());
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let mut container = pod::container("kept", "sleep 1000");
    (container.labels, container.annotations) = (odd.clone(), odd.clone());
    container.metadata.as_mut().unwrap().attempt = 7;
    let id = pod::run(&mut runtime, &pod_id, &container).await.unwrap();
    let first = pod::status(&mut runtime, &id).await.unwrap();
    node.end_daemon(nix::sys::signal::Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod_id,
        verbose: false,
    };
    let pod = runtime
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    assert_eq!(
        (&pod.labels, &pod.annotations, pod.metadata),
        (&odd, &odd, config.metadata)
    );
    let status = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!((&status.labels, &status.annotations), (&odd, &odd));
    assert_eq!(status.metadata, container.metadata);
    assert_eq!(status, first);
}
