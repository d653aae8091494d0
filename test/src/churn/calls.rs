//! The calls of a client, by the daemon of the moment.

use std::{sync::Arc, time::Duration};

use corten_proto::cri;

use super::world::{Call, Outcome, World};
use crate::{node::runtime_at, pod::Runtime};

/// Long enough for any command here.
const EXEC_SECONDS: i64 = 4;
/// Between two tries of what has to work in the end.
const AGAIN: Duration = Duration::from_millis(20);
const TRIES: u32 = 200;

/// One client's connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) world: Arc<World>,
    pub(super) client: u64,
    runtime: Option<(u64, Runtime)>,
    /// When the next call is given up.
    leaves: Option<Duration>,
}

impl Caller {
    pub(super) fn new(world: Arc<World>, client: u64) -> Self {
        Self {
            world,
            client,
            runtime: None,
            leaves: None,
        }
    }

    /// The same, of a client that gives its calls up after `limit`.
    pub(super) fn leaving(&self, limit: Option<Duration>) -> Self {
        Self {
            leaves: limit,
            ..self.clone()
        }
    }

    /// A connection to the daemon of now.
    async fn runtime(&mut self) -> Runtime {
        loop {
            let generation = self.world.up().await;
            match &self.runtime {
                Some((of, runtime)) if *of == generation => return runtime.clone(),
                _ => {}
            }
            match runtime_at(self.world.socket.clone()).await {
                Ok(runtime) => self.runtime = Some((generation, runtime)),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn call<'a>(&self, name: &'static str, id: &'a str) -> Call<'a> {
        Call {
            client: self.client,
            name,
            id,
            grace: Duration::ZERO,
            leaves: self.leaves,
        }
    }

    pub(super) async fn run_pod(mut self, config: &cri::PodSandboxConfig) -> Outcome<String> {
        let mut runtime = self.runtime().await;
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let name = config.hostname.clone();
        let call = self.call("RunPodSandbox", &name);
        let reply = self.world.call(&call, runtime.run_pod_sandbox(request));
        reply.await.map(|reply| reply.pod_sandbox_id)
    }

    pub(super) async fn create(
        mut self,
        pod: &str,
        config: &cri::ContainerConfig,
    ) -> Outcome<String> {
        let mut runtime = self.runtime().await;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: None,
        };
        let call = self.call("CreateContainer", pod);
        let reply = self.world.call(&call, runtime.create_container(request));
        reply.await.map(|reply| reply.container_id)
    }

    pub(super) async fn start(mut self, id: &str) -> Outcome<()> {
        let mut runtime = self.runtime().await;
        let request = cri::StartContainerRequest {
            container_id: id.into(),
        };
        let call = self.call("StartContainer", id);
        let reply = self.world.call(&call, runtime.start_container(request));
        reply.await.map(drop)
    }

    pub(super) async fn stop(mut self, id: &str, seconds: u32) -> Outcome<()> {
        let mut runtime = self.runtime().await;
        let request = cri::StopContainerRequest {
            container_id: id.into(),
            timeout: seconds.into(),
        };
        let call = Call {
            grace: Duration::from_secs(seconds.into()),
            ..self.call("StopContainer", id)
        };
        let reply = self.world.call(&call, runtime.stop_container(request));
        reply.await.map(drop)
    }

    pub(super) async fn remove(mut self, id: &str) -> Outcome<()> {
        let mut runtime = self.runtime().await;
        let request = cri::RemoveContainerRequest {
            container_id: id.into(),
        };
        let call = self.call("RemoveContainer", id);
        let reply = self.world.call(&call, runtime.remove_container(request));
        reply.await.map(drop)
    }

    pub(super) async fn stop_pod(mut self, id: &str) -> Outcome<()> {
        let mut runtime = self.runtime().await;
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        let call = self.call("StopPodSandbox", id);
        let reply = self.world.call(&call, runtime.stop_pod_sandbox(request));
        reply.await.map(drop)
    }

    pub(super) async fn remove_pod(mut self, id: &str) -> Outcome<()> {
        let mut runtime = self.runtime().await;
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        let call = self.call("RemovePodSandbox", id);
        let reply = self.world.call(&call, runtime.remove_pod_sandbox(request));
        reply.await.map(drop)
    }

    pub(super) async fn exec(mut self, id: &str, script: &str) -> Outcome<cri::ExecSyncResponse> {
        let mut runtime = self.runtime().await;
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: vec!["sh".into(), "-c".into(), script.into()],
            timeout: EXEC_SECONDS,
        };
        let call = self.call("ExecSync", id);
        self.world.call(&call, runtime.exec_sync(request)).await
    }

    pub(super) async fn status(mut self, id: &str) -> Outcome<cri::ContainerStatus> {
        let mut runtime = self.runtime().await;
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let call = self.call("ContainerStatus", id);
        let reply = self.world.call(&call, runtime.container_status(request));
        reply.await.map(|reply| reply.status.unwrap_or_default())
    }

    pub(super) async fn pod_status(mut self, id: &str) -> Outcome<cri::PodSandboxStatus> {
        let mut runtime = self.runtime().await;
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let call = self.call("PodSandboxStatus", id);
        let reply = self.world.call(&call, runtime.pod_sandbox_status(request));
        reply.await.map(|reply| reply.status.unwrap_or_default())
    }

    /// The pods with this label, or all.
    pub(super) async fn pods(
        mut self,
        label: Option<(&str, &str)>,
    ) -> Outcome<Vec<cri::PodSandbox>> {
        let mut runtime = self.runtime().await;
        let filter = label.map(|(key, value)| cri::PodSandboxFilter {
            label_selector: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        });
        let request = cri::ListPodSandboxRequest { filter };
        let call = self.call("ListPodSandbox", "");
        let reply = self.world.call(&call, runtime.list_pod_sandbox(request));
        reply.await.map(|reply| reply.items)
    }

    /// The containers with this label, or all.
    pub(super) async fn containers(
        mut self,
        label: Option<(&str, &str)>,
    ) -> Outcome<Vec<cri::Container>> {
        let mut runtime = self.runtime().await;
        let filter = label.map(|(key, value)| cri::ContainerFilter {
            label_selector: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        });
        let request = cri::ListContainersRequest { filter };
        let call = self.call("ListContainers", "");
        let reply = self.world.call(&call, runtime.list_containers(request));
        reply.await.map(|reply| reply.containers)
    }

    /// Stops and removes a pod, again and again until it is gone.
    pub(super) async fn take_away(&self, pod: &str) {
        for _ in 0..TRIES {
            let stopped = self.clone().stop_pod(pod).await;
            let removed = self.clone().remove_pod(pod).await;
            if let (Outcome::Done(()), Outcome::Done(())) = (stopped, removed) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.world
            .problem(&format!("pod {pod} cannot be removed, however often"));
    }
}

impl<T> Outcome<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(change(value)),
            Self::Refused => Outcome::Refused,
            Self::Cut => Outcome::Cut,
        }
    }
}
