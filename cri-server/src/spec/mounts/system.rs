//! The mounts that every container has.

use corten_proto::shim;
use shim::{MountAttributes, mount::Kind};

use crate::spec::{Input, Invalid, path, user_namespace};

/// For what holds neither programs nor devices.
const DATA: MountAttributes = MountAttributes {
    readonly: false,
    nosuid: true,
    nodev: true,
    noexec: true,
};

/// Group tty, in every distribution's /etc/group.
const TTY: u32 = 5;

/// `/proc`, `/dev` and `/sys` with what belongs below them. Devices in `/dev` are the shim's to
/// make.
///
/// They are mounted by the host's root, for whom the terminals' group has another number where the
/// pod has a user namespace.
///
/// Rule: OCI runtime-spec, config-linux.md, "Default Filesystems"; sizes and modes as other
/// runtimes have them.
pub(super) fn kernel(
    privileged: bool,
    user_namespace: Option<&shim::UserNamespace>,
) -> Vec<shim::Mount> {
    let tty = user_namespace.map_or(TTY, |ids| user_namespace::outside(&ids.gids, TTY));
    let dev = MountAttributes {
        nosuid: true,
        ..Default::default()
    };
    let devpts = MountAttributes {
        nosuid: true,
        noexec: true,
        ..Default::default()
    };
    let sys = MountAttributes {
        readonly: !privileged,
        ..DATA
    };
    vec![
        filesystem("proc", "/proc", "", DATA),
        filesystem("tmpfs", "/dev", "mode=755,size=65536k", dev),
        filesystem(
            "devpts",
            "/dev/pts",
            &format!("newinstance,ptmxmode=0666,mode=0620,gid={tty}"),
            devpts,
        ),
        filesystem("mqueue", "/dev/mqueue", "", DATA),
        filesystem("sysfs", "/sys", "", sys),
        mount("/sys/fs/cgroup", sys, Kind::Cgroup(shim::CgroupView {})),
    ]
}

/// Shared memory and the three files in `/etc` that are the pod's.
pub(super) fn pod_files(input: &Input<'_>) -> Result<Vec<shim::Mount>, Invalid> {
    let pod = input.pod;
    let mut mounts = vec![match pod.ipc {
        Some(_) => bind(path::text(&pod.state_dir.join("shm"))?, "/dev/shm", DATA),
        None => bind("/dev/shm".into(), "/dev/shm", MountAttributes::default()),
    }];
    let attributes = MountAttributes {
        readonly: input.security.readonly_rootfs(),
        ..Default::default()
    };
    for name in ["hostname", "hosts", "resolv.conf"] {
        let source = path::text(&pod.etc.join(name))?;
        mounts.push(bind(source, &format!("/etc/{name}"), attributes));
    }
    Ok(mounts)
}

fn filesystem(
    kind: &str,
    destination: &str,
    options: &str,
    attributes: MountAttributes,
) -> shim::Mount {
    let filesystem = shim::Filesystem {
        r#type: kind.into(),
        options: options.into(),
    };
    mount(destination, attributes, Kind::Filesystem(filesystem))
}

fn bind(source: String, destination: &str, attributes: MountAttributes) -> shim::Mount {
    mount(
        destination,
        attributes,
        Kind::Bind(shim::Bind {
            source,
            ..Default::default()
        }),
    )
}

fn mount(destination: &str, attributes: MountAttributes, kind: Kind) -> shim::Mount {
    shim::Mount {
        destination: destination.into(),
        attributes: Some(attributes),
        kind: Some(kind),
        ..Default::default()
    }
}
