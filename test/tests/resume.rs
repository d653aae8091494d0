//! A daemon that is killed in the middle of pulls: the next one goes on with what is there.
//!
//! `CORTEN_PULL_KILLS` makes it longer; `CORTEN_PULL_STORAGE`, a registry's storage by `hack/bench-image`, more real.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{env, fs, os::unix::fs::symlink, time::Duration};

use corten_proto::cri;
use corten_test::{
    image,
    leftovers::Leftovers,
    node::Node,
    registry::{self, ADDRESS, Protection},
    wait::until,
};
use nix::sys::signal::Signal;

const LAYERS: usize = 4;
const LAYER_MIB: u64 = 16;
/// What may be asked for twice, in hundredths of what a killed daemon had got, and for each kill what the sockets hold.
const AGAIN_PERCENT: u64 = 5;
const IN_SOCKETS: u64 = 4 << 20;

/// Bytes of blobs that the registry has sent so far.
fn sent(node: &Node) -> u64 {
    let log = fs::read_to_string(node.dir().join("registry.log")).unwrap();
    let blobs = log
        .lines()
        .filter(|line| line.contains("response completed") && line.contains("/blobs/sha256:"));
    let sizes = blobs.filter_map(|line| {
        let (_, rest) = line.split_once("http.response.written=")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    });
    sizes.sum()
}

/// A registry with an image, and its name.
async fn registry(node: &Node) -> String {
    let large = env::var_os("CORTEN_PULL_STORAGE");
    if let Some(storage) = &large {
        symlink(storage, node.dir().join("registry")).unwrap();
    }
    registry::start(node, Protection::None).await.unwrap();
    node.write_hosts(ADDRESS, &format!("server = \"http://{ADDRESS}\"\n"))
        .unwrap();
    if large.is_some() {
        return format!("{ADDRESS}/bench/large:1");
    }
    let layers: Vec<_> = (0..LAYERS)
        .map(|number| image::noise(number, LAYER_MIB).unwrap())
        .collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let config = serde_json::json!({});
    let archive = image::archive_of_layers(node.dir(), &layers, &config, "noise:1").unwrap();
    registry::push(node, &archive, "noise:1", &[]).unwrap();
    format!("{ADDRESS}/noise:1")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_pulls_are_resumed() {
    let mut node = Node::start().await.unwrap();
    let name = cri::ImageSpec {
        image: registry(&node).await,
        ..Default::default()
    };
    let pull = || cri::PullImageRequest {
        image: Some(name.clone()),
        ..Default::default()
    };
    let remove = || cri::RemoveImageRequest {
        image: Some(name.clone()),
    };

    let before = Leftovers::count(&node).unwrap();
    let mut images = node.images().await.unwrap();
    let pushed = sent(&node);
    let start = std::time::Instant::now();
    images.pull_image(pull()).await.unwrap();
    let whole = start.elapsed();
    images.remove_image(remove()).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
    let size = sent(&node) - pushed;

    let kills = env::var("CORTEN_PULL_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let (mut had, mut again) = (0u64, 0u64);
    for kill in 0..kills {
        let (mut images, request) = (node.images().await.unwrap(), pull());
        let first = sent(&node);
        let flow = tokio::spawn(async move { images.pull_image(request).await });
        // From the beginning to the end, not in order.
        let moment = u32::try_from((kill * 7 + 3) % kills).unwrap();
        let pause = whole * moment / u32::try_from(kills).unwrap();
        tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = flow.await;
        node.start_daemon().await.unwrap();
        let killed = sent(&node);
        let mut images = node.images().await.unwrap();
        images.pull_image(pull()).await.unwrap();
        // The registry logs after it has answered.
        until(|| async {
            let now = sent(&node) - first;
            anyhow::ensure!(now >= size, "{now} of {size} bytes are logged");
            Ok(())
        })
        .await
        .unwrap();
        had += killed - first;
        again += sent(&node) - first - size;
        node.corten_image(&["verify"]).unwrap();
        images.remove_image(remove()).await.unwrap();
        Leftovers::settle(&node, &before).await.unwrap();
    }
    println!("{kills} kills: {had} bytes were there, {again} were fetched again, of {size} each");
    assert!(
        again <= had * AGAIN_PERCENT / 100 + kills * IN_SOCKETS,
        "{again} of {had} bytes were fetched again"
    );
    assert!(had > size, "the kills came too early to show anything");
}
