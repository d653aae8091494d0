//! Clients that leave and try again: the same id or a clean new one, and nothing twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{future::Future, time::Duration};

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tonic::Code;

/// How often each RPC is given up, at moments from the first to well after its end.
const POINTS: u32 = 20;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

/// Gives the call up at point `point` of [`POINTS`].
async fn cut<T>(point: u32, longest: Duration, call: impl Future<Output = T>) {
    let _ = tokio::time::timeout(longest * point / POINTS, call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_runs_at_once_give_one_pod() {
    let node = node().await;
    let (mut one, mut two) = (node.runtime().await.unwrap(), node.runtime().await.unwrap());
    let config = pod::pod("twins");
    let (a, b) = tokio::join!(
        pod::run_pod(&mut one, &config),
        pod::run_pod(&mut two, &config)
    );
    assert_eq!(a.unwrap(), b.unwrap());
    let pods = one
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items;
    assert_eq!(pods.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_use_is_refused() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::pod("taken");
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    pod::create(&mut runtime, &id, &pod::container("taken", "true"))
        .await
        .unwrap();
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let error = runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains(&id), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_replaces_a_pod_that_nobody_knows() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("changed");
    let first = pod::run_pod(&mut runtime, &config).await.unwrap();
    config.labels.insert("now".into(), "different".into());
    let second = pod::run_pod(&mut runtime, &config).await.unwrap();
    assert_ne!(first, second);
    let pods = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items;
    assert_eq!(
        pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(),
        [&second]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_may_be_given_up_anywhere() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    for point in 0..POINTS {
        let runtime = node.runtime().await.unwrap();
        let (mut first, mut again) = (runtime.clone(), runtime);
        let config = pod::pod("given-up");
        cut(
            point,
            Duration::from_millis(16),
            pod::run_pod(&mut first, &config),
        )
        .await;
        let pod_id = pod::run_pod(&mut again, &config).await.unwrap();
        let pods = again
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await
            .unwrap()
            .into_inner()
            .items;
        assert_eq!(
            pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(),
            [&pod_id]
        );

        let container = pod::container("given-up", "sleep 1000");
        cut(
            point,
            Duration::from_millis(16),
            pod::create(&mut first, &pod_id, &container),
        )
        .await;
        let id = pod::create(&mut again, &pod_id, &container).await.unwrap();
        let all = again
            .list_containers(cri::ListContainersRequest::default())
            .await
            .unwrap()
            .into_inner()
            .containers;
        assert_eq!(
            all.iter()
                .map(|container| &container.id)
                .collect::<Vec<_>>(),
            [&id]
        );

        cut(point, Duration::from_millis(6), pod::start(&mut first, &id)).await;
        // A second start is refused once the first is over, whether its caller waited or not.
        let _ = pod::start(&mut again, &id).await;
        let status = pod::status(&mut again, &id).await.unwrap();
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerRunning,
            "{}",
            status.message
        );

        cut(
            point,
            Duration::from_millis(12),
            pod::stop(&mut first, &id, 0),
        )
        .await;
        pod::stop(&mut again, &id, 0).await.unwrap();
        assert_eq!(pod::status(&mut again, &id).await.unwrap().exit_code, 137);

        let remove = cri::RemoveContainerRequest { container_id: id };
        cut(
            point,
            Duration::from_millis(6),
            first.remove_container(remove.clone()),
        )
        .await;
        again.remove_container(remove).await.unwrap();
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_id.clone(),
        };
        cut(
            point,
            Duration::from_millis(12),
            first.stop_pod_sandbox(stop.clone()),
        )
        .await;
        again.stop_pod_sandbox(stop).await.unwrap();
        let remove = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod_id,
        };
        cut(
            point,
            Duration::from_millis(6),
            first.remove_pod_sandbox(remove.clone()),
        )
        .await;
        again.remove_pod_sandbox(remove).await.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}
