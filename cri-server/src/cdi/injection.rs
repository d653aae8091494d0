//! What devices add to a container's plan.

use corten_proto::shim::{self, mount::Kind};

use super::document::{DeviceNode, Edits, Mount, NO_PERMISSIONS};
use crate::spec::{MountOptions, clean_path, proc_refusal};

/// The edits of all devices, merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Injection {
    /// NAME=value
    pub(crate) env: Vec<String>,
    pub(crate) devices: Vec<shim::Device>,
    pub(crate) mounts: Vec<shim::Mount>,
    pub(crate) groups: Vec<u32>,
}

impl Injection {
    /// # Errors
    /// An edit that is not built, by name, or cannot be made.
    pub(super) fn add(&mut self, edits: &Edits) -> Result<(), String> {
        if let Some(hook) = edits.hooks.first() {
            return Err(format!(
                "its {} hook {} cannot be run: Corten runs no OCI hooks",
                hook.hook_name, hook.path
            ));
        }
        if edits.intel_rdt.is_some() {
            return Err("its intelRdt is not supported".into());
        }
        if !edits.net_devices.is_empty() {
            return Err("its netDevices are not supported".into());
        }
        self.env.extend(edits.env.iter().cloned());
        for node in &edits.device_nodes {
            let device = device(node)?;
            self.devices
                .retain(|other| other.destination != device.destination);
            self.devices.push(device);
        }
        for wanted in &edits.mounts {
            let mount = mount(wanted)?;
            self.mounts
                .retain(|other| other.destination != mount.destination);
            self.mounts.push(mount);
        }
        // Rule (SPEC.md, "additionalGids"): 0 is no group.
        for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
            if !self.groups.contains(gid) {
                self.groups.push(*gid);
            }
        }
        Ok(())
    }
}

/// Without type and number, both are as on the host (SPEC.md, "deviceNodes").
fn device(node: &DeviceNode) -> Result<shim::Device, String> {
    let number = |number: i64| u32::try_from(number).map_err(|error| error.to_string());
    let (major, minor) = (number(node.major)?, number(node.minor)?);
    let is_whole = node.r#type == "p" || (!node.r#type.is_empty() && major != 0);
    let host_path = if node.host_path.is_empty() {
        &node.path
    } else {
        &node.host_path
    };
    Ok(shim::Device {
        source: if is_whole {
            String::new()
        } else {
            host_path.clone()
        },
        destination: path("path", &node.path)?,
        permissions: match node.permissions.as_str() {
            "" => "rwm".into(),
            NO_PERMISSIONS => String::new(),
            permissions => permissions.into(),
        },
        // An unbuffered character device is a character device.
        r#type: node.r#type.replace('u', "c"),
        major,
        minor,
        mode: node.file_mode.map(|mode| mode & 0o7777),
        uid: node.uid,
        gid: node.gid,
        // As the reference does (container-device-interface, pkg/cdi, ContainerEdits.Apply).
        is_users: true,
        is_hosts: false,
    })
}

fn path(name: &str, path: &str) -> Result<String, String> {
    clean_path(path, name).map_err(|invalid| invalid.to_string())
}

fn mount(mount: &Mount) -> Result<shim::Mount, String> {
    let destination = path("containerPath", &mount.container_path)?;
    if destination == "/" {
        return Err("a mount cannot replace the root".into());
    }
    let told = |reason| format!("its mount on {destination}: {reason}");
    let is_bind = mount.r#type != "tmpfs";
    if let Some(reason) = proc_refusal(&destination, is_bind) {
        return Err(told(reason));
    }
    let options = MountOptions::parse(&mount.options).map_err(told)?;
    let kind = match mount.r#type.as_str() {
        "" | "bind" | "none" => Kind::Bind(options.bind(&mount.host_path).map_err(told)?),
        "tmpfs" => Kind::Filesystem(options.tmpfs().map_err(told)?),
        other => {
            return Err(told(format!(
                "type {other:?} is not supported: bind and tmpfs are"
            )));
        }
    };
    Ok(shim::Mount {
        destination,
        attributes: Some(options.attributes),
        kind: Some(kind),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_type_and_number_needs_none_on_the_host() {
        let node = DeviceNode {
            path: "/dev/a//b".into(),
            r#type: "u".into(),
            major: 1,
            minor: 3,
            file_mode: Some(0o100_640),
            uid: Some(7),
            ..Default::default()
        };
        let planned = device(&node).unwrap();
        assert_eq!((&*planned.source, &*planned.destination), ("", "/dev/a/b"));
        assert_eq!(
            (&*planned.r#type, planned.mode, planned.uid),
            ("c", Some(0o640), Some(7))
        );
        assert_eq!(planned.permissions, "rwm");
        let node = DeviceNode { major: 0, ..node };
        assert_eq!(device(&node).unwrap().source, "/dev/a//b");
    }

    #[test]
    fn the_last_of_two_on_one_path_counts_and_group_0_is_none() {
        let node = |path: &str, host: &str| DeviceNode {
            path: path.into(),
            host_path: host.into(),
            ..Default::default()
        };
        let mount = |host: &str| Mount {
            host_path: host.into(),
            container_path: "/m".into(),
            ..Default::default()
        };
        let mut injection = Injection::default();
        let edits = Edits {
            device_nodes: vec![
                node("/dev/x", "/a"),
                node("/dev/y", ""),
                node("/dev//x", "/b"),
            ],
            mounts: vec![mount("/1"), mount("/2")],
            additional_gids: vec![0, 5, 5],
            ..Default::default()
        };
        injection.add(&edits).unwrap();
        let sources: Vec<_> = injection
            .devices
            .iter()
            .map(|device| &*device.source)
            .collect();
        assert_eq!(sources, ["/dev/y", "/b"]);
        assert_eq!(injection.mounts.len(), 1);
        assert_eq!(injection.groups, [5]);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let refused = |edits: Edits| Injection::default().add(&edits).unwrap_err();
        let hook = r#"{"hookName": "createContainer", "path": "/usr/bin/setup"}"#;
        let hook = serde_json::from_str(hook).unwrap();
        let told = refused(Edits {
            hooks: vec![hook],
            ..Default::default()
        });
        assert!(
            told.contains("createContainer hook /usr/bin/setup"),
            "{told}"
        );
        let told = refused(Edits {
            intel_rdt: Some(Default::default()),
            ..Default::default()
        });
        assert!(told.contains("intelRdt"), "{told}");
        let typed = Mount {
            host_path: "/h".into(),
            container_path: "/m".into(),
            r#type: "nfs".into(),
            ..Default::default()
        };
        let told = refused(Edits {
            mounts: vec![typed],
            ..Default::default()
        });
        assert!(told.contains("nfs"), "{told}");
    }
}
