//! Many pods with volumes at once: no container is in the host's mount table, and nothing is left after.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fs};

use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tokio::task::JoinSet;

const PODS: usize = 100;
const VOLUMES: usize = 5;
/// Entries of a pod in the host's mount table.
const MAX_PER_POD: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pods_with_volumes_start_at_once() {
    let node = Node::start_with(&[]).await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let runtime = node.runtime().await.unwrap();
    let volumes = node.dir().join("volumes");
    let before = Leftovers::count(&node).unwrap();

    let mut starts = JoinSet::new();
    for number in 0..PODS {
        let mounts = (0..VOLUMES).map(|volume| {
            let source = volumes.join(format!("{number}-{volume}"));
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("name"), format!("{number}-{volume} ")).unwrap();
            pod::mount(&source, &format!("/volumes/{volume}"))
        });
        let mut config = pod::container("one", "sleep 1000");
        config.mounts = mounts.collect();
        let mut runtime = runtime.clone();
        starts.spawn(async move {
            let sandbox = pod::host_network_pod(&format!("pod-{number}"));
            let pod = pod::run_pod(&mut runtime, &sandbox).await?;
            let id = pod::run(&mut runtime, &pod, &config).await?;
            let seen = pod::output(&mut runtime, &id, "cat /volumes/*/name").await?;
            anyhow::ensure!(
                seen.split_whitespace().count() == VOLUMES
                    && seen
                        .split_whitespace()
                        .all(|name| name.starts_with(&format!("{number}-"))),
                "{seen}"
            );
            anyhow::Ok((pod, id))
        });
    }
    let started = starts.join_all().await;
    let started: Vec<_> = started.into_iter().map(Result::unwrap).collect();

    let during = Leftovers::count(&node).unwrap().mounts;
    let known: BTreeSet<_> = before.mounts.iter().collect();
    let new: Vec<_> = during
        .iter()
        .filter(|mount| !known.contains(mount))
        .collect();
    for (pod, container) in &started {
        assert!(
            !new.iter().any(|mount| mount.contains(container)),
            "{new:#?}"
        );
        let of_pod = new.iter().filter(|mount| mount.contains(pod));
        assert!(of_pod.count() <= MAX_PER_POD, "{new:#?}");
    }
    let of_pods = new
        .iter()
        .filter(|mount| started.iter().any(|(pod, _)| mount.contains(pod)));
    assert_eq!(of_pods.count(), new.len(), "others than pods': {new:#?}");

    let mut removals = JoinSet::new();
    for (pod, _) in started {
        let mut runtime = runtime.clone();
        removals.spawn(async move { pod::remove_pod(&mut runtime, &pod).await });
    }
    for removed in removals.join_all().await {
        removed.unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
}
