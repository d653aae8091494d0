//! The request's own mounts, and their checks.

use std::path::PathBuf;

use corten_proto::{
    cri,
    shim::{self, mount::Kind},
};

use super::{image, proc_refusal};
use crate::spec::{ImageVolumes, Invalid, namespaces, path, user_namespace};

/// In the request's order, destinations cleaned.
pub(super) fn plan(
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
    images: &ImageVolumes,
) -> Result<Vec<shim::Mount>, Invalid> {
    let mounts = config.mounts.iter().enumerate();
    mounts
        .map(|(i, mount)| lower(mount, pod, &format!("config.mounts[{i}]"), images.get(&i)))
        .collect()
}

/// All that [`plan`] checks.
pub(in crate::spec) fn validate(
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
) -> Result<(), Invalid> {
    plan(config, pod, &ImageVolumes::new()).map(drop)
}

/// `layers` are those of the mount's image. `selinux_relabel` asks for nothing where SELinux is absent.
fn lower(
    mount: &cri::Mount,
    pod: &cri::PodSandboxConfig,
    field: &str,
    layers: Option<&Vec<PathBuf>>,
) -> Result<shim::Mount, Invalid> {
    let kind = match &mount.image {
        Some(_) => Kind::Image(image::plan(mount, field, layers)?),
        None => Kind::Bind(bind(mount, pod, field)?),
    };
    let destination = path::clean(&mount.container_path, &format!("{field}.container_path"))?;
    if destination == "/" {
        return Err(Invalid::new(
            format!("{field}.container_path"),
            "a mount cannot replace the root",
        ));
    }
    if let Some(reason) = proc_refusal(&destination, mount.image.is_none()) {
        return Err(Invalid::new(format!("{field}.container_path"), reason));
    }
    Ok(shim::Mount {
        destination,
        attributes: Some(attributes(mount, field)?),
        kind: Some(kind),
        id_mapped: id_mapped(mount, pod, field)?,
        field: field.to_owned(),
    })
}

fn bind(
    mount: &cri::Mount,
    pod: &cri::PodSandboxConfig,
    field: &str,
) -> Result<shim::Bind, Invalid> {
    path::absolute(&mount.host_path, &format!("{field}.host_path"))?;
    if !mount.image_sub_path.is_empty() {
        let field = format!("{field}.image_sub_path");
        return Err(Invalid::new(field, "set without an image"));
    }
    Ok(shim::Bind {
        source: mount.host_path.clone(),
        propagation: propagation(mount, pod, field)?.into(),
        // The CRI asks for an error, but every runtime makes the folder and workloads rely on it.
        create_source: true,
        recursive_readonly: recursive_readonly(mount, field)?,
        non_recursive: false,
        relabel: mount.selinux_relabel,
    })
}

/// Whether the files' ids are mapped, and then as the pod's are: the kubelet asks for nothing else. Without a mapping they
/// stay the host's, which are nobody's in a user namespace.
fn id_mapped(
    mount: &cri::Mount,
    pod: &cri::PodSandboxConfig,
    field: &str,
) -> Result<bool, Invalid> {
    if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(false);
    }
    let own = user_namespace::of_pod(pod)?.and(namespaces::of_pod(pod).userns_options);
    let reason = match &own {
        Some(_) => "not the pod's own mapping",
        None => "the pod has no user namespace",
    };
    let own = own.unwrap_or_default();
    for (name, asked, own) in [
        ("uidMappings", &mount.uid_mappings, own.uids),
        ("gidMappings", &mount.gid_mappings, own.gids),
    ] {
        if *asked != own {
            return Err(Invalid::new(format!("{field}.{name}"), reason));
        }
    }
    Ok(true)
}

fn propagation(
    mount: &cri::Mount,
    pod: &cri::PodSandboxConfig,
    field: &str,
) -> Result<shim::Propagation, Invalid> {
    match cri::MountPropagation::try_from(mount.propagation) {
        Ok(cri::MountPropagation::PropagationPrivate) => Ok(shim::Propagation::Private),
        Ok(cri::MountPropagation::PropagationHostToContainer) => {
            Ok(shim::Propagation::HostToContainer)
        }
        // What is mounted in a user namespace's own mount namespace never leaves it.
        Ok(cri::MountPropagation::PropagationBidirectional)
            if user_namespace::of_pod(pod)?.is_some() =>
        {
            Err(Invalid::new(
                format!("{field}.propagation"),
                "a pod with a user namespace cannot mount on the host: BIDIRECTIONAL is not possible",
            ))
        }
        Ok(cri::MountPropagation::PropagationBidirectional) => Ok(shim::Propagation::Bidirectional),
        Err(unknown) => Err(Invalid::new(
            format!("{field}.propagation"),
            unknown.to_string(),
        )),
    }
}

/// Rule (CRI, `Mount.recursive_read_only`): with `readonly` and private propagation only.
fn recursive_readonly(mount: &cri::Mount, field: &str) -> Result<bool, Invalid> {
    let refused = |reason| Err(Invalid::new(format!("{field}.recursive_read_only"), reason));
    match mount {
        mount if !mount.recursive_read_only => Ok(false),
        mount if !mount.readonly => refused("needs readonly"),
        mount if mount.propagation != 0 => refused("needs private propagation"),
        _ => Ok(true),
    }
}

fn attributes(mount: &cri::Mount, field: &str) -> Result<shim::MountAttributes, Invalid> {
    let mut attributes = shim::MountAttributes {
        readonly: mount.readonly,
        ..Default::default()
    };
    for (i, option) in mount.mount_options.iter().enumerate() {
        match option.as_str() {
            "nosuid" => attributes.nosuid = true,
            "nodev" => attributes.nodev = true,
            "noexec" => attributes.noexec = true,
            _ => {
                let reason = format!("{option:?} is not supported: nosuid, nodev and noexec are");
                return Err(Invalid::new(format!("{field}.mount_options[{i}]"), reason));
            }
        }
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(mount: cri::Mount, field: &str) {
        let good = cri::Mount {
            host_path: "/h".into(),
            container_path: "/c".into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            mounts: vec![good, mount],
            ..Default::default()
        };
        assert_eq!(
            validate(&config, &Default::default()).unwrap_err().field,
            format!("config.mounts[1].{field}")
        );
    }

    fn mount() -> cri::Mount {
        cri::Mount {
            host_path: "/h".into(),
            container_path: "/c".into(),
            ..Default::default()
        }
    }

    #[test]
    fn bad_paths_are_told_by_field() {
        refused(
            cri::Mount {
                host_path: String::new(),
                ..mount()
            },
            "host_path",
        );
        refused(
            cri::Mount {
                host_path: "h".into(),
                ..mount()
            },
            "host_path",
        );
        refused(
            cri::Mount {
                host_path: "/h\0".into(),
                ..mount()
            },
            "host_path",
        );
        refused(
            cri::Mount {
                container_path: "c".into(),
                ..mount()
            },
            "container_path",
        );
        refused(
            cri::Mount {
                container_path: String::new(),
                ..mount()
            },
            "container_path",
        );
        refused(
            cri::Mount {
                container_path: "/c/..".into(),
                ..mount()
            },
            "container_path",
        );
        refused(
            cri::Mount {
                container_path: "/proc/./sys/".into(),
                ..mount()
            },
            "container_path",
        );
    }

    #[test]
    fn recursive_read_only_needs_read_only_and_private() {
        let recursive = cri::Mount {
            recursive_read_only: true,
            ..mount()
        };
        refused(recursive.clone(), "recursive_read_only");
        for propagation in [1, 2] {
            let shared = cri::Mount {
                readonly: true,
                propagation,
                ..recursive.clone()
            };
            refused(shared, "recursive_read_only");
        }
    }

    #[test]
    fn what_is_not_built_or_not_possible_is_refused() {
        let mapping = cri::IdMapping::default();
        refused(
            cri::Mount {
                image_sub_path: "etc".into(),
                ..mount()
            },
            "image_sub_path",
        );
        refused(
            cri::Mount {
                uid_mappings: vec![mapping],
                ..mount()
            },
            "uidMappings",
        );
        refused(
            cri::Mount {
                gid_mappings: vec![mapping],
                ..mount()
            },
            "gidMappings",
        );
        refused(
            cri::Mount {
                propagation: 9,
                ..mount()
            },
            "propagation",
        );
        let options = vec!["noexec".into(), "noatime".into()];
        refused(
            cri::Mount {
                mount_options: options,
                ..mount()
            },
            "mount_options[1]",
        );
    }
}
