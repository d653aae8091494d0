//! A CRI client that times what it asks for. It knows no runtime: both sides get equal requests.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::{
    self, NamespaceMode, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient, security_profile::ProfileType,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Seconds that the `true` of an ExecSync may take; never reached.
const EXEC_TIMEOUT: i64 = 30;
/// And that of a probe.
const PROBE_TIMEOUT: i64 = 1;

/// The runtime service of one side, on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What pods of one measurement have in common.
#[derive(Clone, Debug)]
pub(crate) struct PodKind {
    pub(crate) network: NamespaceMode,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) cgroup_parent: String,
    pub(crate) logs: PathBuf,
    /// Directories of the host, mounted as `/volumes/<number>`.
    pub(crate) volumes: Vec<PathBuf>,
    /// Of the container.
    pub(crate) seccomp: ProfileType,
}

/// A running pod with one running container.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    sandbox: String,
    container: String,
}

/// What each of the three RPCs of a pod's start took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTimes {
    pub(crate) run: Duration,
    pub(crate) create: Duration,
    pub(crate) start: Duration,
}

impl StartTimes {
    pub(crate) fn total(&self) -> Duration {
        self.run + self.create + self.start
    }
}

impl Client {
    /// Connects and asks for the version, so that a socket without a service is no client.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never resolved: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .context("connect")?;
        let mut client = Client {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        };
        client.version().await?;
        Ok(client)
    }

    pub(crate) async fn version(&mut self) -> Result<cri::VersionResponse> {
        let version = self.runtime.version(cri::VersionRequest::default()).await;
        Ok(version.context("Version")?.into_inner())
    }

    pub(crate) async fn pull_image(&mut self, name: &str) -> Result<()> {
        let request = cri::PullImageRequest {
            image: Some(image(name)),
            ..Default::default()
        };
        self.images.pull_image(request).await.context("PullImage")?;
        Ok(())
    }

    pub(crate) async fn remove_image(&mut self, name: &str) -> Result<()> {
        let request = cri::RemoveImageRequest {
            image: Some(image(name)),
        };
        let removed = self.images.remove_image(request).await;
        removed.context("RemoveImage")?;
        Ok(())
    }

    /// RunPodSandbox, CreateContainer and StartContainer, one after the other. `name` is new.
    pub(crate) async fn start_pod(
        &mut self,
        kind: &PodKind,
        name: &str,
    ) -> Result<(Pod, StartTimes)> {
        let (sandbox, run) = self.run_sandbox(kind, name).await?;
        let (container, [create, start]) = self.start_container(kind, name, &sandbox).await?;
        Ok((
            Pod { sandbox, container },
            StartTimes { run, create, start },
        ))
    }

    /// RunPodSandbox.
    pub(crate) async fn run_sandbox(
        &mut self,
        kind: &PodKind,
        name: &str,
    ) -> Result<(String, Duration)> {
        let request = cri::RunPodSandboxRequest {
            config: Some(sandbox_config(kind, name)),
            ..Default::default()
        };
        let began = Instant::now();
        let sandbox = self.runtime.run_pod_sandbox(request).await;
        let sandbox = sandbox.context("RunPodSandbox")?;
        let run = began.elapsed();
        Ok((sandbox.into_inner().pod_sandbox_id, run))
    }

    /// CreateContainer and StartContainer in the sandbox that was run as `name`; what each took.
    pub(crate) async fn start_container(
        &mut self,
        kind: &PodKind,
        name: &str,
        sandbox: &str,
    ) -> Result<(String, [Duration; 2])> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container_config(kind)),
            sandbox_config: Some(sandbox_config(kind, name)),
        };
        let began = Instant::now();
        let container = self.runtime.create_container(request).await;
        let container = container.context("CreateContainer")?;
        let create = began.elapsed();

        let container = container.into_inner().container_id;
        let request = cri::StartContainerRequest {
            container_id: container.clone(),
        };
        let began = Instant::now();
        let started = self.runtime.start_container(request).await;
        started.context("StartContainer")?;
        Ok((container, [create, began.elapsed()]))
    }

    /// The URL of a session of Exec, with input and output, without a terminal.
    pub(crate) async fn exec(&mut self, pod: &Pod, command: &[&str]) -> Result<String> {
        let request = cri::ExecRequest {
            container_id: pod.container.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            stdin: true,
            stdout: true,
            stderr: false,
            tty: false,
        };
        let response = self.runtime.exec(request).await.context("Exec")?;
        Ok(response.into_inner().url)
    }

    /// The URL of a session of PortForward.
    pub(crate) async fn port_forward(&mut self, pod: &Pod) -> Result<String> {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.sandbox.clone(),
            port: Vec::new(),
        };
        let response = self.runtime.port_forward(request).await;
        Ok(response.context("PortForward")?.into_inner().url)
    }

    /// ExecSync of `true`.
    pub(crate) async fn exec_true(&mut self, pod: &Pod) -> Result<Duration> {
        self.true_within(pod, EXEC_TIMEOUT).await
    }

    /// The same as a probe, which has a second as with the kubelet.
    pub(crate) async fn probe(&mut self, pod: &Pod) -> Result<Duration> {
        self.true_within(pod, PROBE_TIMEOUT).await
    }

    async fn true_within(&mut self, pod: &Pod, timeout: i64) -> Result<Duration> {
        let request = cri::ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd: vec!["true".to_owned()],
            timeout,
        };
        let began = Instant::now();
        let response = self.runtime.exec_sync(request).await.context("ExecSync")?;
        let took = began.elapsed();
        let code = response.into_inner().exit_code;
        ensure!(code == 0, "ExecSync of `true` ended with {code}");
        Ok(took)
    }

    /// Stops and removes the pod.
    pub(crate) async fn remove_pod(&mut self, pod: Pod) -> Result<()> {
        let Pod { sandbox, container } = pod;
        self.remove_container(container).await?;
        self.remove_sandbox(sandbox).await
    }

    /// Stops and removes the container. One that is not running any more did not start at all.
    pub(crate) async fn remove_container(&mut self, container: String) -> Result<()> {
        let status = cri::ContainerStatusRequest {
            container_id: container.clone(),
            verbose: false,
        };
        let status = self.runtime.container_status(status).await;
        let status = status.context("ContainerStatus")?.into_inner().status;
        let state = status.unwrap_or_default().state();
        ensure!(
            state == cri::ContainerState::ContainerRunning,
            "container {container} is {state:?}"
        );

        let stop = cri::StopContainerRequest {
            container_id: container.clone(),
            timeout: 0,
        };
        let stopped = self.runtime.stop_container(stop).await;
        stopped.context("StopContainer")?;
        let remove = cri::RemoveContainerRequest {
            container_id: container,
        };
        let removed = self.runtime.remove_container(remove).await;
        removed.context("RemoveContainer")?;
        Ok(())
    }

    pub(crate) async fn remove_sandbox(&mut self, sandbox: String) -> Result<()> {
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: sandbox.clone(),
        };
        let stopped = self.runtime.stop_pod_sandbox(stop).await;
        stopped.context("StopPodSandbox")?;
        let remove = cri::RemovePodSandboxRequest {
            pod_sandbox_id: sandbox,
        };
        let removed = self.runtime.remove_pod_sandbox(remove).await;
        removed.context("RemovePodSandbox")?;
        Ok(())
    }
}

fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

fn namespaces(network: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn seccomp(profile_type: ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: profile_type.into(),
        ..Default::default()
    }
}

fn sandbox_config(kind: &PodKind, name: &str) -> cri::PodSandboxConfig {
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(kind.network)),
        seccomp: Some(seccomp(ProfileType::RuntimeDefault)),
        ..Default::default()
    };
    let hostname = if kind.network == NamespaceMode::Node {
        ""
    } else {
        name
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: hostname.to_owned(),
        log_directory: kind.logs.join(name).display().to_string(),
        dns_config: Some(cri::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["bench.svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: kind.cgroup_parent.clone(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container as the kubelet asks for it: limits, a seccomp profile, paths hidden.
fn container_config(kind: &PodKind) -> cri::ContainerConfig {
    let owned = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    let security = cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(kind.network)),
        seccomp: Some(seccomp(kind.seccomp)),
        masked_paths: owned(&[
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/sys/firmware",
        ]),
        readonly_paths: owned(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]),
        ..Default::default()
    };
    let resources = cri::LinuxContainerResources {
        cpu_shares: 102,
        cpu_period: 100_000,
        cpu_quota: 100_000,
        memory_limit_in_bytes: 128 << 20,
        oom_score_adj: 1000,
        ..Default::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(image(&kind.image)),
        command: kind.command.clone(),
        mounts: mounts(kind),
        log_path: "main.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

fn mounts(kind: &PodKind) -> Vec<cri::Mount> {
    let volumes = kind.volumes.iter().enumerate();
    let mounts = volumes.map(|(number, volume)| cri::Mount {
        host_path: volume.display().to_string(),
        container_path: format!("/volumes/{number}"),
        ..Default::default()
    });
    mounts.collect()
}
