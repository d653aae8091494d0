//! Pulls at one time that have blobs in common.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::fake::{Asked, Fake, Reply, ranged, serve_image};
use crate::image::{Image, file, image};
use crate::resume::{layer_of, noise};
use crate::site::{Site, entries, eventually};
use crate::tree::Pack;

const SIZE: usize = 1 << 20;
/// For a byte that does not come, and for another pull.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let deadline = Instant::now() + PATIENCE;
    tokio::task::block_in_place(|| {
        while !condition() {
            assert!(Instant::now() < deadline, "the other pull does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

type Pull = JoinHandle<Result<(), String>>;

/// Of `<address>/<name>/app:v1`.
fn pull(site: &Site, registry: &Fake, name: &str) -> Pull {
    let reference = format!("{}/{name}/app:v1", registry.address);
    let images = site.images.clone();
    tokio::spawn(async move {
        let pulled = images.pull(&reference, None).await;
        pulled.map(drop).map_err(|error| error.to_string())
    })
}

async fn pull_both(site: &Site, a: &Fake, b: &Fake) -> [Result<(), String>; 2] {
    let (a, b) = (pull(site, a, "a"), pull(site, b, "b"));
    [a.await.unwrap(), b.await.unwrap()]
}

/// A pull of `image` whose layers from `first` on never end, once all of these are asked for that may be at a time.
async fn stalling(site: &Site, image: Image, first: usize) -> (Fake, Pull) {
    let stalled = image.layers[first..].to_vec();
    let names = stalled.clone();
    let registry = Fake::start(move |asked| {
        let reply = serve_image(&image, asked);
        match names.iter().any(|name| asked.path.contains(name)) {
            true => reply.hanging_after(10),
            false => reply,
        }
    })
    .await;
    let hanging = pull(site, &registry, "a");
    let is_asked = |name: &&String| registry.count(name) > 0;
    while stalled.iter().filter(is_asked).count() < stalled.len().min(3) {
        tokio::task::yield_now().await;
    }
    (registry, hanging)
}

/// What never ends must not have ended before.
async fn leave(hanging: Pull) {
    hanging.abort();
    assert!(hanging.await.unwrap_err().is_cancelled());
}

fn assert_whole(site: &Site, id: &str) {
    let layer = fs::read(site.top_layer(id).join("noise")).unwrap();
    assert!(layer == noise(SIZE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_blob_is_fetched_once_wherever_it_stands() {
    for keeps_blobs in [false, true] {
        let site = Site::waiting(PATIENCE, keeps_blobs).await;
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
    let reference = registry.reference();
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
    let site = Site::waiting(PATIENCE, false).await;
    let (_slow, hanging) = stalling(&site, on("a"), 1).await;
    let good = Fake::serving(on("b"), |_| None).await;
    pull(&site, &good, "b").await.unwrap().unwrap();
    assert_whole(&site, &on("b").id);
    leave(hanging).await;
}

/// Both registries have the same image. What one of them says, it may say for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn the_same_layers_do_not_wait_for_another_registry() {
    let site = Site::waiting(PATIENCE, false).await;
    let made = || image("x", &[(file("base"), Pack::Gzip), layer_of(SIZE)]);
    let (slow, hanging) = stalling(&site, made(), 1).await;
    // The layer that came is whole, though its image is not.
    let staging = site.root().join("staging");
    eventually(
        || match entries(&staging).iter().any(|name| name.ends_with(".done")) {
            true => Ok(()),
            false => Err(format!("{:?}", entries(&staging))),
        },
    );
    let good = Fake::serving(made(), |_| None).await;
    pull(&site, &good, "b").await.unwrap().unwrap();
    assert_whole(&site, &made().id);
    let counts = made()
        .layers
        .iter()
        .map(|name| good.count(name))
        .collect::<Vec<_>>();
    assert_eq!(
        counts,
        [0, 1],
        "what is verified is shared, whoever sent it"
    );
    leave(hanging).await;
    drop(slow);
    site.assert_verified().await;
    site.assert_clean();
}

/// As many layers as may be fetched at a time never come.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn layers_that_never_come_leave_other_pulls_their_turn() {
    let site = Site::waiting(PATIENCE, false).await;
    let names = ["a", "b", "c", "d", "e"];
    let layers: Vec<_> = names.iter().map(|name| (file(name), Pack::Gzip)).collect();
    let (slow, hanging) = stalling(&site, image("slow", &layers), 0).await;
    let good = Fake::serving(on("good"), |_| None).await;
    pull(&site, &good, "b").await.unwrap().unwrap();
    assert_whole(&site, &on("good").id);
    let asked = image("slow", &layers).layers.into_iter();
    let asked = asked.filter(|name| slow.count(name) > 0).count();
    assert_eq!(asked, 3, "one pull fetches so many at a time");
    leave(hanging).await;
}

/// Two registries send the same layer, each only when both have been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_layer_that_comes_from_two_registries_is_there_once() {
    for keeps_blobs in [false, true] {
        let site = Site::waiting(PATIENCE, keeps_blobs).await;
        let asked = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let serve = |own: usize| {
            let (made, asked) = (image("x", &[layer_of(SIZE)]), Arc::clone(&asked));
            Fake::start(move |request| {
                if request.path.contains(&made.layers[0]) {
                    asked[own].store(true, Ordering::Relaxed);
                    until(|| asked.iter().all(|asked| asked.load(Ordering::Relaxed)));
                }
                serve_image(&made, request)
            })
        };
        let (a, b) = (serve(0).await, serve(1).await);
        assert_eq!(pull_both(&site, &a, &b).await, [Ok(()), Ok(())]);
        let [image] = &site.images.list()[..] else {
            panic!("{:?}", site.images.list());
        };
        assert_eq!(image.repo_tags.len(), 2);
        assert_whole(&site, &image.id);
        assert_eq!(site.partial_blobs(), 0);
        site.assert_verified().await;
        site.assert_clean();
    }
}

/// Whoever fetches a layer may leave; who waits for it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_pull_goes_on_where_another_left() {
    let site = Site::waiting(PATIENCE, false).await;
    let made = image("x", &[layer_of(SIZE)]);
    let name = made.layers[0].clone();
    let first = AtomicBool::new(true);
    let registry = Fake::start(move |asked| {
        let reply = serve_image(&made, asked);
        let is_first = asked.path.contains(&made.layers[0]) && first.swap(false, Ordering::Relaxed);
        match is_first {
            true => reply.hanging_after(1000),
            false => reply,
        }
    })
    .await;
    let leaving = pull(&site, &registry, "a");
    while registry.count(&name) == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = pull(&site, &registry, "b");
    let reference = format!("{}/b/app:v1", registry.address);
    let progress = || site.images.progress(&reference);
    while progress().is_none_or(|progress| progress.layers().is_empty()) {
        tokio::task::yield_now().await;
    }
    // From there to its turn it is not seen.
    tokio::time::sleep(Duration::from_millis(200)).await;
    leaving.abort();
    waiting.await.unwrap().unwrap();
    let id = site.images.list()[0].id.clone();
    assert_whole(&site, &id);
    assert_eq!(registry.count(&name), 2);
    assert_eq!(site.partial_blobs(), 0);
    site.assert_clean();
}
