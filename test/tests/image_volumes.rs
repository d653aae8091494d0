//! Images as volumes: read-only, executable, in whole or in part, and kept as long as a container has them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod, wait::until};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

const DATA: &str = "test.example/data:1";
/// A single layer, and nothing above or below.
const SMALL: &str = "test.example/small:1";

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start_with(&[]).await.unwrap();
        image::load_busybox(&node).await.unwrap();
        load_data(&node);
        let mut runtime = node.runtime().await.unwrap();
        let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("volumes"))
            .await
            .unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, name: &str, mounts: Vec<cri::Mount>) -> pod::Reply<String> {
        let mut config = pod::container(name, "sleep 1000");
        config.mounts = mounts;
        pod::run(&mut self.runtime, &self.pod, &config).await
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    async fn refused(&mut self, mount: cri::Mount) -> tonic::Status {
        self.run("refused", vec![mount]).await.unwrap_err()
    }

    async fn remove_image(&self, name: &str) {
        let request = cri::RemoveImageRequest {
            image: Some(spec(name)),
        };
        let mut images = self.node.images().await.unwrap();
        images.remove_image(request).await.unwrap();
    }
}

/// Two layers, of which the upper one takes away and replaces, and links of every kind.
fn load_data(node: &Node) {
    let dir = node.dir();
    let mut lower = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("gone", 0o644),
        ("etc/name", 0o640),
        ("dir/sub/deep", 0o600),
    ] {
        add_file(&mut lower, path, mode, b"lower\n");
    }
    let script = b"#!/bin/sh\necho ran $1\n";
    add_file(&mut lower, "bin/script", 0o755, script);
    let mut upper = tar::Builder::new(Vec::new());
    add_file(&mut upper, ".wh.gone", 0o644, b"");
    add_file(&mut upper, "etc/name", 0o444, b"upper\n");
    let links = [
        ("inside", "dir/sub"),
        ("out", "../../../etc"),
        ("absolute", "/etc"),
    ];
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        upper.append_link(&mut header, path, target).unwrap();
    }
    let layers = [lower, upper].map(|layer| layer.into_inner().unwrap());
    let load = |layers: &[&[u8]], name: &str| {
        let archive: PathBuf = image::archive_of_layers(dir, layers, &json!({}), name).unwrap();
        let archive = archive.display().to_string();
        node.corten_image(&["load", &archive]).unwrap();
    };
    load(&[&layers[0], &layers[1]], DATA);
    load(&[&layers[0]], SMALL);
}

fn add_file(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(7);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

fn spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.into(),
        ..Default::default()
    }
}

fn volume(name: &str, sub_path: &str, path: &str) -> cri::Mount {
    cri::Mount {
        container_path: path.into(),
        readonly: true,
        image: Some(spec(name)),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_read_only_and_executable() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let mut noexec = volume(DATA, "", "/noexec");
    noexec.mount_options = vec!["noexec".into()];
    let mounts = vec![
        volume(DATA, "", "/data"),
        volume(SMALL, "", "/small"),
        noexec,
    ];
    let id = site.run("whole", mounts).await.unwrap();
    let seen = "cat /data/etc/name; stat -c '%a %u' /data/etc/name; ls -A /data /small; /data/bin/script well";
    assert_eq!(
        site.output(&id, seen).await,
        "upper\n444 7\n/data:\nabsolute\nbin\ndir\netc\ninside\nout\n\n/small:\nbin\ndir\netc\ngone\nran well\n"
    );
    for script in [
        "touch /data/new",
        "rm /data/etc/name",
        "touch /small/new",
        "mount -o remount,rw /data",
        "/noexec/bin/script well",
    ] {
        let done = pod::exec(&mut site.runtime, &id, script).await.unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
    }
    // The host sees no mount of a container's.
    let during = Leftovers::count(&site.node).unwrap();
    assert_eq!(during.mounts, before.mounts);
    pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    let request = cri::RemoveContainerRequest { container_id: id };
    site.runtime.remove_container(request).await.unwrap();
    Leftovers::settle(&site.node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_the_images_id() {
    let mut site = Site::new().await;
    let id = site
        .run("told", vec![volume(DATA, "etc", "/data")])
        .await
        .unwrap();
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    let mut images = site.node.images().await.unwrap();
    let request = cri::ImageStatusRequest {
        image: Some(spec(DATA)),
        verbose: false,
    };
    let image = images.image_status(request).await.unwrap().into_inner();
    let mut want = volume(DATA, "etc", "/data");
    want.image.as_mut().unwrap().image_ref = image.image.unwrap().id;
    assert_eq!(status.mounts, [want]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_path_is_a_directory_or_a_file_of_the_image() {
    let mut site = Site::new().await;
    let mounts = vec![
        volume(DATA, "dir/sub", "/sub"),
        volume(DATA, "inside", "/link"),
        volume(DATA, "etc/name", "/etc/hosts"),
        volume(DATA, "./bin/script", "/run/it"),
    ];
    let id = site.run("parts", mounts).await.unwrap();
    let seen = "cat /sub/deep /link/deep /etc/hosts; ls -A /sub; /run/it well";
    assert_eq!(
        site.output(&id, seen).await,
        "lower\nlower\nupper\ndeep\nran well\n"
    );
    for script in ["touch /sub/new", "echo x >/etc/hosts"] {
        let done = pod::exec(&mut site.runtime, &id, script).await.unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_told_in_the_kubelets_words() {
    let mut site = Site::new().await;
    for sub_path in [
        "none",
        "etc/none",
        "out",
        "out/passwd",
        "absolute",
        "etc/name/x",
        "gone",
    ] {
        let refused = site.refused(volume(DATA, sub_path, "/data")).await;
        assert_eq!(refused.code(), Code::Unknown, "{sub_path}: {refused}");
        let message = refused.message();
        assert!(
            message.starts_with("ImageVolumeMountFailed: ") && message.contains(sub_path),
            "{message}"
        );
    }
    let refused = site
        .refused(volume("test.example/none:1", "", "/data"))
        .await;
    assert_eq!(refused.code(), Code::Unknown, "{refused}");
    let want = "ImageVolumeMountFailed: config.mounts[0].image.image: image \"test.example/none:1\" does not exist";
    assert_eq!(refused.message(), want);

    let mut writable = volume(DATA, "", "/data");
    writable.readonly = false;
    let mut both = volume(DATA, "", "/data");
    both.host_path = "/tmp".into();
    let mut propagated = volume(DATA, "", "/data");
    propagated.propagation = 1;
    let mut no_image = volume(DATA, "etc", "/data");
    (no_image.image, no_image.host_path) = (None, "/tmp".into());
    for (mount, field) in [
        (writable, "readonly"),
        (both, "host_path"),
        (propagated, "propagation"),
        (no_image, "image_sub_path"),
        (volume(DATA, "/etc", "/data"), "image_sub_path"),
        (volume(DATA, "etc/../..", "/data"), "image_sub_path"),
        (volume("", "", "/data"), "image.image"),
    ] {
        let refused = site.refused(mount).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
        let field = format!("config.mounts[0].{field}:");
        assert!(refused.message().starts_with(&field), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_removed_stays_as_long_as_it_is_used() {
    let mut site = Site::new().await;
    // Nothing else has its layers.
    site.remove_image(DATA).await;
    let id = site
        .run("user", vec![volume(SMALL, "", "/data")])
        .await
        .unwrap();
    // In use, for `corten image`.
    let unused = site.node.corten_image(&["gc", "--dry-run"]).unwrap();
    assert!(!unused.contains(SMALL), "{unused}");
    let inspected = site.node.corten_image(&["inspect", SMALL]).unwrap();
    assert!(inspected.contains(&id), "{inspected}");
    let layers = site.node.root().join("layers").display().to_string();
    let layer = format!("grep -lx lower {layers}/*/etc/name");
    site.node.shell(&layer).unwrap();

    site.remove_image(SMALL).await;
    assert_eq!(site.output(&id, "cat /data/etc/name").await, "lower\n");
    // Over the death of the daemon, too.
    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    assert_eq!(site.output(&id, "cat /data/etc/name").await, "lower\n");
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    let image = status.mounts[0].image.clone().unwrap();
    assert!(image.image_ref.starts_with("sha256:"), "{image:?}");

    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
    until(|| async {
        let left = site
            .node
            .shell(&format!("ls {layers}/*/etc/name 2>/dev/null || true"))?;
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_containers_of_a_pod_have_the_same_image() {
    let mut site = Site::new().await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mounts = vec![volume(DATA, "", "/a"), volume(DATA, "etc", "/b")];
        ids.push(site.run(name, mounts).await.unwrap());
    }
    pod::stop(&mut site.runtime, &ids[0], 0).await.unwrap();
    let request = cri::RemoveContainerRequest {
        container_id: ids[0].clone(),
    };
    site.runtime.remove_container(request).await.unwrap();
    assert_eq!(
        site.output(&ids[1], "cat /a/etc/name /b/name").await,
        "upper\nupper\n"
    );
}
