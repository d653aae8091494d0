//! Requests for pods and containers, and the calls that most tests make.

use std::path::Path;

use anyhow::{Context, Result};
use corten_proto::cri::{self, NamespaceMode, runtime_service_client::RuntimeServiceClient};
use tonic::{Status, transport::Channel};

use crate::{
    image::BUSYBOX,
    node::Node,
    wait::{limit, until},
};

pub type Runtime = RuntimeServiceClient<Channel>;
/// Of one RPC, or of several: the first that fails.
pub type Reply<T> = Result<T, Status>;

/// A pod on its own network, whose containers have PID namespaces of their own.
pub fn pod(name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "test".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same on the host's network.
pub fn host_network_pod(name: &str) -> cri::PodSandboxConfig {
    let mut config = pod(name);
    // It has the host\'s name.
    config.hostname.clear();
    if let Some(context) = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut())
    {
        context.namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    }
    config
}

/// The namespace options with this network and PID mode.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ..Default::default()
    }
}

/// A container that runs `script` in the busybox image's shell.
pub fn container(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: BUSYBOX.into(),
            ..Default::default()
        }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container's security context, to change it.
pub fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// A file or directory of the host in a container.
pub fn mount(source: impl AsRef<Path>, target: &str) -> cri::Mount {
    cri::Mount {
        host_path: source.as_ref().display().to_string(),
        container_path: target.into(),
        ..Default::default()
    }
}

/// The same, not to be written to.
pub fn read_only(source: impl AsRef<Path>, target: &str) -> cri::Mount {
    cri::Mount {
        readonly: true,
        ..mount(source, target)
    }
}

/// The test's own program at `path`, with what a Rust program of Debian is linked with.
pub fn own_program(path: &str) -> Result<[cri::Mount; 3]> {
    let program = std::env::current_exe().context("find the test program")?;
    Ok([
        read_only(program, path),
        read_only("/lib", "/lib"),
        read_only("/lib64", "/lib64"),
    ])
}

/// Takes AppArmor's profile from the container: what it forbids is not to be what a test passes by.
pub fn unconfine(config: &mut cri::ContainerConfig) {
    security(config).apparmor = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::Unconfined.into(),
        ..Default::default()
    });
}

/// A container's limits, to set them.
pub fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default()
}

pub async fn run_pod(runtime: &mut Runtime, config: &cri::PodSandboxConfig) -> Reply<String> {
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    Ok(runtime
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id)
}

pub async fn create(
    runtime: &mut Runtime,
    pod: &str,
    config: &cri::ContainerConfig,
) -> Reply<String> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config.clone()),
        sandbox_config: None,
    };
    Ok(runtime
        .create_container(request)
        .await?
        .into_inner()
        .container_id)
}

pub async fn start(runtime: &mut Runtime, container: &str) -> Reply<()> {
    runtime
        .start_container(cri::StartContainerRequest {
            container_id: container.into(),
        })
        .await?;
    Ok(())
}

/// Creates and starts a container.
pub async fn run(runtime: &mut Runtime, pod: &str, config: &cri::ContainerConfig) -> Reply<String> {
    let id = create(runtime, pod, config).await?;
    start(runtime, &id).await?;
    Ok(id)
}

pub async fn stop(runtime: &mut Runtime, container: &str, seconds: i64) -> Reply<()> {
    runtime
        .stop_container(cri::StopContainerRequest {
            container_id: container.into(),
            timeout: seconds,
        })
        .await?;
    Ok(())
}

pub async fn remove_pod(runtime: &mut Runtime, pod: &str) -> Reply<()> {
    runtime
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.into(),
        })
        .await?;
    runtime
        .remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.into(),
        })
        .await?;
    Ok(())
}

pub async fn status(runtime: &mut Runtime, container: &str) -> Result<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest {
        container_id: container.into(),
        verbose: false,
    };
    runtime
        .container_status(request)
        .await?
        .into_inner()
        .status
        .context("no status")
}

/// All containers of the node.
pub async fn containers(runtime: &mut Runtime) -> Result<Vec<cri::Container>> {
    let all = cri::ListContainersRequest::default();
    Ok(runtime.list_containers(all).await?.into_inner().containers)
}

/// Waits until the container has exited.
pub async fn exited(runtime: &Runtime, container: &str) -> Result<cri::ContainerStatus> {
    until(|| async {
        let status = status(&mut runtime.clone(), container).await?;
        anyhow::ensure!(
            status.state() == cri::ContainerState::ContainerExited,
            "it is {:?}",
            status.state()
        );
        Ok(status)
    })
    .await
}

/// Runs a shell script in a container.
pub async fn exec(
    runtime: &mut Runtime,
    container: &str,
    script: &str,
) -> Reply<cri::ExecSyncResponse> {
    let cmd = vec!["sh".into(), "-c".into(), script.into()];
    let request = cri::ExecSyncRequest {
        container_id: container.into(),
        cmd,
        timeout: i64::try_from(limit().as_secs()).unwrap_or(i64::MAX),
    };
    Ok(runtime.exec_sync(request).await?.into_inner())
}

/// The standard output of a script that has to succeed.
pub async fn output(runtime: &mut Runtime, container: &str, script: &str) -> Result<String> {
    let done = exec(runtime, container, script).await?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(
        done.exit_code == 0,
        "{script}: exit code {}: {stderr}",
        done.exit_code
    );
    Ok(String::from_utf8(done.stdout)?)
}

/// A pod with its log directory in the node's own directory.
pub fn logged(node: &Node, mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    config.log_directory = node.dir().join("logs").display().to_string();
    config
}
