//! From a CRI request to the shim's [`Plan`]: pure planning, all of a request's field checks
//! included.
//!
//! The plan is lowered directly from the CRI's types. An OCI `config.json` in between would say
//! less (descriptors, self-made mounts, merged users are not in it) and would be built only to be
//! taken apart again. Nothing here opens a path that a user named. What is not built yet is
//! refused, never accepted and ignored.

mod apparmor;
mod args;
mod capabilities;
mod cgroup;
mod classes;
mod devices;
mod dns;
mod env;
mod host;
mod log_path;
mod mounts;
mod namespaces;
mod network;
mod oci;
mod path;
mod resources;
mod seccomp;
mod security_profile;
mod selinux;
mod signal;
mod size;
mod sysctl;
mod update;
mod user;
mod user_namespace;
mod validate;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use corten_image::ImageConfig;
use corten_proto::{cri, shim};

use crate::cdi::Injection;

pub(crate) use apparmor::{Apparmor, apparmor};
pub(crate) use cgroup::{cgroup_parent, slice_path};
pub(crate) use dns::{hostname, hosts, resolv_conf};
pub(crate) use host::Host;
pub(crate) use mounts::{MountOptions, proc_refusal};
pub(crate) use namespaces::of_pod as pod_namespaces;
pub(crate) use network::capabilities as network_capabilities;
pub(crate) use oci::{config as oci_config, seccomp as oci_seccomp};
pub(crate) use path::clean as clean_path;
pub(crate) use security_profile::{read_seccomp_profile, seccomp_localhost_path};
pub(crate) use selinux::{
    asks as asks_for_selinux, is_own_level, layer_label, pair as selinux_pair, pod_file_label,
    pod_level as pod_selinux_level, pod_process_label, shared_file_label,
};
pub(crate) use signal::{cri_signal, stop_signal};
pub(crate) use size::{check_command, listed_container, listed_pod};
pub(crate) use sysctl::{Sysctls, field as sysctl_field, sysctls};
pub(crate) use update::{limits, pod_limits, update};
pub(crate) use user_namespace::{field as user_namespace_field, of_pod as user_namespace, owner};
pub(crate) use validate::{validate_container, validate_pod};

/// A field of a request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    /// Path of the field from the request, as in `config.mounts[2].host_path`; for what comes from
    /// the image, `image config` and the name there.
    pub field: String,
    pub reason: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// The sandbox in which the container will run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub id: &'a str,
    /// As stored by RunPodSandbox, not the copy that came with CreateContainer.
    pub config: &'a cri::PodSandboxConfig,
    /// `<state>/pods/<id>`. Holds, for every pod, the files `resolv.conf`, `hostname` and `hosts`
    /// (for a pod on the host's network, copies of the host's: a container may write to them), and
    /// `shm/` unless IPC is the host's.
    pub state_dir: &'a Path,
    /// Directory of its files in /etc.
    pub etc: &'a Path,
    /// Pin of the network namespace; none is the host's.
    pub netns: Option<&'a Path>,
    /// Pin of the IPC namespace; none is the host's.
    pub ipc: Option<&'a Path>,
    /// Pin of the UTS namespace; none is the host's.
    pub uts: Option<&'a Path>,
    /// Pin of the PID namespace that the pod's containers share; none when they share none.
    pub pid: Option<&'a Path>,
    /// Pin of the user namespace; none is the host's.
    pub user: Option<&'a Path>,
    /// Cgroup of the pod below each hierarchy's root, with leading slash.
    pub cgroup_parent: &'a str,
    /// What is above that cgroup is systemd's.
    pub delegated: bool,
    /// SELinux's, "s0:c1,c2"; empty on a host without.
    pub selinux_level: &'a str,
}

/// The layers of every mount that names an image, topmost first, by the mount's place in the request.
pub(crate) type ImageVolumes = BTreeMap<usize, Vec<PathBuf>>;

/// What is to be planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    pub id: &'a str,
    pub config: &'a cri::ContainerConfig,
    pub image: &'a ImageConfig,
    /// Layer directories, topmost first.
    pub lower: &'a [PathBuf],
    pub image_volumes: &'a ImageVolumes,
    /// Sources of mounts that are not made where they are missing.
    pub absent_sources_to_reject: &'a [PathBuf],
    /// Holds `upper/` and `work/`.
    pub root_dir: &'a Path,
    /// Where volumes that the image declares are to be; none are made without.
    pub volumes_dir: Option<&'a Path>,
    /// `<state>/containers/<id>`.
    pub state_dir: &'a Path,
    /// Pin of the PID namespace of the container that PID mode TARGET names.
    pub target_pids: Option<&'a Path>,
    /// What the CDI devices add.
    pub injection: &'a Injection,
    /// What [`read_seccomp_profile`] gave for the path from [`seccomp_localhost_path`].
    pub seccomp_profile: Option<&'a [u8]>,
    /// The loaded profile that answers what [`apparmor`] gave.
    pub apparmor_profile: Option<&'a str>,
}

/// What the operator may set for every container.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    /// Most processes in a container; 0 is no limit of ours.
    pub pids_limit: i64,
    /// RLIMIT_NOFILE, soft and hard; none inherits the daemon's.
    pub nofile: Option<(u64, u64)>,
    /// Longest message in one log line, bytes.
    pub max_log_line: u32,
    /// Of a container's log.
    pub log_limit: Option<shim::LogLimit>,
}

impl Default for Defaults {
    /// 1024:524288 is what systemd gives to services, so what a container has under other runtimes'
    /// units; an infinite limit makes old daemons loop over a billion descriptors.
    fn default() -> Self {
        Self {
            pids_limit: 0,
            nofile: Some((1024, 524_288)),
            max_log_line: 16 * 1024,
            log_limit: None,
        }
    }
}

/// Everything that one part of the plan may look at.
struct Input<'a> {
    host: &'a Host,
    pod: &'a Pod<'a>,
    container: &'a Container<'a>,
    security: Security<'a>,
}

/// The container's security context, with the questions that many parts ask.
#[derive(Clone, Copy)]
struct Security<'a>(Option<&'a cri::LinuxContainerSecurityContext>);

impl<'a> Security<'a> {
    /// Where it is in a request.
    const FIELD: &'static str = "config.linux.security_context";

    fn of(config: &'a cri::ContainerConfig) -> Self {
        Self(
            config
                .linux
                .as_ref()
                .and_then(|linux| linux.security_context.as_ref()),
        )
    }

    fn privileged(self) -> bool {
        self.0.is_some_and(|context| context.privileged)
    }

    fn readonly_rootfs(self) -> bool {
        self.0.is_some_and(|context| context.readonly_rootfs)
    }

    fn no_new_privileges(self) -> bool {
        self.0.is_some_and(|context| context.no_new_privs)
    }
}

/// The shim's plan for a container, ready to be sent.
///
/// # Errors
/// The first field, of the request or of the image's config, that cannot be done.
pub(crate) fn plan(
    host: &Host,
    pod: &Pod<'_>,
    container: &Container<'_>,
    defaults: &Defaults,
) -> Result<shim::Plan, Invalid> {
    validate_container(container.config, pod.config)?;
    let security = Security::of(container.config);
    let input = Input {
        host,
        pod,
        container,
        security,
    };
    let labels = selinux::labels(security, pod.selinux_level)?;
    let mut mounts = mounts::plan(&input)?;
    selinux::adapt(&mut mounts, &labels, pod);
    signal::checked(container.config, container.image)?;
    let (masked_paths, readonly_paths) = mounts::hidden_paths(security);
    Ok(shim::Plan {
        container_id: container.id.into(),
        pod_id: pod.id.into(),
        rootfs: Some(shim::Rootfs {
            lower: container
                .lower
                .iter()
                .map(|dir| path::text(dir))
                .collect::<Result<_, _>>()?,
            upper: path::text(&container.root_dir.join("upper"))?,
            work: path::text(&container.root_dir.join("work"))?,
            readonly: security.readonly_rootfs(),
        }),
        mounts,
        devices: devices::plan(
            container.config,
            security.privileged(),
            &container.injection.devices,
        )?,
        namespaces: Some(namespaces::plan(&input)?),
        cgroup: Some(shim::Cgroup {
            path: format!(
                "{}/{}",
                pod.cgroup_parent.trim_end_matches('/'),
                container.id
            ),
            resources: Some(resources::plan(container.config, host, defaults)?),
            all_devices: security.privileged(),
            delegated: if pod.delegated {
                pod.cgroup_parent.into()
            } else {
                String::new()
            },
        }),
        process: Some(process(&input, defaults, labels.process)?),
        log: Some(shim::Log {
            path: log_path::log_path(pod.config, container.config)?.unwrap_or_default(),
            max_line: defaults.max_log_line,
            limit: defaults.log_limit,
        }),
        masked_paths,
        readonly_paths,
        state_dir: path::text(container.state_dir)?,
        user_namespace: user_namespace::of_pod(pod.config)?,
        mount_label: labels.mount,
    })
}

fn process(
    input: &Input<'_>,
    defaults: &Defaults,
    selinux_label: String,
) -> Result<shim::Process, Invalid> {
    let Input {
        host,
        container,
        security,
        ..
    } = *input;
    let config = container.config;
    let capabilities = capabilities::plan(host, security)?;
    let filter = security_profile::seccomp_filter(input, capabilities.bounding)?;
    let env = env::plan(config, container.image, &dns::hostname(input.pod.config)?)?;
    let mut user = user::plan(security, container.image)?;
    user.supplemental_groups.extend(&container.injection.groups);
    Ok(shim::Process {
        args: args::plan(config, container.image)?,
        env: env::with_devices(env, &container.injection.env),
        cwd: args::working_dir(config, container.image)?,
        terminal: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        user: Some(user),
        no_new_privileges: security.no_new_privileges(),
        seccomp_flags: filter.as_ref().map_or(0, |filter| filter.flags),
        seccomp_filter: filter.map_or_else(Vec::new, |filter| filter.program.clone()),
        capabilities: Some(capabilities),
        oom_score_adj: resources::oom_score_adj(config)?,
        rlimits: defaults
            .nofile
            .iter()
            .map(|&(soft, hard)| resources::nofile(soft, hard))
            .collect(),
        apparmor_profile: container.apparmor_profile.unwrap_or_default().into(),
        selinux_label,
    })
}

#[cfg(test)]
mod tests;
