//! The checks that need nothing but the request, to be made before anything is created.

use std::{collections::HashSet, net::IpAddr};

use corten_proto::cri;

use super::{
    Invalid, Security, classes, dns, log_path, mounts, namespaces, network, path, size, sysctl,
    user_namespace,
};

/// Checks a pod sandbox's config as a whole.
///
/// Its own security context is for a pause container, which there is none of; of it, the namespaces
/// and `privileged` count.
///
/// # Errors
/// The first bad field, or the first that asks for what is not built.
pub(crate) fn validate_pod(config: &cri::PodSandboxConfig) -> Result<(), Invalid> {
    let Some(metadata) = &config.metadata else {
        return Err(Invalid::new("config.metadata", "missing"));
    };
    for (name, value) in [
        ("name", &metadata.name),
        ("namespace", &metadata.namespace),
        ("uid", &metadata.uid),
    ] {
        required(value, &format!("config.metadata.{name}"))?;
    }
    if config.windows.is_some() {
        return Err(Invalid::new("config.windows", "this is Linux"));
    }
    size::pod(config)?;
    pod_namespaces(&namespaces::of_pod(config))?;
    user_namespace::of_pod(config)?;
    dns::validate_hostname(config)?;
    dns::validate(config.dns_config.as_ref())?;
    log_path::check_directory(&config.log_directory)?;
    sysctl::sysctls(config)?;
    network::capabilities(config)?;
    port_mappings(&config.port_mappings)
}

/// Checks a container's config against its pod's, as far as the image and the host have no say.
///
/// # Errors
/// As [`validate_pod`].
pub(crate) fn validate_container(
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
) -> Result<(), Invalid> {
    let Some(metadata) = &config.metadata else {
        return Err(Invalid::new("config.metadata", "missing"));
    };
    required(&metadata.name, "config.metadata.name")?;
    required(
        config.image.as_ref().map_or("", |image| &image.image),
        "config.image.image",
    )?;
    if config.windows.is_some() {
        return Err(Invalid::new("config.windows", "this is Linux"));
    }
    size::container(config)?;
    classes::check(config, pod)?;
    let security = Security::of(config);
    if security.privileged() && !pod_privileged(pod) {
        let field = format!("{}.privileged", Security::FIELD);
        return Err(Invalid::new(
            field,
            "the pod sandbox is not privileged, so its containers cannot be",
        ));
    }
    if let Some(options) = security
        .0
        .and_then(|context| context.namespace_options.as_ref())
    {
        let field = format!("{}.namespace_options", Security::FIELD);
        user_namespace::check_container(options, pod, &field)?;
    }
    namespaces::pid_mode(config, pod)?;
    hidden_paths(security)?;
    crate::cdi::requests(config)?;
    mounts::validate(config, pod)?;
    log_path::log_path(pod, config).map(drop)
}

fn required(value: &str, field: &str) -> Result<(), Invalid> {
    if value.is_empty() {
        Err(Invalid::new(field, "empty"))
    } else {
        path::one_line(value, field)
    }
}

fn pod_privileged(pod: &cri::PodSandboxConfig) -> bool {
    let context = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    context.is_some_and(|context| context.privileged)
}

/// Network and IPC are the pod's own or the host's; PID may also be one for each container.
fn pod_namespaces(options: &cri::NamespaceOption) -> Result<(), Invalid> {
    use cri::NamespaceMode::{Container, Target};
    for (name, value) in [
        ("network", options.network),
        ("ipc", options.ipc),
        ("pid", options.pid),
    ] {
        let field = format!("{}.{name}", namespaces::POD_FIELD);
        let mode = namespaces::mode(value, &field)?;
        if mode == Target || (mode == Container && name != "pid") {
            return Err(Invalid::new(
                field,
                format!("a pod's {name} namespace cannot be {}", mode.as_str_name()),
            ));
        }
    }
    Ok(())
}

/// A host port of 0 is none. Two mappings cannot share one.
fn port_mappings(mappings: &[cri::PortMapping]) -> Result<(), Invalid> {
    let mut taken = HashSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let field = |name: &str| format!("config.port_mappings[{i}].{name}");
        let protocol = cri::Protocol::try_from(mapping.protocol)
            .map_err(|unknown| Invalid::new(field("protocol"), unknown.to_string()))?;
        port(mapping.container_port, 1, &field("container_port"))?;
        port(mapping.host_port, 0, &field("host_port"))?;
        let address = mapping.host_ip.as_str();
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(Invalid::new(
                field("host_ip"),
                format!("{address:?} is not an IP address"),
            ));
        }
        if mapping.host_port != 0 && !taken.insert((protocol, mapping.host_port, address)) {
            return Err(Invalid::new(
                field("host_port"),
                format!("{} is mapped twice", mapping.host_port),
            ));
        }
    }
    Ok(())
}

fn port(port: i32, least: i32, field: &str) -> Result<(), Invalid> {
    if (least..=65_535).contains(&port) {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        format!("{port} is not a port: want {least} to 65535"),
    ))
}

fn hidden_paths(security: Security<'_>) -> Result<(), Invalid> {
    let Some(context) = security.0 else {
        return Ok(());
    };
    for (name, paths) in [
        ("masked_paths", &context.masked_paths),
        ("readonly_paths", &context.readonly_paths),
    ] {
        for (i, entry) in paths.iter().enumerate() {
            path::absolute(entry, &format!("{}.{name}[{i}]", Security::FIELD))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::Fixture;

    /// What a change to a good pod is refused for.
    fn pod(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> String {
        let mut config = Fixture::default().pod_config;
        change(&mut config);
        validate_pod(&config).map_or_else(|error| error.field, |()| "fine".into())
    }

    fn container(change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut fixture = Fixture::default();
        change(&mut fixture.config);
        validate_container(&fixture.config, &fixture.pod_config)
            .map_or_else(|error| error.field, |()| "fine".into())
    }

    fn options(pod: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
        let context = pod
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        context.namespace_options.get_or_insert_default()
    }

    #[test]
    fn a_pod_needs_its_metadata() {
        assert_eq!(pod(|_| ()), "fine");
        assert_eq!(pod(|pod| pod.metadata = None), "config.metadata");
        assert_eq!(
            pod(|pod| pod.metadata.as_mut().unwrap().name.clear()),
            "config.metadata.name"
        );
        assert_eq!(
            pod(|pod| pod.metadata.as_mut().unwrap().uid.clear()),
            "config.metadata.uid"
        );
        assert_eq!(
            pod(|pod| pod.metadata.as_mut().unwrap().namespace = "a\n".into()),
            "config.metadata.namespace"
        );
        assert_eq!(pod(|pod| pod.linux = None), "fine");
    }

    #[test]
    fn namespaces_that_a_pod_cannot_have_are_refused() {
        let field = |name: &str| format!("config.linux.security_context.namespace_options.{name}");
        assert_eq!(pod(|pod| options(pod).pid = 1), "fine");
        assert_eq!(pod(|pod| options(pod).pid = 3), field("pid"));
        assert_eq!(pod(|pod| options(pod).network = 1), field("network"));
        assert_eq!(pod(|pod| options(pod).ipc = 3), field("ipc"));
        assert_eq!(pod(|pod| options(pod).ipc = 9), field("ipc"));
        let user = |mode| {
            Some(cri::UserNamespace {
                mode,
                ..Default::default()
            })
        };
        assert_eq!(pod(|pod| options(pod).userns_options = user(2)), "fine");
        assert_eq!(
            pod(|pod| options(pod).userns_options = user(1)),
            field("userns_options.mode")
        );
    }

    #[test]
    fn the_rest_of_a_pod_is_checked() {
        assert_eq!(pod(|pod| pod.hostname = "a b".into()), "config.hostname");
        assert_eq!(
            pod(|pod| pod.log_directory = "logs".into()),
            "config.log_directory"
        );
        assert_eq!(
            pod(|pod| pod.windows = Some(Default::default())),
            "config.windows"
        );
        let sysctl = |name: &str| {
            pod(|pod| {
                drop(
                    pod.linux
                        .get_or_insert_default()
                        .sysctls
                        .insert(name.into(), "1".into()),
                )
            })
        };
        assert_eq!(
            sysctl("kernel.panic"),
            "config.linux.sysctls[\"kernel.panic\"]"
        );
    }

    #[test]
    fn ports_are_checked() {
        let mapping = |container_port, host_port, host_ip: &str, protocol| cri::PortMapping {
            container_port,
            host_port,
            host_ip: host_ip.into(),
            protocol,
        };
        let check = |mappings: Vec<cri::PortMapping>| pod(|pod| pod.port_mappings = mappings);
        let good = || mapping(80, 8080, "", 0);
        assert_eq!(
            check(vec![
                good(),
                mapping(80, 8080, "", 1),
                mapping(80, 8080, "::1", 0)
            ]),
            "fine"
        );
        assert_eq!(
            check(vec![mapping(80, 0, "", 0), mapping(80, 0, "", 0)]),
            "fine"
        );
        for (bad, name) in [
            (mapping(0, 80, "", 0), "container_port"),
            (mapping(65_536, 80, "", 0), "container_port"),
            (mapping(80, -1, "", 0), "host_port"),
            (mapping(81, 8080, "", 0), "host_port"),
            (mapping(80, 80, "host", 0), "host_ip"),
            (mapping(80, 80, "", 3), "protocol"),
        ] {
            assert_eq!(
                check(vec![good(), bad]),
                format!("config.port_mappings[1].{name}")
            );
        }
    }

    #[test]
    fn a_container_needs_a_name_and_an_image() {
        assert_eq!(container(|_| ()), "fine");
        assert_eq!(
            container(|config| config.metadata = None),
            "config.metadata"
        );
        assert_eq!(
            container(|config| config.metadata = Some(Default::default())),
            "config.metadata.name"
        );
        assert_eq!(
            container(|config| config.image = None),
            "config.image.image"
        );
        assert_eq!(container(|config| config.linux = None), "fine");
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_pod() {
        let mut fixture = Fixture::default();
        fixture.security().privileged = true;
        let error = validate_container(&fixture.config, &fixture.pod_config).unwrap_err();
        assert_eq!(error.field, "config.linux.security_context.privileged");
        fixture.pod_security().privileged = true;
        assert_eq!(
            validate_container(&fixture.config, &fixture.pod_config),
            Ok(())
        );
    }

    #[test]
    fn the_rest_of_a_container_is_checked() {
        let security = |change: fn(&mut cri::LinuxContainerSecurityContext)| {
            container(|config| {
                change(
                    config
                        .linux
                        .get_or_insert_default()
                        .security_context
                        .get_or_insert_default(),
                )
            })
        };
        let field = |name: &str| format!("config.linux.security_context.{name}");
        assert_eq!(
            security(|context| context.masked_paths = vec!["proc".into()]),
            field("masked_paths[0]")
        );
        assert_eq!(
            security(|context| context.readonly_paths = vec!["/a".into(), "".into()]),
            field("readonly_paths[1]")
        );
        let userns = security(|context| {
            let mapping = cri::IdMapping {
                host_id: 1000,
                container_id: 0,
                length: 1,
            };
            context.namespace_options = Some(cri::NamespaceOption {
                userns_options: Some(cri::UserNamespace {
                    mode: 0,
                    uids: vec![mapping],
                    gids: vec![mapping],
                }),
                ..Default::default()
            });
        });
        assert_eq!(userns, field("namespace_options.userns_options"));
        assert_eq!(
            container(|config| config.log_path = "../x".into()),
            "config.log_path"
        );
        assert_eq!(
            container(|config| config.mounts = vec![Default::default()]),
            "config.mounts[0].host_path"
        );
        assert_eq!(
            container(|config| config.cdi_devices = vec![Default::default()]),
            "config.CDI_devices[0].name"
        );
    }
}
