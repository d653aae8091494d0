//! Device nodes. Those that every container has (null, zero, full, random, urandom, tty) are the
//! shim's own.

use corten_proto::{cri, shim};

use super::{Invalid, path};

const ALL: &str = "rwm";

/// A privileged container gets every node of the host (a folder stands for the nodes below it),
/// then come the request's, then those of CDI, which take the place of another on the same path.
pub(super) fn plan(
    config: &cri::ContainerConfig,
    privileged: bool,
    cdi: &[shim::Device],
) -> Result<Vec<shim::Device>, Invalid> {
    let host = shim::Device {
        source: "/dev".into(),
        destination: "/dev".into(),
        permissions: ALL.into(),
        // Or root of a user namespace could open the host's disks.
        is_hosts: true,
        ..Default::default()
    };
    let asked = config
        .devices
        .iter()
        .enumerate()
        .map(|(i, device)| lower(device, &format!("config.devices[{i}]")));
    let mut devices: Vec<shim::Device> = privileged
        .then_some(Ok(host))
        .into_iter()
        .chain(asked)
        .collect::<Result<_, _>>()?;
    let is_replaced = |device: &shim::Device| {
        cdi.iter()
            .any(|other| other.destination == device.destination)
    };
    devices.retain(|device| !is_replaced(device));
    devices.extend_from_slice(cdi);
    Ok(devices)
}

fn lower(device: &cri::Device, field: &str) -> Result<shim::Device, Invalid> {
    path::absolute(&device.host_path, &format!("{field}.host_path"))?;
    let destination = match device.container_path.as_str() {
        "" => &device.host_path,
        path => path,
    };
    let destination = path::clean(destination, &format!("{field}.container_path"))?;
    let permissions = permissions(&device.permissions, &format!("{field}.permissions"))?;
    Ok(shim::Device {
        source: device.host_path.clone(),
        destination,
        permissions,
        ..Default::default()
    })
}

/// One or more of r, w and m (mknod), in any order.
fn permissions(text: &str, field: &str) -> Result<String, Invalid> {
    if text.is_empty() || text.contains(|letter| !ALL.contains(letter)) {
        return Err(Invalid::new(
            field,
            format!("{text:?} is not made of r, w and m"),
        ));
    }
    Ok(ALL
        .chars()
        .filter(|letter| text.contains(*letter))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(
        host: &str,
        container: &str,
        permissions: &str,
        privileged: bool,
    ) -> Result<Vec<String>, Invalid> {
        let device = cri::Device {
            host_path: host.into(),
            container_path: container.into(),
            permissions: permissions.into(),
        };
        let config = cri::ContainerConfig {
            devices: vec![device],
            ..Default::default()
        };
        let devices = plan(&config, privileged, &[])?;
        Ok(devices
            .into_iter()
            .map(|d| format!("{} {} {}", d.source, d.destination, d.permissions))
            .collect())
    }

    #[test]
    fn a_device_keeps_its_place_unless_told_otherwise() {
        assert_eq!(
            planned("/dev/fuse", "", "mrw", false).unwrap(),
            ["/dev/fuse /dev/fuse rwm"]
        );
        assert_eq!(
            planned("/dev/fuse", "/dev//x/", "r", false).unwrap(),
            ["/dev/fuse /dev/x r"]
        );
    }

    #[test]
    fn a_privileged_container_has_the_hosts_first() {
        assert_eq!(
            planned("/dev/a", "/dev/b", "w", true).unwrap(),
            ["/dev /dev rwm", "/dev/a /dev/b w"]
        );
    }

    #[test]
    fn bad_paths_and_permissions_are_told_by_field() {
        for (host, container, permissions, want) in [
            ("dev/a", "", "r", "host_path"),
            ("", "/dev/b", "r", "host_path"),
            ("/dev/a", "b", "r", "container_path"),
            ("/dev/a", "", "", "permissions"),
            ("/dev/a", "", "rx", "permissions"),
        ] {
            let error = planned(host, container, permissions, false).unwrap_err();
            assert_eq!(error.field, format!("config.devices[0].{want}"));
        }
    }

    #[test]
    fn a_cdi_device_replaces_another_on_its_path() {
        let device = |source: &str| shim::Device {
            source: source.into(),
            destination: "/dev/x".into(),
            ..Default::default()
        };
        let asked = cri::Device {
            host_path: "/dev/x".into(),
            permissions: "r".into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            devices: vec![asked],
            ..Default::default()
        };
        let planned = plan(&config, false, &[device("/dev/y")]).unwrap();
        assert_eq!(planned, [device("/dev/y")]);
    }
}
