//! What is mounted in a container, in the order of mounting: the kernel's file systems, then bind
//! mounts, images and the volumes that the image declares.

mod bind;
mod declared;
mod image;
mod options;
mod proc;
mod system;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use corten_proto::shim::{self, mount::Kind};

use super::{Input, Invalid, Security, user_namespace};

pub(super) use bind::validate;
pub(crate) use options::MountOptions;
pub(crate) use proc::refusal as proc_refusal;

/// Parents come before what lies below them, and the request's order is kept otherwise. A mount of
/// the request takes the place of ours on the same destination, and one of a CDI device that of both; one on `/dev` also of the file
/// systems below it, but not of the pod's shared memory.
pub(super) fn plan(input: &Input<'_>) -> Result<Vec<shim::Mount>, Invalid> {
    let (container, pod) = (input.container, input.pod.config);
    let mut asked = bind::plan(container.config, pod, container.image_volumes)?;
    let devices = &container.injection.mounts;
    asked.retain(|mount| {
        devices
            .iter()
            .all(|other| other.destination != mount.destination)
    });
    asked.extend_from_slice(devices);
    reject_absent(&mut asked, input.container.absent_sources_to_reject);
    let taken: HashSet<&str> = asked.iter().map(|mount| &*mount.destination).collect();
    let below_dev = |path: &str| taken.contains("/dev") && path.starts_with("/dev/");
    let user_namespace = user_namespace::of_pod(pod)?;
    let mut mounts = system::kernel(input.security.privileged(), user_namespace.as_ref());
    mounts.retain(|ours| !taken.contains(&*ours.destination) && !below_dev(&ours.destination));
    let mut binds = system::pod_files(input)?;
    binds.retain(|ours| !taken.contains(&*ours.destination));
    binds.extend(asked.iter().cloned());
    if let Some(dir) = input.container.volumes_dir {
        let planned: Vec<_> = mounts.iter().chain(&binds).collect();
        let declared = declared::plan(input.container.image, dir, &planned)?;
        binds.extend(declared);
    }
    binds.sort_by_key(|mount| depth(&mount.destination));
    mounts.extend(binds);
    Ok(mounts)
}

/// The operator may want an error where a source is missing (the CRI does), since a directory in its place does harm.
fn reject_absent(mounts: &mut [shim::Mount], sources: &[PathBuf]) {
    for mount in mounts {
        if let Some(Kind::Bind(bind)) = &mut mount.kind {
            let source = Path::new(&bind.source);
            bind.create_source &= !sources.iter().any(|rejected| rejected == source);
        }
    }
}

/// Paths that are covered, and paths that are made read-only. The CRI's client lists them; an empty
/// list is a wish (procMount: Unmasked), so there is no default. A privileged container has none.
pub(super) fn hidden_paths(security: Security<'_>) -> (Vec<String>, Vec<String>) {
    match security.0 {
        Some(context) if !context.privileged => {
            (context.masked_paths.clone(), context.readonly_paths.clone())
        }
        _ => Default::default(),
    }
}

fn depth(destination: &str) -> usize {
    destination.matches('/').count()
}

#[cfg(test)]
mod tests {
    use corten_proto::cri;

    use super::*;
    use crate::spec::tests::Fixture;

    /// One mount in words, as in `mount` with its options.
    fn words(mount: &shim::Mount) -> String {
        let attributes = mount.attributes.unwrap_or_default();
        let flags = [
            (attributes.readonly, " ro"),
            (attributes.nosuid, " nosuid"),
            (attributes.nodev, " nodev"),
            (attributes.noexec, " noexec"),
        ];
        let flags: String = flags
            .into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, word)| word)
            .collect();
        let destination = &mount.destination;
        match &mount.kind {
            Some(Kind::Filesystem(kind)) => {
                format!("{} {destination} {}{flags}", kind.r#type, kind.options)
            }
            Some(Kind::Bind(bind)) => {
                let mut more = String::new();
                if bind.propagation != 0 {
                    more += &format!(" {:?}", bind.propagation());
                }
                if bind.create_source {
                    more += " create";
                }
                if bind.recursive_readonly {
                    more += " rro";
                }
                format!("bind {} {destination}{flags}{more}", bind.source)
            }
            Some(Kind::Cgroup(_)) => format!("cgroup {destination}{flags}"),
            Some(Kind::Image(image)) => format!("image {:?} {destination}{flags}", image.lower),
            Some(Kind::Declared(volume)) => {
                format!("volume {} {destination}{flags}", volume.source)
            }
            None => "nothing".into(),
        }
    }

    #[track_caller]
    fn check(fixture: &Fixture, want: &[&str]) {
        let mounts = fixture.with_input(plan).unwrap();
        assert_eq!(mounts.iter().map(words).collect::<Vec<_>>(), want);
    }

    fn bind(host: &str, container: &str) -> cri::Mount {
        cri::Mount {
            host_path: host.into(),
            container_path: container.into(),
            ..Default::default()
        }
    }

    const KERNEL: [&str; 6] = [
        "proc /proc  nosuid nodev noexec",
        "tmpfs /dev mode=755,size=65536k nosuid",
        "devpts /dev/pts newinstance,ptmxmode=0666,mode=0620,gid=5 nosuid noexec",
        "mqueue /dev/mqueue  nosuid nodev noexec",
        "sysfs /sys  ro nosuid nodev noexec",
        "cgroup /sys/fs/cgroup ro nosuid nodev noexec",
    ];
    const FILES: [&str; 4] = [
        "bind /state/p/shm /dev/shm nosuid nodev noexec",
        "bind /state/p/etc/hostname /etc/hostname",
        "bind /state/p/etc/hosts /etc/hosts",
        "bind /state/p/etc/resolv.conf /etc/resolv.conf",
    ];

    #[test]
    fn a_container_without_mounts_has_the_defaults() {
        check(&Fixture::default(), &[&KERNEL[..], &FILES].concat());
    }

    #[test]
    fn a_privileged_one_may_write_to_sys_and_to_its_cgroup() {
        let privileged = [
            &KERNEL[..4],
            &[
                "sysfs /sys  nosuid nodev noexec",
                "cgroup /sys/fs/cgroup nosuid nodev noexec",
            ],
            &FILES,
        ];
        check(&Fixture::default().privileged(), &privileged.concat());
    }

    #[test]
    fn host_ipc_brings_the_hosts_shm() {
        let fixture = Fixture {
            pins: false,
            ..Fixture::default()
        }
        .pid(cri::NamespaceMode::Node);
        check(
            &fixture,
            &[&KERNEL[..], &["bind /dev/shm /dev/shm"], &FILES[1..]].concat(),
        );
    }

    #[test]
    fn a_read_only_root_makes_the_pods_files_read_only() {
        let mut fixture = Fixture::default();
        fixture.security().readonly_rootfs = true;
        let files = [
            FILES[0],
            "bind /state/p/etc/hostname /etc/hostname ro",
            "bind /state/p/etc/hosts /etc/hosts ro",
            "bind /state/p/etc/resolv.conf /etc/resolv.conf ro",
        ];
        check(&fixture, &[&KERNEL[..], &files].concat());
    }

    #[test]
    fn the_requests_mounts_come_parents_first_and_keep_their_order() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![
            bind("/1", "/a/b/c"),
            bind("/2", "/z"),
            bind("/3", "/a"),
            bind("/4", "/a/b/"),
            bind("/5", "/z"),
        ];
        let asked = [
            "bind /2 /z create",
            "bind /3 /a create",
            "bind /5 /z create",
        ];
        let deeper = ["bind /4 /a/b create", "bind /1 /a/b/c create"];
        check(&fixture, &[&KERNEL[..], &asked, &FILES, &deeper].concat());
    }

    #[test]
    fn a_source_that_must_be_there_is_not_made() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![bind("/etc//hostname", "/1"), bind("/etc/hosts", "/2")];
        let asked = ["bind /etc//hostname /1", "bind /etc/hosts /2 create"];
        check(&fixture, &[&KERNEL[..], &asked, &FILES].concat());
    }

    #[test]
    fn declared_volumes_stand_among_the_requests_mounts() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![bind("/1", "/a/b/c"), bind("/2", "/z")];
        fixture.image.volumes = vec!["/a/b".into(), "/z/y".into(), "/proc".into()];
        let asked = ["bind /2 /z create"];
        let deeper = ["volume /root/c/volumes/0 /a/b", "bind /1 /a/b/c create"];
        check(&fixture, &[&KERNEL[..], &asked, &FILES, &deeper].concat());
    }

    #[test]
    fn the_requests_mounts_replace_ours() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![
            bind("/h", "/etc/hosts"),
            bind("/s", "/dev/shm/"),
            bind("/p", "//proc"),
            bind("/c", "/sys/fs/cgroup"),
        ];
        let want = [
            "bind /p /proc create",
            FILES[1],
            FILES[3],
            "bind /h /etc/hosts create",
            "bind /s /dev/shm create",
            "bind /c /sys/fs/cgroup create",
        ];
        check(&fixture, &[&KERNEL[1..5], &want].concat());
    }

    #[test]
    fn a_dev_of_its_own_keeps_the_pods_shared_memory() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![bind("/dev", "/dev")];
        let want = [KERNEL[0], KERNEL[4], KERNEL[5], "bind /dev /dev create"];
        check(&fixture, &[&want, &FILES[..]].concat());
    }

    #[test]
    fn flags_and_propagation_are_kept() {
        let mut fixture = Fixture::default();
        fixture.config.mounts = vec![
            cri::Mount {
                readonly: true,
                ..bind("/1", "/1")
            },
            cri::Mount {
                readonly: true,
                recursive_read_only: true,
                ..bind("/2", "/2")
            },
            cri::Mount {
                propagation: 1,
                selinux_relabel: true,
                ..bind("/3", "/3")
            },
            cri::Mount {
                propagation: 2,
                ..bind("/4", "/4")
            },
            cri::Mount {
                mount_options: vec!["noexec".into(), "nodev".into()],
                ..bind("/5", "/5")
            },
        ];
        let want = [
            "bind /1 /1 ro create",
            "bind /2 /2 ro create rro",
            "bind /3 /3 HostToContainer create",
            "bind /4 /4 Bidirectional create",
            "bind /5 /5 nodev noexec create",
        ];
        check(&fixture, &[&KERNEL[..], &want, &FILES].concat());
    }

    #[test]
    fn masks_are_the_requests_and_none_for_the_privileged() {
        let mut fixture = Fixture::default();
        fixture.security().masked_paths = vec!["/proc/kcore".into()];
        fixture.security().readonly_paths = vec!["/proc/sys".into()];
        let hidden = |fixture: &Fixture| fixture.with_input(|input| hidden_paths(input.security));
        assert_eq!(
            hidden(&fixture),
            (vec!["/proc/kcore".into()], vec!["/proc/sys".into()])
        );
        assert_eq!(hidden(&fixture.privileged()), (vec![], vec![]));
        assert_eq!(hidden_paths(Security(None)), (vec![], vec![]));
    }
}
