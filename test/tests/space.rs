//! The disk of the image store: counted right, and full.
#![allow(clippy::unwrap_used, reason = "tests")]

use corten_proto::cri::{self, image_service_client::ImageServiceClient};
use corten_test::{
    image,
    node::Node,
    registry::{self, ADDRESS, Protection},
    wait::until,
};
use serde_json::json;
use tonic::{Code, Status, transport::Channel};

type Images = ImageServiceClient<Channel>;

fn spec(name: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: format!("{ADDRESS}/{name}"),
        ..Default::default()
    })
}

async fn pull(images: &mut Images, name: &str) -> Result<(), Status> {
    let request = cri::PullImageRequest {
        image: spec(name),
        ..Default::default()
    };
    images.pull_image(request).await.map(drop)
}

async fn remove(images: &mut Images, name: &str) {
    let request = cri::RemoveImageRequest { image: spec(name) };
    images.remove_image(request).await.unwrap();
}

async fn used_bytes(images: &mut Images) -> u64 {
    let request = cri::ImageFsInfoRequest {};
    let info = images.image_fs_info(request).await.unwrap().into_inner();
    info.image_filesystems[0].used_bytes.unwrap().value
}

/// A node whose root is an ext4 of its own, with a registry beside it.
async fn node_with_disk(mib: u64) -> Node {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    let (disk, root) = (node.dir().join("disk"), node.root());
    let (disk, root) = (disk.display(), root.display());
    node.shell(&format!(
        "mkdir -p {root} && truncate -s {mib}M {disk} && mkfs.ext4 -q -m 0 -b 4096 -O ^metadata_csum {disk} \
         && mount -o loop {disk} {root}"
    ))
    .unwrap();
    node.start_daemon().await.unwrap();
    registry::start(&node, Protection::None).await.unwrap();
    node.write_hosts(ADDRESS, &format!("server = 'http://{ADDRESS}'\n"))
        .unwrap();
    node
}

/// Pushes an image of these `noise` layers (number, MiB).
fn push(node: &Node, name: &str, layers: &[(usize, u64)]) {
    let layers: Vec<_> = layers
        .iter()
        .map(|(number, mib)| image::noise(*number, *mib).unwrap())
        .collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let config = json!({ "Cmd": [name] });
    let archive = image::archive_of_layers(node.dir(), &layers, &config, name).unwrap();
    registry::push(node, &archive, name, &[]).unwrap();
}

/// What `du` finds of layers, in bytes.
fn walked(node: &Node) -> u64 {
    let root = node.root();
    let out = node
        .shell(&format!(
            "cd {} && du --block-size=1 -s layers/* tar-split/* | cut -f 1",
            root.display()
        ))
        .unwrap();
    out.lines().map(|line| line.parse::<u64>().unwrap()).sum()
}

/// Bytes.
fn free(node: &Node) -> u64 {
    let root = node.root();
    let out = node.shell(&format!(
        "df --output=avail -B1 {} | tail -1",
        root.display()
    ));
    out.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_a_walk_finds() {
    let node = node_with_disk(128).await;
    push(&node, "one:1", &[(1, 3), (2, 5)]);
    push(&node, "two:1", &[(1, 3), (3, 7)]);
    let mut images = node.images().await.unwrap();
    // Manifests and configs lie in the database.
    const DOCUMENTS: u64 = 8 << 10;
    let check = async |images: &mut Images, name: &str| {
        let (counted, walked) = (used_bytes(images).await, walked(&node));
        let range = walked..walked + DOCUMENTS;
        assert!(
            range.contains(&counted),
            "{name}: {counted} is not {walked}"
        );
    };
    pull(&mut images, "one:1").await.unwrap();
    check(&mut images, "one").await;
    pull(&mut images, "two:1").await.unwrap();
    check(&mut images, "one and two").await;
    remove(&mut images, "one:1").await;
    let free_before = free(&node);
    until(|| async {
        anyhow::ensure!(
            walked(&node) < 11 << 20,
            "the unshared layer is still there"
        );
        Ok(())
    })
    .await
    .unwrap();
    check(&mut images, "two").await;
    assert!(free(&node) >= free_before, "less is free after a removal");
}

/// Fills the disk until `left` bytes are free.
fn fill(node: &Node, left: u64) {
    let root = node.root();
    let size = free(node).saturating_sub(left);
    let filler = root.join("filler");
    let filler = filler.display();
    node.shell(&format!("fallocate -l {size} {filler} || true"))
        .unwrap();
    if left == 0 {
        node.shell(&format!(
            "dd if=/dev/zero of={filler} bs=4k oflag=append conv=notrunc 2>/dev/null || true"
        ))
        .unwrap();
    }
}

fn empty(node: &Node) {
    node.shell(&format!("rm -f {}/filler", node.root().display()))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_a_pull_and_keeps_nothing() {
    let node = node_with_disk(128).await;
    push(&node, "here:1", &[(1, 16)]);
    push(&node, "more:1", &[(2, 8), (3, 24)]);
    let mut images = node.images().await.unwrap();
    pull(&mut images, "here:1").await.unwrap();
    // So that the database has its final size.
    pull(&mut images, "more:1").await.unwrap();
    remove(&mut images, "more:1").await;
    let settled = |wanted: u64| {
        let node = &node;
        until(move || async move {
            let free = free(node);
            anyhow::ensure!(free >= wanted, "{free} of {wanted} bytes are free");
            Ok(())
        })
    };
    settled(70 << 20).await.unwrap();
    // From nothing to all but the last block.
    for left in [0, 4 << 10, 64 << 10, 1 << 20, 9 << 20, 24 << 20, 31 << 20] {
        fill(&node, left);
        let before = free(&node);
        let error = pull(&mut images, "more:1").await.unwrap_err();
        assert_eq!(
            error.code(),
            Code::ResourceExhausted,
            "{left} bytes left: {error}"
        );
        assert!(
            error.message().contains("No space left on device"),
            "{left}: {error}"
        );
        // What is left may need a block less.
        settled(before.saturating_sub(8 << 10)).await.unwrap();
        let listed = images.list_images(cri::ListImagesRequest::default());
        assert_eq!(listed.await.unwrap().into_inner().images.len(), 1);
        empty(&node);
    }
    fill(&node, 0);
    assert_eq!(free(&node), 0);
    remove(&mut images, "here:1").await;
    settled(15 << 20).await.unwrap();
    empty(&node);
    pull(&mut images, "more:1").await.unwrap();
    let text = node.corten_image(&["verify"]).unwrap();
    assert!(text.ends_with(" 0 broken\n"), "{text}");
}
