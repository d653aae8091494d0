//! A node with a pod that has a user namespace, and what such pods ask for.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tonic::Code;

/// Root of the pods, on the host.
pub(crate) const ROOT: u32 = 200_000;
pub(crate) const LENGTH: u32 = 65_536;

pub(crate) fn ids(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
    cri::IdMapping {
        host_id,
        container_id,
        length,
    }
}

pub(crate) fn users() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: vec![ids(0, ROOT, LENGTH)],
        gids: vec![ids(0, ROOT, LENGTH)],
    }
}

pub(crate) fn options(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}

/// `config` with a user namespace.
pub(crate) fn with_users(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    options(&mut config).userns_options = Some(users());
    config
}

pub(crate) fn add_capabilities(config: &mut cri::ContainerConfig, names: &[&str]) {
    pod::security(config).capabilities = Some(cri::Capability {
        add_capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    });
}

/// With the pod's ids.
pub(crate) fn mapped(source: &Path, target: &str) -> cri::Mount {
    cri::Mount {
        uid_mappings: users().uids,
        gid_mappings: users().gids,
        ..pod::mount(source, target)
    }
}

pub(crate) fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

/// A node with a pod that has a user namespace.
pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) before: Leftovers,
    pub(crate) runtime: pod::Runtime,
    pub(crate) pod: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::of(pod::pod("users")).await
    }

    pub(crate) async fn of(config: cri::PodSandboxConfig) -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let before = Leftovers::count(&node).unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, with_users(config));
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self {
            node,
            before,
            runtime,
            pod,
        }
    }

    /// Runs a sleeping container as `change` makes it.
    pub(crate) async fn run(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> String {
        let mut config = pod::container(name, "sleep 1000");
        change(&mut config);
        pod::run(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap()
    }

    pub(crate) async fn output(&mut self, container: &str, script: &str) -> String {
        pod::output(&mut self.runtime, container, script)
            .await
            .unwrap()
    }

    /// The script fails; what it writes to standard error.
    pub(crate) async fn refused(&mut self, container: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime, container, script)
            .await
            .unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
        String::from_utf8(done.stderr).unwrap()
    }

    /// CreateContainer fails; how.
    pub(crate) async fn create_fails(&mut self, config: &cri::ContainerConfig) -> (Code, String) {
        let error = pod::create(&mut self.runtime, &self.pod, config)
            .await
            .unwrap_err();
        told(&error)
    }

    pub(crate) async fn end(mut self) {
        pod::remove_pod(&mut self.runtime, &self.pod).await.unwrap();
        Leftovers::settle(&self.node, &self.before).await.unwrap();
    }
}

pub(crate) fn told(status: &tonic::Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}
