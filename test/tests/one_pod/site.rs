//! A node, and containers that run parts of this very program.

use std::{env, fs, path::PathBuf};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{
    image,
    node::Node,
    pod,
    wait::{limit, until},
};
use tokio::time::timeout;

/// Set in containers: the parts that attack do nothing on the host.
const ATTACKS: &str = "CORTEN_ATTACKS";
/// Shared by all containers and the test.
pub(crate) const SHARED: &str = "/attack-shared";

pub(crate) fn is_in_container() -> bool {
    env::var_os(ATTACKS).is_some()
}

pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) runtime: pod::Runtime,
    pub(crate) shared: PathBuf,
    others: usize,
}

/// Namespace options with the pod's PID namespace, or one of each container, with or without a user namespace.
pub(crate) fn options(pid: NamespaceMode, users: bool) -> cri::NamespaceOption {
    let ids = || {
        vec![cri::IdMapping {
            container_id: 0,
            host_id: 300_000,
            length: 65_536,
        }]
    };
    let mut options = pod::namespaces(NamespaceMode::Pod, pid);
    options.userns_options = users.then(|| cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids(),
        gids: ids(),
    });
    options
}

impl Site {
    pub(crate) async fn new() -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let shared = node.dir().join("shared");
        fs::create_dir(&shared).unwrap();
        // Users of containers write there.
        node.shell(&format!("chmod 777 {}", shared.display()))
            .unwrap();
        let runtime = node.runtime().await.unwrap();
        Self {
            node,
            runtime,
            shared,
            others: 0,
        }
    }

    pub(crate) async fn run_pod(&self, name: &str, options: &cri::NamespaceOption) -> String {
        let mut config = pod::logged(&self.node, pod::pod(name));
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().namespace_options = Some(options.clone());
        self.soon(pod::run_pod(&mut self.runtime.clone(), &config))
            .await
    }

    /// A container that can run `/attack --exact PART`.
    pub(crate) fn attacker(
        &self,
        name: &str,
        options: &cri::NamespaceOption,
        capabilities: &[&str],
    ) -> cri::ContainerConfig {
        let mut config = pod::container(name, "sleep 1000");
        config.envs = vec![cri::KeyValue {
            key: ATTACKS.into(),
            value: "yes".into(),
        }];
        config.mounts = pod::own_program("/attack").unwrap().into();
        // Perl is there.
        config.mounts.push(pod::read_only("/usr", "/usr"));
        config.mounts.push(pod::mount(&self.shared, SHARED));
        pod::unconfine(&mut config);
        let security = pod::security(&mut config);
        security.namespace_options = Some(options.clone());
        security.capabilities = Some(cri::Capability {
            add_capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        });
        config
    }

    pub(crate) async fn run(&self, pod: &str, config: &cri::ContainerConfig) -> String {
        self.soon(pod::run(&mut self.runtime.clone(), pod, config))
            .await
    }

    /// Waits for an answer, for a while.
    pub(crate) async fn soon<T>(&self, call: impl Future<Output = pod::Reply<T>>) -> T {
        let answer = timeout(limit(), call).await;
        answer
            .unwrap_or_else(|_| panic!("the daemon does not answer"))
            .unwrap()
    }

    pub(crate) async fn wait_for(&self, name: &str) -> String {
        let read = || async { anyhow::Ok(fs::read_to_string(self.shared.join(name))?) };
        until(read).await.unwrap()
    }

    /// Pods of every kind come, run and go.
    pub(crate) async fn others_live(&mut self) {
        self.others += 1;
        for (pid, users) in [
            (NamespaceMode::Container, false),
            (NamespaceMode::Pod, false),
            (NamespaceMode::Pod, true),
        ] {
            let options = options(pid, users);
            let name = format!("other-{}-{}-{users}", self.others, i32::from(pid));
            let pod = self.run_pod(&name, &options).await;
            let mut config = pod::container(&name, "sleep 1000");
            pod::security(&mut config).namespace_options = Some(options);
            let id = self.run(&pod, &config).await;
            let mut runtime = self.runtime.clone();
            let said = self.soon(pod::exec(&mut runtime, &id, "echo alive")).await;
            assert_eq!(said.stdout, b"alive\n");
            self.soon(pod::remove_pod(&mut runtime, &pod)).await;
        }
    }
}
