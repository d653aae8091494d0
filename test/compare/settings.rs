//! From a row to the requests for its pod and its container.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, bail, ensure};
use corten_proto::cri::{
    self, MountPropagation, NamespaceMode, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use corten_test::pod;

use crate::rows::Row;

/// What the kubelet asks for with procMount Default (pkg/securitycontext/util.go).
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Sources of mounts, in the row's own directory.
pub(crate) const SOURCES: [&str; 3] = ["directory", "file", "nested"];

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) pod: cri::PodSandboxConfig,
    pub(crate) container: cri::ContainerConfig,
    /// USER of the image; empty is none.
    pub(crate) image_user: String,
}

impl Request {
    /// `place` is the row's own directory, for logs and volumes.
    pub(crate) fn new(row: &Row, place: &Path, cgroup_parent: &str) -> Result<Self> {
        let mut request = Self {
            pod: pod::pod(&row.name),
            container: pod::container("probe", ""),
            image_user: String::new(),
        };
        request.pod.hostname = "probe-host".into();
        request.pod.log_directory = place.display().to_string();
        request.pod.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["probe.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        request.pod.linux.get_or_insert_default().cgroup_parent = cgroup_parent.into();
        request.container.command = owned(&["/probe", "hold"]);
        for (name, value) in &row.settings {
            request
                .set(name, value, place)
                .with_context(|| format!("{name}={value} of {}", row.name))?;
        }
        Ok(request)
    }

    fn set(&mut self, name: &str, value: &str, place: &Path) -> Result<()> {
        match name {
            "image.user" => self.image_user = value.into(),
            "tty" => self.container.tty = value.parse()?,
            "working_dir" => self.container.working_dir = value.into(),
            "envs" => self.container.envs = entries(value)?.map(variable).collect(),
            "sysctls" => {
                self.pod.linux.get_or_insert_default().sysctls = entries(value)?
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect();
            }
            "mounts" => {
                let mounts = value.split(',').map(|text| mount(text, place));
                self.container.mounts = mounts.collect::<Result<_>>()?;
            }
            "devices" => {
                self.container.devices = value.split(',').map(device).collect::<Result<_>>()?;
            }
            "network" | "pid" | "ipc" | "userns" => self.namespace(name, value)?,
            "privileged" => {
                self.sandbox().privileged = value.parse()?;
                self.security().privileged = value.parse()?;
            }
            name if name.ends_with("_capabilities") => self.capabilities(name, value)?,
            name if resource(pod::resources(&mut self.container), name, value)? => {}
            name => self.identity(name, value)?,
        }
        Ok(())
    }

    fn identity(&mut self, name: &str, value: &str) -> Result<()> {
        let security = self.security();
        match name {
            "run_as_user" => {
                security.run_as_user = Some(cri::Int64Value {
                    value: value.parse()?,
                })
            }
            "run_as_group" => {
                security.run_as_group = Some(cri::Int64Value {
                    value: value.parse()?,
                })
            }
            "run_as_username" => security.run_as_username = value.into(),
            "supplemental_groups" => {
                security.supplemental_groups =
                    value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "supplemental_groups_policy" => {
                let policy = SupplementalGroupsPolicy::from_str_name(value);
                security.supplemental_groups_policy = policy.context("no such policy")?.into();
            }
            "no_new_privs" => security.no_new_privs = value.parse()?,
            "readonly_rootfs" => security.readonly_rootfs = value.parse()?,
            "masked_paths" => security.masked_paths = paths(value, MASKED),
            "readonly_paths" => security.readonly_paths = paths(value, READONLY),
            "seccomp" => security.seccomp = Some(seccomp(value)),
            _ => bail!("no such setting"),
        }
        Ok(())
    }

    fn capabilities(&mut self, name: &str, value: &str) -> Result<()> {
        let lists = self.security().capabilities.get_or_insert_default();
        let list = match name {
            "add_capabilities" => &mut lists.add_capabilities,
            "drop_capabilities" => &mut lists.drop_capabilities,
            "add_ambient_capabilities" => &mut lists.add_ambient_capabilities,
            _ => bail!("no such list"),
        };
        *list = value.split(',').map(str::to_owned).collect();
        Ok(())
    }

    /// Equal for the pod and its container.
    fn namespace(&mut self, name: &str, value: &str) -> Result<()> {
        let options = self.security().namespace_options.get_or_insert_default();
        let mode = || {
            NamespaceMode::from_str_name(value)
                .context("no such mode")
                .map(Into::into)
        };
        match name {
            "network" => options.network = mode()?,
            "pid" => options.pid = mode()?,
            "ipc" => options.ipc = mode()?,
            _ => options.userns_options = Some(user_namespace(value)?),
        }
        let host_network = options.network == i32::from(NamespaceMode::Node);
        self.sandbox().namespace_options = self.security().namespace_options.clone();
        if host_network {
            // It has the host's name.
            self.pod.hostname.clear();
        }
        Ok(())
    }

    fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        pod::security(&mut self.container)
    }

    fn sandbox(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        let linux = self.pod.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default()
    }
}

/// Whether it is one of them.
fn resource(resources: &mut cri::LinuxContainerResources, name: &str, value: &str) -> Result<bool> {
    let number = match name {
        "cpu_period" => &mut resources.cpu_period,
        "cpu_quota" => &mut resources.cpu_quota,
        "cpu_shares" => &mut resources.cpu_shares,
        "memory_limit_in_bytes" => &mut resources.memory_limit_in_bytes,
        "oom_score_adj" => &mut resources.oom_score_adj,
        "cpuset_cpus" => {
            resources.cpuset_cpus = value.into();
            return Ok(true);
        }
        _ => return Ok(false),
    };
    *number = value.parse()?;
    Ok(true)
}

fn user_namespace(value: &str) -> Result<cri::UserNamespace> {
    let numbers: Vec<u32> = value.split(':').map(str::parse).collect::<Result<_, _>>()?;
    let [container_id, host_id, length] = numbers[..] else {
        bail!("a mapping has three numbers");
    };
    let mapping = vec![cri::IdMapping {
        host_id,
        container_id,
        length,
    }];
    Ok(cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: mapping.clone(),
        gids: mapping,
    })
}

fn seccomp(value: &str) -> cri::SecurityProfile {
    match ProfileType::from_str_name(value) {
        Some(kind) => cri::SecurityProfile {
            profile_type: kind.into(),
            ..Default::default()
        },
        None => cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: crate::data("seccomp").join(value).display().to_string(),
        },
    }
}

/// Source, path in the container, then flags.
fn mount(text: &str, place: &Path) -> Result<cri::Mount> {
    let mut parts = text.split(':');
    let (Some(source), Some(path)) = (parts.next(), parts.next()) else {
        bail!("{text} has no path");
    };
    ensure!(SOURCES.contains(&source), "{source} is no source");
    let mut mount = cri::Mount {
        host_path: place.join(source).display().to_string(),
        container_path: path.into(),
        ..Default::default()
    };
    for flag in parts {
        match flag {
            "ro" => mount.readonly = true,
            "rro" => mount.recursive_read_only = true,
            "rslave" => mount.propagation = MountPropagation::PropagationHostToContainer.into(),
            "rshared" => mount.propagation = MountPropagation::PropagationBidirectional.into(),
            flag => bail!("{flag} is no flag of a mount"),
        }
    }
    Ok(mount)
}

fn device(text: &str) -> Result<cri::Device> {
    let parts: Vec<_> = text.split(':').collect();
    let [host, container, permissions] = parts[..] else {
        bail!("{text} has not three parts");
    };
    Ok(cri::Device {
        host_path: host.into(),
        container_path: container.into(),
        permissions: permissions.into(),
    })
}

fn variable((name, value): (&str, &str)) -> cri::KeyValue {
    cri::KeyValue {
        key: name.into(),
        value: value.into(),
    }
}

/// `name:value`, separated by commas.
fn entries(list: &str) -> Result<impl Iterator<Item = (&str, &str)>> {
    let pairs: Option<HashMap<_, _>> = list.split(',').map(|entry| entry.split_once(':')).collect();
    Ok(pairs.context("an entry has no value")?.into_iter())
}

fn paths(value: &str, of_the_kubelet: &[&str]) -> Vec<String> {
    match value {
        "kubelet" => owned(of_the_kubelet),
        list => list.split(',').map(str::to_owned).collect(),
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}
