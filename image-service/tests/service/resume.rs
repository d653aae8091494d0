//! What a pull that failed has got is not fetched again, by whichever daemon of the same boot.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corten_image::Phase;

use crate::fake::{Asked, Fake, Reply, ranged};
use crate::image::{Image, file, image};
use crate::site::{Site, entries, eventually};
use crate::tree::{Pack, Tar};

/// What is told apart on disk.
const PIECE: usize = 256 << 10;

/// Bytes that no compression makes small, the same each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut seed = 1_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn layer_of(len: usize) -> (Vec<u8>, Pack) {
    (Tar::new().file("noise", &noise(len)).bytes(), Pack::Plain)
}

/// Serves `image`; its last layer breaks off until `whole` is set.
async fn breaking(image: Image, at: usize) -> (Fake, Arc<AtomicBool>) {
    let whole = Arc::new(AtomicBool::new(false));
    let name = image.layers.last().unwrap().clone();
    let (last, is_whole) = (image.blobs[&name].clone(), Arc::clone(&whole));
    let registry = Fake::serving(image, move |asked| {
        asked
            .path
            .contains(&name)
            .then(|| match is_whole.load(Ordering::Relaxed) {
                true => ranged(&last, asked),
                // Nothing more, however often it is asked.
                false if asked.headers.contains_key("range") => Reply::new(503, b""),
                false => Reply::new(200, &last).cut_after(at),
            })
    })
    .await;
    (registry, whole)
}

fn ranges(registry: &Fake, layer: &str) -> Vec<String> {
    let asked = registry.asked();
    let asked = asked.iter().filter(|asked| asked.path.contains(layer));
    asked
        .filter_map(|asked| asked.headers.get("range").cloned())
        .collect()
}

/// Lets a pull fail after more than two pieces, then `between` happens to the store, then a pull succeeds.
async fn fail_then_pull(between: impl AsyncFnOnce(Site) -> Site) -> (Fake, Image, Site) {
    let made = || image("x", &[(file("small"), Pack::Gzip), layer_of(1 << 20)]);
    let (registry, whole) = breaking(made(), 2 * PIECE + 1000).await;
    let site = Site::new().await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(site.partial_blobs(), 1);
    let site = between(site).await;
    whole.store(true, Ordering::Relaxed);
    site.images.pull(&reference, None).await.unwrap();
    let layer = fs::read(site.top_layer(&reference).join("noise")).unwrap();
    assert_eq!(layer, noise(1 << 20));
    assert_eq!(site.partial_blobs(), 0);
    site.assert_clean();
    (registry, made(), site)
}

fn rest(image: &Image) -> String {
    let last = image.blobs[&image.layers[1]].len() - 1;
    format!("bytes={}-{last}", 2 * PIECE)
}

/// A daemon may be killed between taking a layer in and deleting its blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_layer_is_here_goes_with_the_next_pull() {
    let mut blob = Vec::new();
    let (registry, _, site) = fail_then_pull(async |site| {
        let content = site.root().join("content");
        for name in entries(&content) {
            blob.push((content.join(&name), fs::read(content.join(&name)).unwrap()));
        }
        site
    })
    .await;
    for (path, bytes) in blob {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(site.partial_blobs(), 1);
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(site.partial_blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pull_goes_on_where_one_failed() {
    let (registry, image, _site) = fail_then_pull(async |site| site).await;
    assert_eq!(
        ranges(&registry, &image.layers[1]).pop().unwrap(),
        rest(&image)
    );
    assert_eq!(
        registry.count(&image.layers[0]),
        1,
        "a whole layer is fetched once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_goes_on_where_one_ended() {
    let (registry, image, _site) = fail_then_pull(async |site| site.reopen().await).await;
    assert_eq!(
        ranges(&registry, &image.layers[1]).pop().unwrap(),
        rest(&image)
    );
    assert_eq!(
        registry.count(&image.layers[0]),
        1,
        "a whole layer is fetched once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_nothing_is_taken_up() {
    let reboot = async |site: Site| {
        let mark = site.root().join("content/boot");
        let site = site
            .reopen_after(|| fs::write(mark, "another boot").unwrap())
            .await;
        assert_eq!(entries(&site.root().join("content")), ["boot"]);
        site.assert_clean();
        site
    };
    let (registry, image, _site) = fail_then_pull(reboot).await;
    assert_eq!(registry.count(&image.layers[0]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_meanwhile_is_fetched_again() {
    let damage = async |site: Site| {
        let content = site.root().join("content");
        let name = entries(&content)
            .into_iter()
            .find(|name| name.len() > 70 && !name.ends_with("map"));
        let path = content.join(name.unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        fs::write(&path, bytes).unwrap();
        site
    };
    fail_then_pull(damage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_comes_back_for_goes() {
    let site = Site::new_with_window(std::time::Duration::from_millis(1500)).await;
    let image = image("x", &[(file("small"), Pack::Gzip), layer_of(1 << 20)]);
    let (registry, _) = breaking(image, 2 * PIECE + 1000).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(site.partial_blobs(), 1);
    eventually(|| match site.partial_blobs() {
        0 => Ok(()),
        left => Err(format!("{left} partial blobs")),
    });
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_layer_comes_over_several_connections_and_once() {
    let wanted = image("x", &[layer_of(40 << 20)]);
    let (name, layer) = (
        wanted.layers[0].clone(),
        wanted.blobs[&wanted.layers[0]].clone(),
    );
    let registry = Fake::serving(wanted, {
        let (name, layer) = (name.clone(), layer.clone());
        move |asked: &Asked| asked.path.contains(&name).then(|| ranged(&layer, asked))
    })
    .await;
    let site = Site::new().await;
    let reference = registry.reference();
    let (images, name_of_it) = (site.images.clone(), reference.clone());
    let pull = tokio::spawn(async move { images.pull(&name_of_it, None).await });
    let mut seen = None;
    while !pull.is_finished() {
        let progress = site.images.progress(&reference);
        let layers = progress.map_or_else(Vec::new, |progress| progress.layers());
        seen = layers
            .into_iter()
            .find(|layer| layer.phase != Phase::Waiting)
            .or(seen);
        tokio::task::yield_now().await;
    }
    pull.await.unwrap().unwrap();
    let seen = seen.unwrap();
    assert_eq!((seen.digest, seen.size), (name.clone(), layer.len() as u64));
    let mut parts: Vec<(usize, usize)> = ranges(&registry, &name)
        .iter()
        .map(|range| {
            let (from, to) = range
                .strip_prefix("bytes=")
                .unwrap()
                .split_once('-')
                .unwrap();
            (from.parse().unwrap(), to.parse().unwrap())
        })
        .collect();
    parts.sort_unstable();
    assert!(parts.len() > 3, "{parts:?}");
    let mut end = 0;
    for (from, to) in parts {
        assert_eq!(from, end);
        end = to + 1;
    }
    assert_eq!(end, layer.len());
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_serves_a_big_layer_to_one_connection() {
    let wanted = image("x", &[layer_of(40 << 20)]);
    let registry = Fake::serving(wanted, |_| None).await;
    let site = Site::new().await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let layer = fs::metadata(site.top_layer(&reference).join("noise")).unwrap();
    assert_eq!(layer.len(), 40 << 20);
    site.assert_clean();
}
