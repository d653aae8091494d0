//! Pulls at one time that have blobs in common.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fake::{Asked, Fake, Reply, ranged, serve_image};
use crate::image::{Image, file, image};
use crate::resume::{layer_of, noise};
use crate::site::{Site, entries};
use crate::tree::Pack;

const SIZE: usize = 1 << 20;

/// A base of its own, and the layer that they share on top of it.
fn on(base: &str) -> Image {
    image(base, &[(file(base), Pack::Gzip), layer_of(SIZE)])
}

/// Two images with one layer in common, at the same height.
struct Pair {
    a: Image,
    b: Image,
    asked: Mutex<Vec<String>>,
}

impl Pair {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            a: on("a"),
            b: on("b"),
            asked: Mutex::default(),
        })
    }

    fn shared(&self) -> (&str, &[u8]) {
        let name = &self.a.layers[1];
        (name, &self.a.blobs[name])
    }

    fn serve(&self, asked: &Asked) -> Reply {
        match asked.path.contains("/a/") {
            true => serve_image(&self.a, asked),
            false => serve_image(&self.b, asked),
        }
    }

    /// Lets no byte of the shared layer through until both pulls have begun with their layers.
    fn pass(&self, asked: &Asked) {
        let name = asked.path.rsplit('/').next().unwrap();
        self.asked.lock().unwrap().push(name.to_owned());
        if name == self.shared().0 {
            let bases = [&self.a.layers[0], &self.b.layers[0]];
            until(|| {
                let asked = self.asked.lock().unwrap();
                bases.iter().all(|base| asked.contains(base))
            });
        }
    }
}

/// Waits in the server, where others go on meanwhile.
fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    tokio::task::block_in_place(|| {
        while !condition() {
            assert!(Instant::now() < deadline, "the other pull does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

async fn pull_both(site: &Site, a: &Fake, b: &Fake) -> [Result<(), String>; 2] {
    let pull = |registry: &Fake, name: &str| {
        let (images, reference) = (
            site.images.clone(),
            format!("{}/{name}/app:v1", registry.address),
        );
        tokio::spawn(async move {
            let pulled = images.pull(&reference, None).await;
            pulled.map(drop).map_err(|error| error.to_string())
        })
    };
    let (a, b) = (pull(a, "a"), pull(b, "b"));
    [a.await.unwrap(), b.await.unwrap()]
}

fn assert_whole(site: &Site, id: &str) {
    let layer = fs::read(site.top_layer(id).join("noise")).unwrap();
    assert!(layer == noise(SIZE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_blob_is_fetched_once_wherever_it_stands() {
    for keeps_blobs in [false, true] {
        let site = Site::waiting(Duration::from_secs(60), keeps_blobs).await;
        let pair = Pair::new();
        let served = Arc::clone(&pair);
        let registry = Fake::start(move |asked| {
            served.pass(asked);
            served.serve(asked)
        })
        .await;
        let pulls = pull_both(&site, &registry, &registry).await;
        assert_eq!(pulls, [Ok(()), Ok(())]);
        assert_eq!(registry.count(pair.shared().0), 1);
        for image in [&pair.a, &pair.b] {
            assert_whole(&site, &image.id);
        }
        assert_eq!(site.partial_blobs(), 0);
        if keeps_blobs {
            let blobs = entries(&site.root().join("blobs"));
            assert_eq!(blobs.len(), 4, "{blobs:?}");
        }
        site.assert_verified().await;
        site.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_an_image_has_twice_is_fetched_once() {
    let site = Site::new().await;
    let wanted = image(
        "x",
        &[layer_of(SIZE), (file("a"), Pack::Gzip), layer_of(SIZE)],
    );
    let name = wanted.layers[0].clone();
    let registry = Fake::serving(wanted, |_| None).await;
    let reference = format!("{}/app:v1", registry.address);
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(registry.count(&name), 1);
    assert_whole(&site, &reference);
    site.assert_clean();
}

/// One repository has the layer, the other does not, or breaks off and has no more, or has other bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_pull_goes_on_where_another_fails() {
    for how in ["404", "hang", "wrong"] {
        let site = Site::waiting(Duration::from_secs(5), false).await;
        let pair = Pair::new();
        let served = Arc::clone(&pair);
        let registry = Fake::start(move |asked| {
            served.pass(asked);
            let (name, layer) = served.shared();
            if !asked.path.contains(name) {
                return served.serve(asked);
            }
            match how {
                _ if asked.path.contains("/b/") => ranged(layer, asked),
                "404" => Reply::new(404, b""),
                "hang" => Reply::new(200, layer).hanging_after(600 << 10),
                _ => Reply::new(200, &vec![7; layer.len()]),
            }
        })
        .await;
        // Whichever fetches first, the one with a good repository succeeds.
        let [_, good] = pull_both(&site, &registry, &registry).await;
        assert_eq!(good, Ok(()), "{how}");
        assert_whole(&site, &pair.b.id);
        site.assert_verified().await;
    }
}

/// A registry that never ends must not hold up another, even if it names the same blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn registries_do_not_wait_for_each_other() {
    let site = Site::waiting(Duration::from_secs(600), false).await;
    let pair = Pair::new();
    let (slow, good) = (Arc::clone(&pair), Arc::clone(&pair));
    let slow = Fake::start(move |asked| {
        let reply = slow.serve(asked);
        match asked.path.contains(slow.shared().0) {
            true => reply.hanging_after(1000),
            false => reply,
        }
    })
    .await;
    let good = Fake::start(move |asked| good.serve(asked)).await;
    let (images, reference) = (site.images.clone(), format!("{}/a/app:v1", slow.address));
    let hanging = tokio::spawn(async move { images.pull(&reference, None).await });
    while slow.count(pair.shared().0) == 0 {
        tokio::task::yield_now().await;
    }
    let reference = format!("{}/b/app:v1", good.address);
    site.images.pull(&reference, None).await.unwrap();
    assert_whole(&site, &pair.b.id);
    hanging.abort();
}
