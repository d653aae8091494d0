//! What goes wrong around the daemon: killed shims, a lost namespace, a full disk, a reboot, kills at any moment, a crowd.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, time::Duration};

use corten_proto::cri::{self, ContainerState, PodSandboxState};
use corten_test::{
    file_registry::FileRegistry, image, leftovers::Leftovers, node::Node, pod, wait::until,
};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tonic::Code;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

/// Kills the processes of the node whose command line fits.
fn kill_all(node: &Node, pattern: &str) {
    node.shell(&format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -qE '{pattern}' && kill -9 ${{p#/proc/}} 2>/dev/null || true; done"
    ))
    .unwrap();
}

async fn pod_state(runtime: &mut pod::Runtime, id: &str) -> PodSandboxState {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.into(),
        verbose: false,
    };
    let reply = runtime.pod_sandbox_status(request).await.unwrap();
    reply.into_inner().status.unwrap().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_container_and_nothing_else() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("shims"))
        .await
        .unwrap();
    let script = "trap '' TERM; sleep 995 & while :; do sleep 0.1; done";
    let mut ids = Vec::new();
    for name in ["one", "two", "created"] {
        let config = pod::container(name, script);
        ids.push(pod::create(&mut runtime, &pod_id, &config).await.unwrap());
    }
    for id in &ids[..2] {
        pod::start(&mut runtime, id).await.unwrap();
    }
    kill_all(
        &node,
        &format!("[c]orten-shim container ({}|{})", ids[0], ids[2]),
    );
    for id in [&ids[0], &ids[2]] {
        let status = pod::exited(&runtime, id).await.unwrap();
        assert!(
            status.exit_code != 0 && status.finished_at > 0,
            "{status:?}"
        );
        assert!(!status.message.is_empty());
    }
    assert_eq!(
        pod::output(&mut runtime, &ids[1], "echo fine")
            .await
            .unwrap(),
        "fine\n"
    );
    until(|| async {
        let count =
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep [9]95' | wc -l";
        let left = node.shell(count)?;
        // The script of the container that lives, and its child.
        anyhow::ensure!(left.trim() == "2", "{left}");
        Ok(())
    })
    .await
    .unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_its_namespace_is_removed_all_the_same() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("lost")).await.unwrap();
    node.shell("for n in /run/netns/*; do umount $n; rm $n; done")
        .unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
    let again = pod::run_pod(&mut runtime, &pod::pod("lost")).await.unwrap();
    pod::remove_pod(&mut runtime, &again).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_an_image_can_still_be_removed() {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    fs::create_dir(node.root()).unwrap();
    let root = node.root().display().to_string();
    node.shell(&format!("mount -t tmpfs -o size=12m tmpfs {root}"))
        .unwrap();
    node.start_daemon().await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    image::load_busybox(&node).await.unwrap();
    let big = node.dir().join("big");
    fs::create_dir(&big).unwrap();
    fs::write(big.join("file"), vec![7; 16 << 20]).unwrap();
    image::archive(
        node.dir(),
        &big,
        &serde_json::json!({}),
        "test.example/big:1",
    )
    .unwrap();
    let layer = fs::read(node.dir().join("layer.tar")).unwrap();
    registry.add("big", &layer, &serde_json::json!({})).unwrap();

    let files = |node: &Node| {
        node.shell(&format!("find {root} | grep -v '^{root}/images' | sort"))
            .unwrap()
    };
    let before = files(&node);
    let mut images = node.images().await.unwrap();
    let pull = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: FileRegistry::reference(":big"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let full = images.pull_image(pull).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    assert!(full.message().contains("No space left"), "{full}");
    until(|| async {
        let now = files(&node);
        anyhow::ensure!(now == before, "left behind:\n{now}");
        Ok(())
    })
    .await
    .unwrap();

    // Not a byte is free now, and removing frees some.
    node.shell(&format!(
        "dd if=/dev/zero of={root}/filler bs=64k 2>/dev/null || true"
    ))
    .unwrap();
    let remove = cri::RemoveImageRequest {
        image: Some(cri::ImageSpec {
            image: image::BUSYBOX.into(),
            ..Default::default()
        }),
    };
    images.remove_image(remove).await.unwrap();
    let list = cri::ListImagesRequest::default();
    assert!(
        images
            .list_images(list)
            .await
            .unwrap()
            .into_inner()
            .images
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_pods_are_not_ready_and_go_cleanly() {
    let mut node = node().await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut ids = Vec::new();
    for config in [pod::pod("bridged"), pod::host_network_pod("host")] {
        let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
        let config = pod::container("runs", "sleep 1000");
        let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        ids.push((pod_id, id));
    }
    // As a reboot does: no process, no mount, no namespace, no link; what is on disk stays.
    node.end_daemon(Signal::SIGKILL).unwrap();
    kill_all(&node, "[c]orten-shim|[s]leep 1000");
    let state = node.state().display().to_string();
    node.shell(&format!(
        "for n in /run/netns/*; do umount $n; rm $n; done; awk '{{ print $5 }}' /proc/self/mountinfo | grep ^{state}/ | sort -r | xargs -r umount -l; umount -l {state}; rm -rf {state}"
    ))
    .unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    for (pod_id, id) in &ids {
        assert_eq!(
            pod_state(&mut runtime, pod_id).await,
            PodSandboxState::SandboxNotready
        );
        let status = pod::status(&mut runtime, id).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert!(
            status.finished_at > 0 && status.exit_code == 255,
            "{status:?}"
        );
        pod::remove_pod(&mut runtime, pod_id).await.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_a_removal_leaves_nothing() {
    let mut node = node().await;
    let before = Leftovers::count(&node).unwrap();
    for micros in (0..12).map(|step| step * 900) {
        let mut runtime = node.runtime().await.unwrap();
        let pod_id = pod::run_pod(&mut runtime, &pod::pod("cut")).await.unwrap();
        let config = pod::container("cut", "sleep 1000");
        pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        let id = pod_id.clone();
        let flow = tokio::spawn(async move { pod::remove_pod(&mut runtime, &id).await });
        tokio::time::sleep(Duration::from_micros(micros)).await;
        node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = flow.await;
        node.start_daemon().await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
        Leftovers::settle(&node, &before).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_pods_comes_and_goes() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    let mut crowd = JoinSet::new();
    for number in 0..24 {
        let mut runtime = node.runtime().await.unwrap();
        crowd.spawn(async move {
            let name = format!("crowd-{number}");
            let pod_id = pod::run_pod(&mut runtime, &pod::pod(&name)).await.unwrap();
            let config = pod::container("one", "sleep 1000");
            let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
            let seen = pod::output(
                &mut runtime,
                &id,
                "hostname; ip -o -4 address show eth0 | wc -l",
            );
            assert_eq!(seen.await.unwrap(), format!("{name}\n1\n"));
            pod::stop(&mut runtime, &id, 0).await.unwrap();
            pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
        });
    }
    crowd.join_all().await;
    Leftovers::settle(&node, &before).await.unwrap();
}
