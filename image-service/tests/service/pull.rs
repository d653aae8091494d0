//! Pulls that succeed: by tag and digest, every compression, shared layers, every name afterwards.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::fake::{Fake, Reply, serve_image};
use crate::image::{arch, file, image, index, simple};
use crate::registry::Registry;
use crate::site::{Site, entries};
use crate::tree::{Pack, Tar};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_a_digest_and_the_ids_lead_to_one_image() {
    let (site, registry) = (Site::new().await, Registry::start());
    let wanted = simple("one");
    let tagged = registry.push(&wanted, "app:v1");
    let pulled = site.images.pull(&tagged, None).await.unwrap();
    assert_eq!(pulled.id, wanted.id);
    assert_eq!(pulled.repo_tags, [tagged.as_str()]);
    let by_digest = format!("{}/app@{}", registry.address, wanted.digest);
    assert_eq!(pulled.repo_digests, [by_digest.as_str()]);
    assert_eq!(pulled.config.cmd, ["one"]);
    assert_eq!(pulled.config.user, "1002");
    assert!(pulled.size > 0 && site.images.usage().bytes >= pulled.size);
    for name in [
        &tagged,
        &by_digest,
        &wanted.id,
        &wanted.id[7..],
        &wanted.id[7..20],
    ] {
        assert_eq!(
            site.images.resolve(name).as_deref(),
            Some(&*pulled),
            "{name}"
        );
    }
    assert!(
        site.images
            .resolve(&format!("{}/app", registry.address))
            .is_none()
    );
    let content = fs::read(site.top_layer(&tagged).join("hello")).unwrap();
    assert_eq!(content, b"one");
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_by_digest_gives_no_tag() {
    let (site, registry) = (Site::new().await, Registry::start());
    let wanted = simple("one");
    registry.push(&wanted, "app:v1");
    let reference = format!("{}/app@{}", registry.address, wanted.digest);
    let pulled = site.images.pull(&reference, None).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, [reference.as_str()]);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_meant_where_no_tag_is_said() {
    let (site, registry) = (Site::new().await, Registry::start());
    registry.push(&simple("one"), "app:latest");
    let short = format!("{}/app", registry.address);
    let pulled = site.images.pull(&short, None).await.unwrap();
    assert_eq!(pulled.repo_tags, [format!("{short}:latest")]);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_manifests_and_every_compression_give_the_same_tree() {
    let (site, registry) = (Site::new().await, Registry::start());
    let tars = || {
        [
            file("base"),
            Tar::new().dir("etc").file("etc/x", b"y").bytes(),
        ]
    };
    let mut names = Vec::new();
    for (name, pack) in [
        ("plain", Pack::Plain),
        ("gzip", Pack::Gzip),
        ("zstd", Pack::Zstd),
    ] {
        let layers = tars().map(|tar| (tar, pack));
        names.push(registry.push(&image("same", &layers), &format!("{name}:v1")));
    }
    let gzip = image("same", &tars().map(|tar| (tar, Pack::Gzip)));
    names.push(registry.push_with(&gzip, "docker:v1", &["--format", "v2s2"]));
    let mut layers = HashSet::new();
    for name in &names {
        let pulled = site.images.pull(name, None).await.unwrap();
        assert_eq!(pulled.layers.len(), 2);
        layers.insert(pulled.layers.clone());
    }
    // The config is the same for the first three, the uncompressed content for all.
    assert_eq!(layers.len(), 1);
    assert_eq!(entries(&site.root().join("layers")).len(), 2);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_repository_adds_names_to_the_same_image() {
    let (site, registry) = (Site::new().await, Registry::start());
    let wanted = simple("one");
    for name in ["a:v1", "a:v2", "b:v1"] {
        let reference = registry.push(&wanted, name);
        site.images.pull(&reference, None).await.unwrap();
    }
    let [image] = &site.images.list()[..] else {
        panic!("one image expected");
    };
    let name = |name: &str| format!("{}/{name}", registry.address);
    assert_eq!(image.repo_tags, [name("a:v1"), name("a:v2"), name("b:v1")]);
    let digest = &wanted.digest;
    assert_eq!(
        image.repo_digests,
        [name(&format!("a@{digest}")), name(&format!("b@{digest}"))]
    );
    site.images.remove(&name("a:v1")).await.unwrap();
    assert!(site.images.list().is_empty());
    assert!(site.images.resolve(&name("b:v1")).is_none());
    site.images.remove(&name("a:v1")).await.unwrap();
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_leaves_the_old_image() {
    let (site, registry) = (Site::new().await, Registry::start());
    let (old, new) = (simple("old"), simple("new"));
    let reference = registry.push(&old, "app:v1");
    site.images.pull(&reference, None).await.unwrap();
    registry.push(&new, "app:v1");
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(site.images.resolve(&reference).unwrap().id, new.id);
    let left = site.images.resolve(&old.id).unwrap();
    assert!(left.repo_tags.is_empty());
    assert_eq!(left.repo_digests.len(), 1);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_searched_for_this_machine() {
    let site = Site::new().await;
    let here = simple("here");
    let size = here.blobs[&here.digest].len();
    let platform = |arch: &str| Some(json!({"os": "linux", "architecture": arch}));
    let other = format!("sha256:{}", "0".repeat(64));
    let inner = index(&[(&here.digest, size, platform(arch()))]);
    let inner_digest = crate::image::digest(&inner);
    let top = index(&[
        (&other, 10, platform("s390x")),
        (&inner_digest, inner.len(), None),
    ]);
    let top_digest = crate::image::digest(&top);
    let id = here.id.clone();
    let registry = Fake::serving(here, move |asked| {
        let is = |name: &str| asked.path.ends_with(&format!("/manifests/{name}"));
        if is("multi") {
            return Some(Reply::new(200, &top));
        }
        is(&inner_digest).then(|| Reply::new(200, &inner))
    })
    .await;
    let reference = format!("{}/app:multi", registry.address);
    let pulled = site.images.pull(&reference, None).await.unwrap();
    assert_eq!(pulled.id, id);
    assert_eq!(
        pulled.repo_digests,
        [format!("{}/app@{top_digest}", registry.address)]
    );
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_at_once_fetch_a_layer_once() {
    let site = Site::new().await;
    let layers: Vec<_> = (0..5)
        .map(|number| (file(&format!("layer {number}")), Pack::Gzip))
        .collect();
    let wanted = image("shared", &layers);
    let blobs = wanted.layers.clone();
    let registry = Fake::serving(wanted, |_| None).await;
    let reference = registry.reference();
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (images, reference) = (site.images.clone(), reference.clone());
            tokio::spawn(async move { images.pull(&reference, None).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    for blob in &blobs {
        assert_eq!(registry.count(&format!("/blobs/{blob}")), 1);
    }
    assert_eq!(site.images.list().len(), 1);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn held_layers_outlive_their_image() {
    let (site, registry) = (Site::new().await, Registry::start());
    let reference = registry.push(
        &image("two", &[(file("a"), Pack::Gzip), (file("b"), Pack::Gzip)]),
        "app:v1",
    );
    let pulled = site.images.pull(&reference, None).await.unwrap();
    let hold = site.images.hold(&pulled).unwrap();
    assert_eq!(hold.names(), pulled.layers);
    let top = &hold.lower_dirs()[0];
    assert_eq!(fs::read(top.join("hello")).unwrap(), b"b");
    site.images.remove(&reference).await.unwrap();
    site.images.collect_garbage().await;
    assert!(top.is_dir());
    // A second pull finds the layers and adds nothing.
    let inode = fs::metadata(top).unwrap().ino();
    let again = site.images.pull(&reference, None).await.unwrap();
    assert_eq!(
        fs::metadata(site.top_layer(&again.id)).unwrap().ino(),
        inode
    );
    site.images.remove(&reference).await.unwrap();
    drop(hold);
    site.assert_clean();
    assert!(site.images.hold(&pulled).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_removals_at_once_all_succeed() {
    let (site, registry) = (Site::new().await, Registry::start());
    let reference = registry.push(&simple("one"), "app:v1");
    site.images.pull(&reference, None).await.unwrap();
    let removals: Vec<_> = (0..5)
        .map(|_| {
            let (images, reference) = (site.images.clone(), reference.clone());
            tokio::spawn(async move {
                images.remove(&reference).await.unwrap();
                assert!(images.resolve(&reference).is_none());
            })
        })
        .collect();
    for removal in removals {
        removal.await.unwrap();
    }
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_dropped_pull_the_next_succeeds_and_leaves_nothing() {
    let site = Site::new().await;
    let wanted = image("slow", &[(file("a"), Pack::Gzip), (file("b"), Pack::Plain)]);
    let slow = wanted.blobs[&wanted.layers[1]].clone();
    let hang = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let hangs = std::sync::Arc::clone(&hang);
    let registry = Fake::start(move |asked| {
        let hangs = hangs.load(std::sync::atomic::Ordering::Relaxed);
        match crate::fake::asks_for(asked, &slow) && hangs {
            true => Reply::new(200, &slow).hanging_after(700),
            false => serve_image(&wanted, asked),
        }
    })
    .await;
    let reference = registry.reference();
    let (images, name) = (site.images.clone(), reference.clone());
    let pull = tokio::spawn(async move { images.pull(&name, None).await });
    let staging = site.root().join("staging");
    while entries(&staging).len() < 2 {
        tokio::task::yield_now().await;
    }
    pull.abort();
    assert!(pull.await.is_err());
    assert!(site.images.list().is_empty());
    hang.store(false, std::sync::atomic::Ordering::Relaxed);
    site.images.pull(&reference, None).await.unwrap();
    site.assert_clean();
}
