//! A node with one pod and one image, which most tests of this program need.

use std::path::Path;

use corten_proto::cri;
use corten_test::{image, node::Node, pod, wait::until};
use serde_json::Value;

pub(crate) const IMAGE: &str = "test.example/trackers:1";

pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) runtime: pod::Runtime,
    pub(crate) pod: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(|_, _| Ok(())).await
    }

    /// A site whose image is busybox after a `change` of its files and its config.
    pub(crate) async fn with(change: impl FnOnce(&Path, &mut Value) -> anyhow::Result<()>) -> Self {
        Self::started_by("", change).await
    }

    /// The same, whose daemon is started by a shell after a `prelude`.
    pub(crate) async fn started_by(
        prelude: &str,
        change: impl FnOnce(&Path, &mut Value) -> anyhow::Result<()>,
    ) -> Self {
        let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
        node.set_prelude(prelude);
        node.start_daemon().await.unwrap();
        image::load_changed(&node, IMAGE, change).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let mut config = pod::logged(&node, pod::pod("trackers"));
        let linux = config.linux.as_mut().unwrap();
        // So that its containers may be.
        linux.security_context.as_mut().unwrap().privileged = true;
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    pub(crate) async fn create(&mut self, config: &cri::ContainerConfig) -> pod::Reply<String> {
        pod::create(&mut self.runtime, &self.pod, config).await
    }

    pub(crate) async fn try_run(&mut self, config: &cri::ContainerConfig) -> pod::Reply<String> {
        pod::run(&mut self.runtime, &self.pod, config).await
    }

    pub(crate) async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        self.try_run(config).await.unwrap()
    }

    pub(crate) async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    pub(crate) async fn exec(
        &mut self,
        id: &str,
        cmd: &[&str],
        timeout: i64,
    ) -> pod::Reply<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: cmd.iter().map(|word| (*word).into()).collect(),
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    pub(crate) async fn remove(&mut self, id: &str) -> pod::Reply<()> {
        let container_id = id.into();
        let request = cri::RemoveContainerRequest { container_id };
        self.runtime.remove_container(request).await.map(drop)
    }

    /// Waits until the container has said that it is ready.
    pub(crate) async fn ready(&self, config: &cri::ContainerConfig) {
        let log = self.node.dir().join("logs").join(&config.log_path);
        until(|| async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::ensure!(text.contains("ready"), "{text}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// A container that runs `script` in the site's image.
pub(crate) fn container(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = pod::container(name, script);
    config.image.as_mut().unwrap().image = IMAGE.into();
    config
}

/// One that runs this program.
pub(crate) fn program(name: &str, words: &[&str]) -> cri::ContainerConfig {
    let mut config = container(name, "");
    config.command = words.iter().map(|word| (*word).into()).collect();
    config
}

pub(crate) fn variable(key: &str, value: &[u8]) -> cri::KeyValue {
    cri::KeyValue {
        key: key.into(),
        value: value.into(),
    }
}
