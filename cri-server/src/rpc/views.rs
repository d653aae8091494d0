//! What clients see of pods, containers and images.

use corten_proto::{cri, shim::Exited};

use crate::{
    container::{Container, State},
    pod::Pod,
};

pub(super) fn pod(pod: &Pod) -> cri::PodSandbox {
    let config = pod.config();
    cri::PodSandbox {
        id: pod.record.id.clone(),
        metadata: config.metadata.clone(),
        state: pod.state().into(),
        created_at: pod.record.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.record.runtime_handler.clone(),
    }
}

pub(super) fn pod_status(pod: &Pod) -> cri::PodSandboxStatus {
    let view = self::pod(pod);
    let mut ips = pod.record.ips.iter().cloned();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    let options = crate::spec::pod_namespaces(pod.config());
    let namespaces = cri::Namespace {
        options: Some(options),
    };
    cri::PodSandboxStatus {
        id: view.id,
        metadata: view.metadata,
        state: view.state,
        created_at: view.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(namespaces),
        }),
        labels: view.labels,
        annotations: view.annotations,
        runtime_handler: view.runtime_handler,
    }
}

pub(super) fn container_state(state: &State) -> cri::ContainerState {
    match state {
        State::Created => cri::ContainerState::ContainerCreated,
        State::Running { .. } => cri::ContainerState::ContainerRunning,
        State::Exited { .. } => cri::ContainerState::ContainerExited,
    }
}

pub(super) fn container(container: &Container, state: cri::ContainerState) -> cri::Container {
    let (record, config) = (&container.record, container.config());
    cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        state: state.into(),
        created_at: record.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

/// Status of a container, with `image` under the name that it is to be shown by.
pub(super) fn container_status(
    container: &Container,
    image: Option<cri::ImageSpec>,
) -> cri::ContainerStatus {
    let state = container.state();
    let view = self::container(container, container_state(&state));
    let config = container.config();
    let (started_at, exit) = match &state {
        State::Created => (0, None),
        State::Running { started_at } => (*started_at, None),
        State::Exited { exit, reason } => (exit.started_at_ns, Some((exit, reason.as_str()))),
    };
    let resources = container.limits();
    cri::ContainerStatus {
        id: view.id,
        metadata: view.metadata,
        state: view.state,
        created_at: view.created_at,
        started_at,
        finished_at: exit.map(|(exit, _)| exit.at_ns).unwrap_or_default(),
        exit_code: exit.map(|(exit, _)| exit.code).unwrap_or_default(),
        image,
        image_ref: view.image_ref,
        reason: exit
            .map(|(exit, known)| reason(exit, known))
            .unwrap_or_default(),
        message: exit
            .map(|(exit, _)| exit.message.clone())
            .unwrap_or_default(),
        labels: view.labels,
        annotations: view.annotations,
        mounts: config.mounts.clone(),
        log_path: container.record.log_path.clone(),
        resources: resources.map(|linux| cri::ContainerResources {
            linux: Some(linux),
            windows: None,
        }),
        image_id: view.image_id,
        user: user(container),
        stop_signal: crate::spec::cri_signal(container.record.stop_signal).into(),
    }
}

/// As the kubelet's users know it from containerd.
fn reason(exit: &Exited, known: &str) -> String {
    match (known, exit) {
        (
            "",
            Exited {
                oom_killed: true, ..
            },
        ) => "OOMKilled".into(),
        ("", Exited { code: 0, .. }) => "Completed".into(),
        ("", _) => "Error".into(),
        (known, _) => known.into(),
    }
}

fn user(container: &Container) -> Option<cri::ContainerUser> {
    let identity = container.record.user.as_ref()?;
    let linux = cri::LinuxContainerUser {
        uid: identity.uid.into(),
        gid: identity.gid.into(),
        supplemental_groups: identity.groups.iter().map(|gid| i64::from(*gid)).collect(),
    };
    Some(cri::ContainerUser { linux: Some(linux) })
}

pub(super) fn image(image: &corten_image::Image) -> cri::Image {
    // The CRI tells a numeric user apart from a name; the group is not part of either.
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| cri::Int64Value { value });
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        username: if uid.is_some() {
            String::new()
        } else {
            user.to_owned()
        },
        uid,
        spec: Some(cri::ImageSpec {
            image: image.id.clone(),
            ..cri::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_what_the_code_does_not() {
        let exit = |code, oom_killed| Exited {
            code,
            oom_killed,
            ..Exited::default()
        };
        assert_eq!(reason(&exit(0, false), ""), "Completed");
        assert_eq!(reason(&exit(3, false), ""), "Error");
        assert_eq!(reason(&exit(137, true), ""), "OOMKilled");
        assert_eq!(reason(&exit(128, false), "StartError"), "StartError");
    }
}
