//! Texts and lists of a length that no honest image has: they end in a short error, and take no memory.

use corten_image::Error;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::image::{Image, digest, file, image, image_with, simple};
use crate::site::Site;
use crate::tree::{Pack, Tar};

const LONG: usize = 900 << 10;

fn with_manifest(edit: impl FnOnce(&mut Value)) -> Image {
    image_with("x", &[(file("x"), Pack::Gzip)], edit)
}

fn with_config(config: &Value) -> Image {
    simple("x").with_config(|_| config.to_string())
}

fn with_layer(layer: Tar) -> Image {
    image("x", &[(layer.bytes(), Pack::Gzip)])
}

#[track_caller]
fn assert_brief(error: &Error) {
    let text = error.to_string();
    let (is_short, is_cut) = (text.len() < 1500, text.contains("xxx..."));
    assert!(is_short && is_cut, "{} bytes: {text:.300}", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_quote_long_texts_briefly() {
    let long = "x".repeat(LONG);
    let rootfs = json!({"diff_ids": []});
    let up = format!("../{long}");
    let many = (0..400)
        .map(|n| json!({"mediaType": format!("{n}{}", &long[..2000]), "digest": digest(b"")}));
    let many: Vec<_> = many.collect();
    let images = [
        with_manifest(|manifest| manifest["config"]["mediaType"] = json!(long)),
        with_manifest(|manifest| {
            manifest["config"]["mediaType"] = json!("x");
            manifest["artifactType"] = json!(long);
        }),
        with_manifest(|manifest| manifest["layers"][0]["digest"] = json!(long)),
        with_manifest(|manifest| manifest["layers"] = json!(many)),
        with_config(&json!({"os": long, "rootfs": rootfs})),
        with_config(&json!({"rootfs": {"diff_ids": [long]}})),
        with_config(&json!({"rootfs": rootfs, "config": {"Labels": {long.as_str(): 5}}})),
        with_layer(Tar::new().pax(&[("path", up.as_bytes())]).file("x", b"")),
        with_layer(Tar::new().pax(&[("path", long.as_bytes())]).file("x", b"")),
    ];
    let site = Site::new().await;
    for (number, image) in images.into_iter().enumerate() {
        let registry = Fake::serving(image, |_| None).await;
        let reference = registry.reference();
        match site.images.pull(&reference, None).await {
            Ok(_) => panic!("image {number} is taken in"),
            Err(error) => assert_brief(&error),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_quote_long_addresses_briefly() {
    let site = Site::new().await;
    let location = format!("http://{}/", "x".repeat(60_000));
    let registry = Fake::start(move |_| Reply::new(307, b"").with("Location", &location)).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_brief(&error);
}

/// Two links to where they are, by names of this length, give one directory so many names. Unit: bytes.
const LINK: usize = 250;
/// The kernel follows 40 links in one path at most, and counts some of them twice (MAXSYMLINKS, fs/namei.c).
const LINKS: usize = 15;

/// At most 2^15.
fn names(count: usize) -> Vec<String> {
    let links = ["s".repeat(LINK), "t".repeat(LINK)];
    let name = |number: usize| {
        let path: Vec<_> = (0..LINKS)
            .map(|at| links[number >> at & 1].as_str())
            .collect();
        format!("{}/d", path.join("/"))
    };
    (0..count).map(name).collect()
}

fn directories(names: &[String]) -> Tar {
    let link = |layer: Tar, name: &str| {
        let name = name.repeat(LINK);
        layer.pax(&[("path", name.as_bytes())]).symlink("x", ".")
    };
    let layer = link(link(Tar::new(), "s"), "t");
    names.iter().fold(layer, |layer, name| {
        layer.pax(&[("path", name.as_bytes())]).dir("d")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_gives_a_directory_so_many_names_and_no_more() {
    let site = Site::new().await;
    let names = names((64 << 20) / (LINK * LINKS) + 1);
    let registry = Fake::serving(with_layer(directories(&names)), |_| None).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("64 MiB"), "{error}");
    site.assert_clean();
}
