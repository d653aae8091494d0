//! Blobs that stay after they are unpacked, if that is configured, and not otherwise.

use std::fs;

use crate::fake::Fake;
use crate::image::{Image, file, image};
use crate::site::{Site, entries, eventually};
use crate::tree::{Pack, Tar};

fn wanted() -> Image {
    let large = Tar::new().file("large", &[7; 100_000]).bytes();
    image("kept", &[(file("x"), Pack::Gzip), (large, Pack::Zstd)])
}

fn blobs(site: &Site) -> Vec<String> {
    entries(&site.root().join("blobs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn none_stays_without_being_asked_for() {
    let site = Site::new().await;
    let registry = Fake::serving(wanted(), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    assert!(blobs(&site).is_empty());
    assert_eq!(site.partial_blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_stay_are_counted_and_go_with_their_layers() {
    let site = Site::keeping().await;
    let made = wanted();
    let registry = Fake::serving(wanted(), |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await.unwrap();
    assert_eq!(blobs(&site).len(), 2);
    for (name, digest) in pulled.layers.iter().zip(&made.layers) {
        let kept = fs::read(site.root().join("blobs").join(name)).unwrap();
        assert_eq!(kept, made.blobs[digest]);
    }
    assert_eq!(site.partial_blobs(), 0);
    let without = Site::new().await;
    without.images.pull(&reference, None).await.unwrap();
    let (more, less) = (site.images.usage(), without.images.usage());
    assert!(more.bytes > less.bytes, "{more:?}, {less:?}");
    assert_eq!(more.inodes, less.inodes + 2);
    site.images.remove(&pulled.id).await.unwrap();
    eventually(|| match blobs(&site).len() {
        0 => Ok(()),
        left => Err(format!("{left} blobs are left")),
    });
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_has_the_digests_that_it_was_pulled_by() {
    let site = Site::keeping().await;
    let made = wanted();
    let registry = Fake::serving(wanted(), |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await.unwrap();
    let archive = site.path("saved.tar");
    let names = [reference.clone()];
    site.images.save(&names, &archive).await.unwrap();
    let names = members(&archive);
    for digest in made.layers.iter().chain([&made.digest]) {
        let name = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let other = Site::new().await;
    other.images.load(&archive).await.unwrap();
    assert_eq!(other.images.list()[0].id, pulled.id);
    other.assert_verified().await;

    // A blob that its disk has changed is not passed on.
    let blob = site.root().join("blobs").join(&pulled.layers[0]);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[20] ^= 1;
    fs::write(&blob, bytes).unwrap();
    site.images.save(&[reference], &archive).await.unwrap();
    let other = Site::new().await;
    other.images.load(&archive).await.unwrap();
    assert_eq!(other.images.list()[0].id, pulled.id);
}

fn members(archive: &std::path::Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap();
    let name = |entry: std::io::Result<tar::Entry<'_, fs::File>>| {
        entry.unwrap().path().unwrap().display().to_string()
    };
    entries.map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_outlive_the_daemon() {
    let site = Site::keeping().await;
    let registry = Fake::serving(wanted(), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    fs::write(site.root().join("blobs/stranger"), "of no layer").unwrap();
    let site = site.reopen().await;
    assert_eq!(blobs(&site).len(), 2, "{:?}", blobs(&site));
}
