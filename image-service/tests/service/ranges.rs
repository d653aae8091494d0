//! Hosts that break off, and answer a request for the rest in ways of their own: the pull that meets them succeeds.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::fake::{Asked, Fake, Reply, ranged};
use crate::image::{Image, image};
use crate::resume::{layer_of, noise};
use crate::site::Site;

const SIZE: usize = 1 << 20;

/// What comes of a layer from its byte to its last one.
type Answer = fn(&[u8], usize, usize) -> Reply;

fn wanted() -> (Image, String, Vec<u8>) {
    let image = image("x", &[layer_of(SIZE)]);
    let name = image.layers[0].clone();
    let layer = image.blobs[&name].clone();
    (image, name, layer)
}

/// First and last byte of the range that is asked for.
fn span(asked: &Asked) -> Option<(usize, usize)> {
    let range = asked.headers.get("range")?.strip_prefix("bytes=")?;
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse().ok()?))
}

/// Breaks off once, after more than half of the layer; `rest` answers what is asked for in parts.
async fn breaking(rest: impl Fn(&[u8], usize, usize) -> Reply + Send + Sync + 'static) -> Fake {
    let (image, name, layer) = wanted();
    let is_first = AtomicBool::new(true);
    Fake::serving(image, move |asked| {
        if !asked.path.contains(&name) {
            return None;
        }
        Some(match span(asked) {
            Some((start, last)) => rest(&layer, start, last),
            None if is_first.swap(false, Ordering::Relaxed) => {
                Reply::new(200, &layer).cut_after(600 << 10)
            }
            None => Reply::new(200, &layer),
        })
    })
    .await
}

fn part(layer: &[u8], start: usize, last: usize) -> Reply {
    let range = format!("bytes {start}-{last}/{}", layer.len());
    Reply::new(206, &layer[start..=last]).with("Content-Range", &range)
}

async fn succeeds(registry: &Fake) {
    let site = Site::new().await;
    let reference = registry.reference();
    let pull = site.images.pull(&reference, None).await;
    pull.unwrap_or_else(|error| panic!("{error}"));
    let layer = fs::read(site.top_layer(&reference).join("noise")).unwrap();
    assert!(layer == noise(SIZE));
    assert_eq!(site.partial_blobs(), 0);
    site.assert_clean();
}

fn whole_requests(registry: &Fake) -> usize {
    let (_, name, _) = wanted();
    let asked = registry.asked();
    let blob = asked.iter().filter(|asked| asked.path.contains(&name));
    blob.filter(|asked| span(asked).is_none()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_in_parts_is_fetched_whole() {
    for status in [400, 412, 416, 501] {
        let registry = breaking(move |_, _, _| Reply::new(status, b"")).await;
        succeeds(&registry).await;
        assert_eq!(whole_requests(&registry), 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_does_not_say_which_it_is_counts_for_nothing() {
    let answers: [Answer; 7] = [
        |layer, start, last| Reply::new(206, &layer[start..=last]),
        |layer, start, last| {
            Reply::new(206, &layer[start..=last]).with("Content-Range", "bytes */100")
        },
        |layer, start, last| {
            let range = format!("items {start}-{last}/{}", layer.len());
            Reply::new(206, &layer[start..=last]).with("Content-Range", &range)
        },
        // Another part, rightly named.
        |layer, start, last| part(layer, start + 1, last),
        |layer, _, last| part(layer, 0, last),
        // Of another file.
        |layer, start, last| {
            let range = format!("bytes {start}-{last}/{}", layer.len() + 1);
            Reply::new(206, &layer[start..=last]).with("Content-Range", &range)
        },
        |layer, start, last| {
            let head = format!("--x\r\nContent-Range: bytes {start}-{last}/*\r\n\r\n");
            let body = [head.as_bytes(), &layer[start..=last], b"\r\n--x--\r\n"].concat();
            Reply::new(206, &body).with("Content-Type", "multipart/byteranges; boundary=x")
        },
    ];
    for answer in answers {
        let registry = breaking(answer).await;
        succeeds(&registry).await;
        assert_eq!(whole_requests(&registry), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_too_short_or_too_long_is_a_part() {
    // As much as some proxies give at a time: many more answers than breaks are allowed.
    let registry =
        breaking(|layer, start, last| part(layer, start, last.min(start + (64 << 10) - 1))).await;
    succeeds(&registry).await;
    assert_eq!(whole_requests(&registry), 1);
    // It says less than it was asked for, and names no size.
    let registry = breaking(|layer, start, last| {
        let last = last.min(start + 100_000);
        let range = format!("bytes {start}-{last}/*");
        Reply::new(206, &layer[start..=last]).with("Content-Range", &range)
    })
    .await;
    succeeds(&registry).await;
    assert_eq!(whole_requests(&registry), 1);
    // It announces all and gives less.
    let registry = breaking(|layer, start, last| {
        let less = last.min(start + 100_000);
        let range = format!("bytes {start}-{last}/{}", layer.len());
        Reply::new(206, &layer[start..=less]).with("Content-Range", &range)
    })
    .await;
    succeeds(&registry).await;
    assert_eq!(whole_requests(&registry), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn crumbs_and_nothing_end_in_a_whole_blob() {
    for bytes in [0, 1, 1000] {
        let registry = breaking(move |layer, start, last| {
            let range = format!("bytes {start}-{last}/{}", layer.len());
            let body = &layer[start..(start + bytes).min(last + 1)];
            Reply::new(206, body).with("Content-Range", &range)
        })
        .await;
        succeeds(&registry).await;
        assert_eq!(whole_requests(&registry), 2, "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_other_bytes_is_not_the_end() {
    let registry = breaking(|layer, start, last| {
        let mut reply = part(layer, start, last);
        reply.body.fill(7);
        reply
    })
    .await;
    succeeds(&registry).await;
}

/// The whole blob, for the rest of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_knows_no_ranges_is_taken_as_it_is() {
    let registry = breaking(|layer, _, _| Reply::new(200, layer)).await;
    succeeds(&registry).await;
    assert_eq!(whole_requests(&registry), 1);
}

/// What an earlier pull has left must not keep later ones from succeeding.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_is_given_up_in_the_same_pull() {
    let (image, name, layer) = wanted();
    let phase = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&phase);
    let registry = Fake::serving(image, move |asked| {
        if !asked.path.contains(&name) {
            return None;
        }
        Some(match (now.load(Ordering::Relaxed), span(asked)) {
            (0, None) => Reply::new(200, &layer).cut_after(600 << 10),
            (0, Some(_)) => Reply::new(503, b"").with("Retry-After", "0"),
            (_, None) => Reply::new(200, &layer),
            (_, Some(_)) => Reply::new(416, b"").with("Content-Range", "bytes */5"),
        })
    })
    .await;
    let site = Site::new().await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(site.partial_blobs(), 1);
    phase.store(1, Ordering::Relaxed);
    site.images.pull(&reference, None).await.unwrap();
    let asked = registry.asked();
    let is_416 = |asked: &&Asked| span(asked).is_some_and(|(start, _)| start == 512 << 10);
    assert!(asked.iter().any(|asked| is_416(&asked)), "it went on first");
    assert_eq!(site.partial_blobs(), 0);
    site.assert_clean();
}

/// Over several connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_big_layer_comes_also_where_ranges_are_refused_or_wrong() {
    let big = || image("x", &[layer_of(40 << 20)]);
    let (name, layer) = (
        big().layers[0].clone(),
        big().blobs[&big().layers[0]].clone(),
    );
    for wrong in [true, false] {
        let (name, layer) = (name.clone(), layer.clone());
        let registry = Fake::serving(big(), move |asked| {
            if !asked.path.contains(&name) {
                return None;
            }
            Some(match (span(asked), wrong) {
                (None, _) => Reply::new(200, &layer),
                (Some((start, _)), false) if start > 10 << 20 => Reply::new(416, b""),
                (Some(_), false) => ranged(&layer, asked),
                (Some((start, last)), true) => {
                    let mut reply = part(&layer, start, last);
                    reply.body.reverse();
                    reply
                }
            })
        })
        .await;
        let site = Site::new().await;
        let reference = registry.reference();
        site.images.pull(&reference, None).await.unwrap();
        let layer = fs::metadata(site.top_layer(&reference).join("noise")).unwrap();
        assert_eq!(layer.len(), 40 << 20);
        site.assert_clean();
    }
}
