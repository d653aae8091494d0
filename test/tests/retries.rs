//! Clients that leave and try again: the same id or a clean new one, and nothing twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, future::Future, time::Duration};

use corten_proto::cri;
use corten_test::{
    file_registry::FileRegistry, image, leftovers::Leftovers, node::Node, pod, wait::until,
};
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

/// A client that gives its calls up, and one that makes them again.
struct Pair {
    first: pod::Runtime,
    again: pod::Runtime,
    point: u32,
}

impl Pair {
    async fn make(&mut self) -> (String, String) {
        let (longest, config) = (Duration::from_millis(16), pod::pod("given-up"));
        cut(self.point, longest, pod::run_pod(&mut self.first, &config)).await;
        let pod_id = pod::run_pod(&mut self.again, &config).await.unwrap();
        let list = cri::ListPodSandboxRequest::default();
        let pods = self
            .again
            .list_pod_sandbox(list)
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
            self.point,
            longest,
            pod::create(&mut self.first, &pod_id, &container),
        )
        .await;
        let id = pod::create(&mut self.again, &pod_id, &container)
            .await
            .unwrap();
        let all = pod::containers(&mut self.again).await.unwrap();
        assert_eq!(
            all.iter()
                .map(|container| &container.id)
                .collect::<Vec<_>>(),
            [&id]
        );
        (pod_id, id)
    }

    async fn start_and_stop(&mut self, id: &str) {
        cut(
            self.point,
            Duration::from_millis(6),
            pod::start(&mut self.first, id),
        )
        .await;
        // Refused where the first start was answered just before it was given up.
        let _ = pod::start(&mut self.again, id).await;
        let status = pod::status(&mut self.again, id).await.unwrap();
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerRunning,
            "{}",
            status.message
        );
        cut(
            self.point,
            Duration::from_millis(12),
            pod::stop(&mut self.first, id, 0),
        )
        .await;
        pod::stop(&mut self.again, id, 0).await.unwrap();
        assert_eq!(
            pod::status(&mut self.again, id).await.unwrap().exit_code,
            137
        );
    }

    async fn remove(&mut self, pod_id: String, id: String) {
        let (short, long) = (Duration::from_millis(6), Duration::from_millis(12));
        let remove = cri::RemoveContainerRequest { container_id: id };
        cut(
            self.point,
            short,
            self.first.remove_container(remove.clone()),
        )
        .await;
        self.again.remove_container(remove).await.unwrap();
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_id.clone(),
        };
        cut(self.point, long, self.first.stop_pod_sandbox(stop.clone())).await;
        self.again.stop_pod_sandbox(stop).await.unwrap();
        let remove = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod_id,
        };
        cut(
            self.point,
            short,
            self.first.remove_pod_sandbox(remove.clone()),
        )
        .await;
        self.again.remove_pod_sandbox(remove).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_may_be_given_up_anywhere() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    for point in 0..POINTS {
        let runtime = node.runtime().await.unwrap();
        let mut pair = Pair {
            first: runtime.clone(),
            again: runtime,
            point,
        };
        let (pod_id, id) = pair.make().await;
        pair.start_and_stop(&id).await;
        pair.remove(pod_id, id).await;
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_may_be_given_up_anywhere() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    let (mut first, mut again) = (node.images().await.unwrap(), node.images().await.unwrap());
    let spec = || {
        Some(cri::ImageSpec {
            image: image::BUSYBOX.into(),
            ..Default::default()
        })
    };
    for point in 0..POINTS {
        let remove = cri::RemoveImageRequest { image: spec() };
        cut(
            point,
            Duration::from_millis(20),
            first.remove_image(remove.clone()),
        )
        .await;
        again.remove_image(remove).await.unwrap();
        let status = cri::ImageStatusRequest {
            image: spec(),
            verbose: false,
        };
        assert_eq!(
            again
                .image_status(status.clone())
                .await
                .unwrap()
                .into_inner()
                .image,
            None
        );
        image::load_busybox(&node).await.unwrap();
        assert!(
            again
                .image_status(status)
                .await
                .unwrap()
                .into_inner()
                .image
                .is_some()
        );
        let config = cri::NetworkConfig {
            pod_cidr: "10.9.0.0/16".into(),
        };
        let update = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig {
                network_config: Some(config),
            }),
        };
        let mut runtime = node.runtime().await.unwrap();
        cut(
            point,
            Duration::from_millis(2),
            runtime.update_runtime_config(update.clone()),
        )
        .await;
        runtime.update_runtime_config(update).await.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_may_be_given_up_anywhere() {
    let node = Node::start().await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    let before = Leftovers::count(&node).unwrap();
    let layer = node.dir().join("layer.tar");
    image::busybox_archive(node.dir()).unwrap();
    let layer = std::fs::read(layer).unwrap();
    registry.add("1", &layer, &serde_json::json!({})).unwrap();
    let image = || {
        Some(cri::ImageSpec {
            image: FileRegistry::reference(":1"),
            ..Default::default()
        })
    };
    let (mut first, mut again) = (node.images().await.unwrap(), node.images().await.unwrap());
    let mut ids = BTreeSet::new();
    for point in 0..POINTS {
        let pull = cri::PullImageRequest {
            image: image(),
            ..Default::default()
        };
        cut(
            point,
            Duration::from_millis(60),
            first.pull_image(pull.clone()),
        )
        .await;
        ids.insert(again.pull_image(pull).await.unwrap().into_inner().image_ref);
        let list = cri::ListImagesRequest::default();
        assert_eq!(
            again
                .list_images(list)
                .await
                .unwrap()
                .into_inner()
                .images
                .len(),
            1
        );
        let remove = cri::RemoveImageRequest { image: image() };
        again.remove_image(remove).await.unwrap();
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_and_new_logs_may_be_given_up_anywhere() {
    let node = node().await;
    let mut again = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::pod("given-up"));
    let pod_id = pod::run_pod(&mut again, &config).await.unwrap();
    let id = pod::container("given-up", "sleep 1000");
    let id = pod::run(&mut again, &pod_id, &id).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    for point in 0..POINTS {
        // Its connection ends with it, as a client's does that is killed.
        let mut first = node.runtime().await.unwrap();
        let exec = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["sleep".into(), "997".into()],
            timeout: 900,
        };
        cut(point, Duration::from_millis(20), first.exec_sync(exec)).await;
        let reopen = cri::ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        cut(
            point,
            Duration::from_millis(2),
            first.reopen_container_log(reopen.clone()),
        )
        .await;
        again.reopen_container_log(reopen).await.unwrap();
    }
    until(|| async {
        let count = "ps | grep -c 'sleep [9]97' || true";
        let left = pod::output(&mut again.clone(), &id, count).await?;
        anyhow::ensure!(left.trim() == "0", "{left} programs run on");
        Ok(())
    })
    .await
    .unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}
