//! Images: pulled, loaded, named alike by every call, and removed without harm to who uses them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt};

use corten_proto::cri::{self, image_service_client::ImageServiceClient};
use corten_test::{
    image,
    leftovers::Leftovers,
    node::Node,
    pod,
    registry::{self, Protection},
    wait::until,
};
use tonic::{Code, Status, transport::Channel};

type Images = ImageServiceClient<Channel>;

/// What the mirror of the node's registry is called.
const NAME: &str = "registry.example/tools/busybox";

fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: image.into(),
        ..Default::default()
    })
}

async fn pull(images: &mut Images, image: &str) -> Result<String, Status> {
    let request = cri::PullImageRequest {
        image: spec(image),
        ..Default::default()
    };
    Ok(images.pull_image(request).await?.into_inner().image_ref)
}

async fn status(images: &mut Images, image: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest {
        image: spec(image),
        verbose: false,
    };
    images
        .image_status(request)
        .await
        .unwrap()
        .into_inner()
        .image
}

async fn list(images: &mut Images) -> Vec<cri::Image> {
    let request = cri::ListImagesRequest::default();
    images
        .list_images(request)
        .await
        .unwrap()
        .into_inner()
        .images
}

async fn remove(images: &mut Images, image: &str) {
    let request = cri::RemoveImageRequest { image: spec(image) };
    images.remove_image(request).await.unwrap();
}

/// Bytes and inodes.
async fn usage(images: &mut Images) -> (u64, u64) {
    let request = cri::ImageFsInfoRequest {};
    let info = images.image_fs_info(request).await.unwrap().into_inner();
    let usage = &info.image_filesystems[0];
    (
        usage.used_bytes.unwrap().value,
        usage.inodes_used.unwrap().value,
    )
}

/// A node with a registry that serves busybox as [`NAME`]. Returns the manifest's digest, too.
async fn node_with_registry(protection: Protection, options: &[&str]) -> (Node, String) {
    let node = Node::start().await.unwrap();
    registry::start(&node, protection).await.unwrap();
    let archive = image::busybox_archive(node.dir()).unwrap();
    let digest = registry::push(&node, &archive, "tools/busybox:1", options).unwrap();
    // The server itself, so that it gets the registry's credentials.
    let hosts = registry::hosts(&node, protection, registry::ADDRESS);
    node.write_hosts("registry.example", &hosts).unwrap();
    (node, digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_gives_an_image_the_same_id() {
    let (node, digest) = node_with_registry(Protection::None, &[]).await;
    let mut images = node.images().await.unwrap();
    let (tag, by_digest) = (format!("{NAME}:1"), format!("{NAME}@{digest}"));
    let id = pull(&mut images, &tag).await.unwrap();
    let hex = id.strip_prefix("sha256:").unwrap();
    assert_eq!(hex.len(), 64);
    assert_eq!(pull(&mut images, &by_digest).await.unwrap(), id);
    let names = [
        &tag,
        &by_digest,
        &id,
        hex,
        &hex[..12],
        &format!("{tag}@{digest}"),
    ];
    for name in names {
        let image = status(&mut images, name).await;
        let image = image.unwrap_or_else(|| panic!("no image is named {name}"));
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, [&*tag]);
        assert_eq!(image.repo_digests, [&*by_digest]);
        assert!(image.size > 0);
    }
    let listed = list(&mut images).await;
    assert_eq!(
        listed.iter().map(|image| &image.id).collect::<Vec<_>>(),
        [&id]
    );

    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("ids")).await.unwrap();
    for (number, name) in [&tag, &by_digest, &id].into_iter().enumerate() {
        let mut config = pod::container(&format!("by-{number}"), "sleep 1000");
        config.image = spec(name);
        let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        let seen = pod::status(&mut runtime, &container).await.unwrap();
        assert_eq!((&seen.image_id, &seen.image_ref), (&id, &by_digest));
        // A name stays, and for an id there is the tag.
        let want = if *name == id { &tag } else { name };
        assert_eq!(seen.image.unwrap().image, *want);
    }
    for container in pod::containers(&mut runtime).await.unwrap() {
        assert_eq!(
            (&container.image_id, &container.image_ref),
            (&id, &by_digest)
        );
        let name = container.metadata.unwrap().name;
        let asked = [&tag, &by_digest, &id][name["by-".len()..].parse::<usize>().unwrap()];
        assert_eq!(container.image.unwrap().image, *asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_by_its_images_id_shows_a_name() {
    let (node, digest) = node_with_registry(Protection::None, &[]).await;
    let mut images = node.images().await.unwrap();
    let (first, second, by_digest) = (
        format!("{NAME}:1"),
        format!("{NAME}:2"),
        format!("{NAME}@{digest}"),
    );
    let id = pull(&mut images, &by_digest).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("named"))
        .await
        .unwrap();
    let run = async |name: &str, user: &str| {
        let mut config = pod::container(name, "sleep 1000");
        // As the kubelet has it.
        config.image = Some(cri::ImageSpec {
            image: id.clone(),
            user_specified_image: user.into(),
            ..Default::default()
        });
        pod::run(&mut runtime.clone(), &pod_id, &config)
            .await
            .unwrap()
    };
    let one = run("one", &second).await;
    let other = run("other", "").await;
    let shown = async |container: &str| {
        let status = pod::status(&mut runtime.clone(), container).await.unwrap();
        assert_eq!((&status.image_id, &status.image_ref), (&id, &by_digest));
        status.image.unwrap().image
    };
    // Without a tag a digest reference; with several the user's own.
    assert_eq!(shown(&one).await, by_digest);
    pull(&mut images, &first).await.unwrap();
    assert_eq!(shown(&one).await, first);
    let archive = image::busybox_archive(node.dir()).unwrap();
    registry::push(&node, &archive, "tools/busybox:2", &[]).unwrap();
    pull(&mut images, &second).await.unwrap();
    assert_eq!((shown(&one).await, shown(&other).await), (second, first));
    // Its name goes with the image, and the digest reference stays.
    remove(&mut images, &id).await;
    assert_eq!(shown(&other).await, by_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_is_no_error() {
    let node = Node::start().await.unwrap();
    let mut images = node.images().await.unwrap();
    assert_eq!(status(&mut images, "test.example/absent:1").await, None);
    remove(&mut images, "test.example/absent:1").await;
    remove(&mut images, &"a".repeat(64)).await;
    let list = cri::ListImagesRequest {
        filter: Some(cri::ImageFilter {
            image: spec("test.example/absent:1"),
        }),
    };
    let found = images.list_images(list).await.unwrap().into_inner().images;
    assert_eq!(found, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_asks_for_the_right_ca_and_password() {
    let zstd = ["--dest-compress-format", "zstd"];
    let (node, _) = node_with_registry(Protection::Tls, &zstd).await;
    let manifest = registry::manifest(&node, "tools/busybox:1").unwrap();
    let layer = manifest["layers"][0]["mediaType"].as_str().unwrap();
    assert!(layer.ends_with("+zstd"), "{layer}");
    let before = Leftovers::count(&node).unwrap();
    let mut images = node.images().await.unwrap();
    let tag = format!("{NAME}:1");
    let with = |password: &str| cri::PullImageRequest {
        image: spec(&tag),
        auth: Some(cri::AuthConfig {
            username: registry::USER.into(),
            password: password.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let anonymous = pull(&mut images, &tag).await.unwrap_err();
    assert_eq!(anonymous.code(), Code::PermissionDenied, "{anonymous}");
    let wrong = images.pull_image(with("wrong")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::PermissionDenied, "{wrong}");
    assert!(
        wrong.message().contains(&tag) && !wrong.message().contains("wrong"),
        "{wrong}"
    );

    let hosts = format!("server = 'https://{}'\n", registry::ADDRESS);
    node.write_hosts("stranger.example", &hosts).unwrap();
    let stranger = pull(&mut images, "stranger.example/tools/busybox:1")
        .await
        .unwrap_err();
    assert_eq!(stranger.code(), Code::Unknown, "{stranger}");
    assert!(stranger.message().contains("certificate"), "{stranger}");
    Leftovers::settle(&node, &before).await.unwrap();

    let pulled = images.pull_image(with(registry::PASSWORD)).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("secret"))
        .await
        .unwrap();
    let mut config = pod::container("secret", "exit 3");
    config.image = spec(&pulled.into_inner().image_ref);
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    assert_eq!(
        pod::exited(&runtime, &container).await.unwrap().exit_code,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_before_the_registry_itself() {
    let (node, _) = node_with_registry(Protection::None, &[]).await;
    let mut images = node.images().await.unwrap();
    let hosts = format!(
        "server = 'http://127.0.0.1:1'\n[host.'http://127.0.0.1:2']\n[host.'http://{}']\n",
        registry::ADDRESS
    );
    node.write_hosts("docker.io", &hosts).unwrap();
    pull(&mut images, "docker.io/tools/busybox:1")
        .await
        .unwrap();
    // The default registry, unsaid.
    assert!(status(&mut images, "tools/busybox:1").await.is_some());
    let error = pull(&mut images, "tools/absent:1").await.unwrap_err();
    for host in ["127.0.0.1:1", "127.0.0.1:2", registry::ADDRESS] {
        assert!(error.message().contains(host), "{host}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_removal_takes_all_names_and_all_bytes() {
    let (node, _) = node_with_registry(Protection::None, &[]).await;
    let archive = image::busybox_archive(node.dir()).unwrap();
    registry::push(&node, &archive, "tools/busybox:2", &[]).unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut images = node.images().await.unwrap();
    let empty = usage(&mut images).await;
    let tags = [format!("{NAME}:1"), format!("{NAME}:2")];
    for tag in &tags {
        pull(&mut images, tag).await.unwrap();
    }
    let image = status(&mut images, &tags[1]).await.unwrap();
    assert_eq!(image.repo_tags, tags);
    let full = usage(&mut images).await;
    assert!(
        full.0 >= empty.0 + 1_000_000 && full.1 > empty.1 + 40,
        "{empty:?} {full:?}"
    );
    assert!(image.size <= full.0, "{image:?} {full:?}");

    let mut streamed = Vec::new();
    let stream = images
        .stream_images(cri::StreamImagesRequest::default())
        .await;
    let mut stream = stream.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        streamed.extend(message.images);
    }
    assert_eq!(streamed, list(&mut images).await);

    remove(&mut images, &tags[0]).await;
    assert_eq!(list(&mut images).await, []);
    assert_eq!(usage(&mut images).await, empty);
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_stays_with_its_containers() {
    let node = Node::start().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut images = node.images().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("user")).await.unwrap();
    let running = pod::container("running", "sleep 1000");
    let running = pod::run(&mut runtime, &pod_id, &running).await.unwrap();
    let waiting = pod::container("waiting", "exit 5");
    let waiting = pod::create(&mut runtime, &pod_id, &waiting).await.unwrap();

    remove(&mut images, image::BUSYBOX).await;
    assert_eq!(status(&mut images, image::BUSYBOX).await, None);
    pod::start(&mut runtime, &waiting).await.unwrap();
    assert_eq!(pod::exited(&runtime, &waiting).await.unwrap().exit_code, 5);
    let listed = pod::output(&mut runtime, &running, "ls /bin | wc -l").await;
    assert!(listed.unwrap().trim().parse::<u32>().unwrap() > 40);
    let late = pod::container("late", "true");
    let late = pod::create(&mut runtime, &pod_id, &late).await;
    let late = late.unwrap_err();
    assert_eq!(late.code(), Code::NotFound, "{late}");
    // The layers go with the last container.
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_stays_across_a_kill_of_the_daemon() {
    let mut node = Node::start().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("user")).await.unwrap();
    let waiting = pod::container("waiting", "exit 5");
    let waiting = pod::create(&mut runtime, &pod_id, &waiting).await.unwrap();
    remove(&mut node.images().await.unwrap(), image::BUSYBOX).await;
    node.end_daemon(nix::sys::signal::Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    pod::start(&mut runtime, &waiting).await.unwrap();
    assert_eq!(pod::exited(&runtime, &waiting).await.unwrap().exit_code, 5);
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_both_kinds_are_loaded_listed_and_removed() {
    let node = Node::start().await.unwrap();
    let archive = image::busybox_archive(node.dir()).unwrap();
    let docker = node.dir().join("docker.tar");
    let (oci, docker) = (archive.display().to_string(), docker.display().to_string());
    node.shell(&format!(
        "skopeo --insecure-policy copy --quiet oci-archive:{oci} docker-archive:{docker}:docker.example/busybox:2"
    ))
    .unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut images = node.images().await.unwrap();
    for (file, name) in [
        (&oci, image::BUSYBOX),
        (&docker, "docker.example/busybox:2"),
    ] {
        assert!(node.corten_image(&["load", file]).unwrap().contains(name));
        let listed = node.corten_image(&["ls"]).unwrap();
        let image = status(&mut images, name).await.unwrap();
        let line = listed.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(&image.id[7..19]), "{listed}");

        let mut runtime = node.runtime().await.unwrap();
        let pod_id = pod::run_pod(&mut runtime, &pod::pod("loaded"))
            .await
            .unwrap();
        let mut config = pod::container("loaded", "test $FROM_IMAGE = yes");
        config.image = spec(name);
        let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        assert_eq!(
            pod::exited(&runtime, &container).await.unwrap().exit_code,
            0
        );
        pod::remove_pod(&mut runtime, &pod_id).await.unwrap();

        node.corten_image(&["rm", name]).unwrap();
        assert_eq!(list(&mut images).await, []);
        Leftovers::settle(&node, &before).await.unwrap();
    }
    for (file, words) in [
        ("/etc/passwd", "/etc/passwd"),
        ("/absent.tar", "/absent.tar"),
    ] {
        let refused = node.corten_image(&["load", file]).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_pulls_at_once_are_one() {
    let (node, _) = node_with_registry(Protection::None, &[]).await;
    let tag = format!("{NAME}:1");
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut images, tag) = (node.images().await.unwrap(), tag.clone());
        pulls.spawn(async move { pull(&mut images, &tag).await.unwrap() });
    }
    let ids = pulls.join_all().await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let log = node.dir().join("registry.log").display().to_string();
    let count = format!("grep -c 'response completed.*GET.*/blobs/sha256:' {log}");
    // The config and the layer, once each; the registry logs after it has answered.
    until(|| async {
        let asked = node.shell(&count).unwrap_or_default();
        anyhow::ensure!(asked.trim() == "2", "{asked} blobs were asked for");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_directory_looks_as_in_the_image() {
    let node = Node::start().await.unwrap();
    image::load_changed(&node, "localhost/strict:1", |tree, _| {
        Ok(fs::set_permissions(
            tree,
            fs::Permissions::from_mode(0o2751),
        )?)
    })
    .await
    .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::host_network_pod("strict"))
        .await
        .unwrap();
    let mut config = pod::container("strict", "sleep 1000");
    config.image = spec("localhost/strict:1");
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let looks = pod::output(&mut runtime, &id, "stat -c '%a %u %g' /").await;
    assert_eq!(looks.unwrap(), "2751 0 0\n");
}
