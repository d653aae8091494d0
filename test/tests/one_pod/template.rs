//! Process 1 of a PID namespace that containers share, which they see in /proc/1: what it has of the node.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    thread,
};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{image, pod};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::stat::{Mode, SFlag, mknod},
};
use rustix::{
    fs::CWD,
    mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fspick},
};

use serde_json::json;

use super::site::{Site, is_in_container, options};

/// The attack, in a container: by the root and the working directory, by their file system, and in the mount namespace.
#[test]
fn attacker() {
    if !is_in_container() {
        return;
    }
    for way in ["/proc/1/root", "/proc/1/cwd"] {
        change(Path::new(way));
        make_writable(way);
        change(Path::new(way));
    }
    // Threads have a file system context of their own, as far as they ask for it.
    let _ = thread::spawn(change_mounts).join();
}

/// Whatever can be done is done.
fn change(root: &Path) {
    let none: Option<&str> = None;
    let _ = mount(none, root, none, MsFlags::MS_REMOUNT, none);
    let writable = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    let _ = mount(none, root, none, writable, none);
    let place = root.join("root");
    let _ = fs::set_permissions(root, Permissions::from_mode(0o777));
    let _ = chown(root, Some(1000), Some(1000));
    let _ = fs::write(root.join("file"), [0; 1 << 20]);
    let _ = mknod(&root.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, 0x103);
    let _ = fs::rename(&place, root.join("moved"));
    let _ = fs::remove_dir(&place);
    let _ = symlink("/proc", &place);
    let _ = fs::set_permissions(root, Permissions::from_mode(0o000));
}

fn make_writable(way: &str) {
    let Ok(context) = fspick(CWD, way, FsPickFlags::empty()) else {
        return;
    };
    let _ = fsconfig_set_flag(&context, "rw");
    let _ = fsconfig_set_string(&context, "nr_inodes", "1000");
    let _ = fsconfig_reconfigure(&context);
}

fn change_mounts() {
    let Ok(namespace) = File::open("/proc/1/ns/mnt") else {
        return;
    };
    let _ = unshare(CloneFlags::CLONE_FS);
    for _ in 0..2 {
        if setns(&namespace, CloneFlags::CLONE_NEWNS).is_err() {
            return;
        }
        change(Path::new("/"));
        make_writable("/");
        change(Path::new("/"));
        let none: Option<&str> = None;
        let tmpfs = Some("tmpfs");
        let _ = mount(tmpfs, "/root", tmpfs, MsFlags::empty(), none);
        let _ = mount(tmpfs, "/", tmpfs, MsFlags::empty(), none);
        let _ = umount2("/", MntFlags::MNT_DETACH);
    }
}

/// Makes the mount of process 1's program writable (mount_setattr(2)), and closes the program to everybody.
const CLOSE_PROGRAM: &str = "perl -e 'open F, \"<\", \"/proc/1/exe\" or exit; \
    my ($path, $attr) = (\"\", pack \"Q4\", 0, 1, 0, 0); \
    syscall 442, fileno F, $path, 0x1000, $attr, 32; \
    chmod 0, \"/proc/self/fd/\" . fileno F'";

#[tokio::test(flavor = "multi_thread")]
async fn process_1_of_a_pod_leads_to_nothing_that_other_pods_have() {
    let mut site = Site::new().await;
    let all: &[&str] = &["SYS_PTRACE", "SYS_ADMIN"];
    let mut number = 0;
    for pid in [NamespaceMode::Pod, NamespaceMode::Container] {
        for users in [false, true] {
            let options = options(pid, users);
            let pod = site.run_pod(&format!("pod-{number}"), &options).await;
            for (uid, capabilities) in [(0, all), (0, &["SYS_PTRACE"]), (0, &[]), (1000, &[])] {
                number += 1;
                let mut config =
                    site.attacker(&format!("attacker-{number}"), &options, capabilities);
                pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: uid });
                let id = site.run(&pod, &config).await;
                let mut runtime = site.runtime.clone();
                let script = format!("/attack --exact template::attacker; {CLOSE_PROGRAM}; true");
                site.soon(pod::exec(&mut runtime, &id, &script)).await;
                site.others_live().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_an_image_without_files_is_in_no_other() {
    let site = Site::new().await;
    let name = "test.example/nothing:1";
    let archive = image::archive_of_layers(site.node.dir(), &[], &json!({}), name).unwrap();
    let archive = archive.display().to_string();
    site.node.corten_image(&["load", &archive]).unwrap();
    let options = options(NamespaceMode::Container, false);
    let pod = site.run_pod("images", &options).await;
    let container = |name: &str, image: &str| {
        let mut config = site.attacker(name, &options, &["SYS_ADMIN"]);
        config.mounts.push(cri::Mount {
            container_path: "/volume".into(),
            readonly: true,
            image: Some(cri::ImageSpec {
                image: image.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        config
    };
    let id = site.run(&pod, &container("writes", name)).await;
    let mut runtime = site.runtime.clone();
    let write = "ls -A /volume; mount -o remount,bind,rw /volume; mount -o remount,rw /volume; \
        touch /volume/planted; true";
    let written = pod::output(&mut runtime, &id, write).await.unwrap();
    assert_eq!(written, "");
    for (name, image) in [("again", name), ("busybox", image::BUSYBOX)] {
        let id = site.run(&pod, &container(name, image)).await;
        let seen = pod::output(&mut runtime, &id, "ls -A /volume").await;
        let seen = seen.unwrap();
        assert!(!seen.contains("planted"), "{name}: {seen}");
    }
}
