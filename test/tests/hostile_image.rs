//! Images and processes that aim at the host: links where mounts go, odd files where the runtime reads, its own binary.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{
    handler, image,
    leftovers::Leftovers,
    node::{Node, binary},
    pod,
};
use nix::{
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::mkfifo,
};
use tonic::Code;

const HOSTILE: &str = "test.example/hostile:1";

fn hostile(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = pod::container(name, script);
    config.image.as_mut().unwrap().image = HOSTILE.into();
    config
}

/// A directory of the host that nothing may change.
fn outside(node: &Node) -> PathBuf {
    let dir = node.dir().join("outside");
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::write(dir.join("etc/passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
    dir
}

fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(files(&path));
        }
    }
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_the_image_lead_nowhere_else() {
    let node = Node::start().await.unwrap();
    let outside = outside(&node);
    let before = files(&outside);
    let up = format!("{}{}", "../".repeat(20), outside.display());
    image::load_changed(&node, HOSTILE, |tree, _| {
        fs::remove_dir_all(tree.join("etc"))?;
        symlink(outside.join("etc"), tree.join("etc"))?;
        for name in ["absolute", "dev", "run"] {
            symlink(&outside, tree.join(name))?;
        }
        symlink(&up, tree.join("relative"))?;
        symlink("/proc/1/root", tree.join("magic"))?;
        Ok(())
    })
    .await
    .unwrap();
    let data = node.dir().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "mine").unwrap();

    let mut runtime = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::pod("links"));
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let mut config = hostile("links", "sleep 1000");
    config.mounts = vec![
        pod::mount(&data, "/absolute/made"),
        pod::mount(&data, "/relative/made-too"),
        pod::mount(data.join("file"), "/relative/file"),
    ];
    config.working_dir = "/absolute/work/here".into();
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let seen = "cat /absolute/made/file /relative/made-too/file /relative/file; pwd; readlink -f /proc/self/cwd";
    let seen = pod::output(&mut runtime, &id, seen).await.unwrap();
    assert!(
        seen.starts_with("mineminemine") && seen.contains("/work/here"),
        "{seen}"
    );
    // The pod's own files came through a link, too: into the container, not to the host.
    let hostname = pod::output(&mut runtime, &id, "cat /etc/hostname")
        .await
        .unwrap();
    assert_eq!(hostname, "links\n");
    assert_eq!(files(&outside), before);

    // The container's own user file, and not the host's behind the link.
    let mut config = hostile("evil", "true");
    pod::security(&mut config).run_as_username = "evil".into();
    let refused = pod::create(&mut runtime, &pod_id, &config)
        .await
        .unwrap_err();
    assert!(format!("{refused:#}").contains("evil"), "{refused:#}");
    assert_eq!(files(&outside), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_place_of_a_kernel_file_system_is_refused() {
    let node = Node::start().await.unwrap();
    let outside = outside(&node);
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("links"))
        .await
        .unwrap();
    for name in ["proc", "sys"] {
        image::load_changed(&node, HOSTILE, |tree, _| {
            Ok(symlink(&outside, tree.join(name))?)
        })
        .await
        .unwrap();
        let before = Leftovers::count(&node).unwrap();
        let refused = pod::create(&mut runtime, &pod_id, &hostile(name, "true")).await;
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(
            refused.contains(&format!("/{name}")) && refused.contains("symlink"),
            "{refused}"
        );
        Leftovers::settle(&node, &before).await.unwrap();
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_user_files_are_refused_and_nothing_waits_for_them() {
    let node = Node::start().await.unwrap();
    image::load_changed(&node, HOSTILE, |tree, _| {
        fs::remove_file(tree.join("etc/passwd"))?;
        mkfifo(&tree.join("etc/passwd"), Mode::S_IRUSR)?;
        fs::remove_file(tree.join("etc/group"))?;
        symlink("/proc/self/environ", tree.join("etc/group"))?;
        Ok(())
    })
    .await
    .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("odd")).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut config = hostile("odd", "true");
    pod::security(&mut config).run_as_username = "app".into();
    let refused = pod::create(&mut runtime, &pod_id, &config)
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("/etc/passwd"),
        "{refused:#}"
    );
    Leftovers::settle(&node, &before).await.unwrap();
}

/// The number of a character device that no driver has: its open fails with ENXIO, which tells that it was tried.
fn unused_device() -> u64 {
    let known = fs::read_to_string("/proc/devices").unwrap();
    let known: Vec<u64> = known
        .lines()
        .take_while(|line| !line.starts_with("Block"))
        .filter_map(|line| line.trim().split(' ').next()?.parse().ok())
        .collect();
    let major = (300..511).find(|major| !known.contains(major)).unwrap();
    makedev(major, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_in_place_of_user_files_are_never_opened() {
    let node = handler::node(&handler::oci_table().unwrap()).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    for (index, name) in ["passwd", "group"].into_iter().enumerate() {
        image::load_changed(&node, HOSTILE, |tree, _| {
            let path = tree.join("etc").join(name);
            fs::remove_file(&path)?;
            Ok(mknod(
                &path,
                SFlag::S_IFCHR,
                Mode::S_IRUSR,
                unused_device(),
            )?)
        })
        .await
        .unwrap();
        // On the way to an external runtime nothing is in a cgroup that forbids devices.
        for handler in [handler::OCI, ""] {
            let config = pod::pod(&format!("device-{index}{handler}"));
            let pod_id = handler::run_pod(&mut runtime, &config, handler)
                .await
                .unwrap();
            let mut config = hostile("device", "true");
            config.linux = None;
            let refused = pod::create(&mut runtime, &pod_id, &config).await;
            // No name is asked for, but the home and the groups of root.
            let refused = refused.unwrap_err();
            assert_eq!(
                refused.code(),
                Code::InvalidArgument,
                "{handler}: {refused}"
            );
            let told = format!("\"/etc/{name}\": it is not a file");
            assert!(refused.message().contains(&told), "{handler}: {refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_user_file_is_not_read_whole() {
    let node = Node::start().await.unwrap();
    image::load_changed(&node, HOSTILE, |tree, _| {
        let file = fs::File::options()
            .write(true)
            .open(tree.join("etc/passwd"))?;
        Ok(file.set_len(64 << 20)?)
    })
    .await
    .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("huge")).await.unwrap();
    let mut config = hostile("huge", "true");
    pod::security(&mut config).run_as_username = "app".into();
    let refused = pod::create(&mut runtime, &pod_id, &config)
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("/etc/passwd"),
        "{refused:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_working_directory_is_outside() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("cwd")).await.unwrap();
    // A descriptor that leaked from the runtime would be a way to the host's files.
    for number in 0..24 {
        let mut config = pod::container(&format!("cwd-{number}"), "sleep 1000");
        config.working_dir = format!("/proc/self/fd/{number}");
        let refused = pod::run(&mut runtime, &pod_id, &config).await;
        assert!(refused.is_err(), "descriptor {number} was a directory");
    }
    let mut config = pod::container("up", "sleep 1000");
    config.working_dir = "/tmp/../../../../tmp".into();
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let seen = pod::output(
        &mut runtime,
        &id,
        "readlink /proc/1/cwd; ls -A /proc/1/cwd/..",
    )
    .await
    .unwrap();
    assert!(seen.starts_with("/tmp\n") && seen.contains("bin"), "{seen}");
    let mut config = pod::container("file", "true");
    config.working_dir = "/etc/passwd".into();
    let refused = pod::run(&mut runtime, &pod_id, &config).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("/etc/passwd"),
        "{refused:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shim_cannot_be_reached_from_inside() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let shim = binary("corten-shim").unwrap();
    let original = fs::read(&shim).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("shared");
    let linux = config.linux.as_mut().unwrap();
    let context = linux.security_context.as_mut().unwrap();
    context.namespace_options = Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let mut config = pod::container("inside", "sleep 1000");
    pod::security(&mut config).namespace_options =
        Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    // Even with the right to trace.
    pod::security(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_PTRACE".into()],
        ..Default::default()
    });
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let init = pod::output(&mut runtime, &id, "cat /proc/1/cmdline")
        .await
        .unwrap();
    assert_eq!(init, "corten-pod\0");
    for script in [
        "ls /proc/1/root/proc",
        "echo > /proc/1/exe",
        "cat /proc/1/root/etc/passwd",
    ] {
        let done = pod::exec(&mut runtime, &id, script).await.unwrap();
        assert_ne!(
            done.exit_code,
            0,
            "{script}: {}",
            String::from_utf8_lossy(&done.stdout)
        );
    }

    // A program that is the runtime itself at the moment of its start, and one that waits for the runtime to come in.
    let hunter = "while :; do for p in /proc/[0-9]*; do { exec 9<$p/exe; } 2>/dev/null && echo x 2>/dev/null >/proc/self/fd/9; done; done";
    let mut config = pod::container("hunter", hunter);
    pod::security(&mut config).namespace_options =
        Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    let hunter = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    for _ in 0..20 {
        for cmd in ["/proc/self/exe", "true"] {
            let request = cri::ExecSyncRequest {
                container_id: hunter.clone(),
                cmd: vec![cmd.into()],
                timeout: 10,
            };
            // Whatever becomes of it.
            let _ = runtime.exec_sync(request).await;
        }
    }
    let mut config = pod::container("itself", "");
    config.command = vec!["/proc/self/exe".into()];
    let _ = pod::run(&mut runtime, &pod_id, &config).await;
    assert!(
        fs::read(&shim).unwrap() == original,
        "the shim's binary was changed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_annotations_are_told_and_decide_nothing() {
    let node = Node::start().await.unwrap();
    image::load_changed(&node, HOSTILE, |_, config| {
        config["Labels"] =
            serde_json::json!({ "io.kubernetes.pod.name": "other", "corten.privileged": "true" });
        config["Volumes"] = serde_json::json!({ "/etc": {}, "/../..": {} });
        Ok(())
    })
    .await
    .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("labels"))
        .await
        .unwrap();
    let mut config = hostile("labels", "sleep 1000");
    for map in [&mut config.labels, &mut config.annotations] {
        map.insert("../../key".into(), "\n../value\0".into());
        map.insert("io.kubernetes.cri-o.Spoofed".into(), "true".into());
    }
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let status = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(
        (status.labels, status.annotations),
        (config.labels, config.annotations)
    );
    let bounding = pod::output(&mut runtime, &id, "grep CapBnd /proc/self/status")
        .await
        .unwrap();
    assert!(bounding.contains("a80425fb"), "{bounding}");
}
