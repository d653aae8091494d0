//! Which namespaces the container has of its own, and which it joins.

use std::path::Path;

use corten_proto::{cri, shim};
use shim::namespace::From;

use super::{Input, Invalid, Security, path};

/// Where the pod's options are in RunPodSandbox.
pub(super) const POD_FIELD: &str = "config.linux.security_context.namespace_options";

/// Network, IPC and UTS are the pod's whatever the container's own options say; PID is the
/// container's to choose. A cgroup namespace is made on v2 only: on v1 what a container sees there
/// is what its mounts show.
pub(super) fn plan(input: &Input<'_>) -> Result<shim::Namespaces, Invalid> {
    let pod = input.pod;
    let own_cgroup = input.host.cgroup_v2 && !input.security.privileged();
    Ok(shim::Namespaces {
        network: Some(pinned(pod.netns)?),
        ipc: Some(pinned(pod.ipc)?),
        uts: Some(pinned(pod.uts)?),
        pid: Some(pid(input)?),
        cgroup: Some(if own_cgroup { new() } else { host() }),
        user: pod.user.map(|pin| path::text(pin).map(join)).transpose()?,
    })
}

/// The container's PID mode; without options of its own, the pod's.
pub(super) fn pid_mode(
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
) -> Result<cri::NamespaceMode, Invalid> {
    match Security::of(config)
        .0
        .and_then(|context| context.namespace_options.as_ref())
    {
        Some(own) => mode(own.pid, &field("pid")),
        None => mode(of_pod(pod).pid, &format!("{POD_FIELD}.pid")),
    }
}

/// The pod's own options; without any, all of its namespaces are its own (CRI, `NamespaceOption`).
pub(crate) fn of_pod(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let context = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    context
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

pub(super) fn mode(value: i32, field: &str) -> Result<cri::NamespaceMode, Invalid> {
    cri::NamespaceMode::try_from(value).map_err(|unknown| Invalid::new(field, unknown.to_string()))
}

fn pid(input: &Input<'_>) -> Result<shim::Namespace, Invalid> {
    let mode = pid_mode(input.container.config, input.pod.config)?;
    match (mode, input.pod.pid, input.container.target_pids) {
        (cri::NamespaceMode::Node, ..) => Ok(host()),
        (cri::NamespaceMode::Container, ..) => Ok(new()),
        (cri::NamespaceMode::Pod, Some(pin), _) => pinned(Some(pin)),
        (cri::NamespaceMode::Pod, None, _) => Err(Invalid::new(
            field("pid"),
            "POD, but the pod's own options give it no shared PID namespace",
        )),
        (cri::NamespaceMode::Target, _, Some(pin)) => pinned(Some(pin)),
        (cri::NamespaceMode::Target, _, None) => Err(Invalid::new(
            field("target_id"),
            "names no running container of this pod",
        )),
    }
}

fn field(name: &str) -> String {
    format!("{}.namespace_options.{name}", Security::FIELD)
}

fn pinned(pin: Option<&Path>) -> Result<shim::Namespace, Invalid> {
    pin.map_or(Ok(host()), |pin| path::text(pin).map(join))
}

fn host() -> shim::Namespace {
    shim::Namespace {
        from: Some(From::Host(shim::Host {})),
    }
}

fn new() -> shim::Namespace {
    shim::Namespace {
        from: Some(From::New(shim::New {})),
    }
}

fn join(path: String) -> shim::Namespace {
    shim::Namespace {
        from: Some(From::Join(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::Fixture;

    /// Network, IPC, UTS, PID, cgroup.
    fn planned(fixture: &Fixture) -> Result<String, Invalid> {
        let planned = fixture.with_input(plan)?;
        let all = [
            planned.network,
            planned.ipc,
            planned.uts,
            planned.pid,
            planned.cgroup,
        ];
        let words =
            all.into_iter().map(
                |namespace| match namespace.and_then(|namespace| namespace.from) {
                    Some(From::Host(_)) => "host".into(),
                    Some(From::New(_)) => "new".into(),
                    Some(From::Join(path)) => path,
                    None => "none".into(),
                },
            );
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_usual_container_joins_the_pods() {
        let fixture = Fixture::default();
        assert_eq!(
            planned(&fixture).unwrap(),
            "/run/netns/p /pins/ipc /pins/uts /pins/pid host"
        );
    }

    #[test]
    fn what_the_pod_has_not_is_the_hosts() {
        let fixture = Fixture {
            pins: false,
            ..Fixture::default()
        };
        let fixture = fixture.pid(cri::NamespaceMode::Node);
        assert_eq!(planned(&fixture).unwrap(), "host host host host host");
    }

    #[test]
    fn the_container_chooses_its_pid_namespace() {
        let own = Fixture::default().pid(cri::NamespaceMode::Container);
        assert!(planned(&own).unwrap().ends_with("/pins/uts new host"));
        let mut target = Fixture::default().pid(cri::NamespaceMode::Target);
        assert!(
            planned(&target)
                .unwrap_err()
                .field
                .ends_with("namespace_options.target_id")
        );
        target.target_pids = Some("/state/target-pids");
        assert!(
            planned(&target)
                .unwrap()
                .ends_with("/pins/uts /state/target-pids host")
        );
    }

    #[test]
    fn without_options_of_its_own_it_follows_the_pod() {
        let mut fixture = Fixture::default();
        fixture.pod_security().namespace_options = Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        });
        assert!(planned(&fixture).unwrap().ends_with("/pins/uts new host"));
        let fixture = Fixture {
            pins: false,
            ..fixture.pid(cri::NamespaceMode::Pod)
        };
        assert!(
            planned(&fixture)
                .unwrap_err()
                .field
                .ends_with("namespace_options.pid")
        );
    }

    #[test]
    fn cgroup_namespaces_are_for_v2_and_not_for_the_privileged() {
        let mut fixture = Fixture::default();
        fixture.host.cgroup_v2 = true;
        assert!(planned(&fixture).unwrap().ends_with(" new"));
        assert!(planned(&fixture.privileged()).unwrap().ends_with(" host"));
    }
}
