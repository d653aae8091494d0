//! Archives on disk: what skopeo writes, what is hand-made, what is broken.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use corten_image::ErrorKind;
use serde_json::json;

use crate::image::{Image, file, image, simple};
use crate::registry::run;
use crate::site::Site;
use crate::tree::{Pack, Tar, pack};

fn skopeo(site: &Site, image: &Image, destination: &str) -> PathBuf {
    let layout = site.path("layout");
    image.write_layout(&layout, "image");
    let archive = site.path("archive.tar");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("oci:{}:image", layout.display()))
        .arg(destination.replace("ARCHIVE", archive.to_str().unwrap())));
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_as_skopeo_writes_them() {
    let site = Site::new().await;
    let layers = [(file("a"), Pack::Gzip), (file("b"), Pack::Plain)];
    let archive = skopeo(&site, &image("x", &layers), "docker-archive:ARCHIVE:app:v1");
    let loaded = site.images.load(&archive).await.unwrap();
    assert_eq!(loaded, ["docker.io/library/app:v1"]);
    let image = site.images.resolve("app:v1").unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/app:v1"]);
    assert!(image.repo_digests.is_empty());
    assert_eq!(image.layers.len(), 2);
    assert_eq!(
        fs::read(site.top_layer("app:v1").join("hello")).unwrap(),
        b"b"
    );
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_archives_as_skopeo_writes_them_compressed_or_not() {
    let site = Site::new().await;
    let wanted = simple("x");
    let archive = skopeo(&site, &wanted, "oci-archive:ARCHIVE:reg.example/app:v1");
    let plain = fs::read(&archive).unwrap();
    for how in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        fs::write(&archive, pack(&plain, how)).unwrap();
        let loaded = site.images.load(&archive).await.unwrap();
        assert_eq!(loaded, ["reg.example/app:v1"]);
        let image = site.images.resolve("reg.example/app:v1").unwrap();
        assert_eq!(image.id, wanted.id);
        assert_eq!(
            image.repo_digests,
            [format!("reg.example/app@{}", wanted.digest)]
        );
        site.assert_clean();
        site.images.remove(&image.id).await.unwrap();
        site.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_name_is_known_by_its_id() {
    let site = Site::new().await;
    let wanted = simple("x");
    let archive = site.path("a.tar");
    fs::write(&archive, layout(&wanted, "latest").bytes()).unwrap();
    assert_eq!(
        site.images.load(&archive).await.unwrap(),
        [wanted.id.as_str()]
    );
    let image = site.images.resolve(&wanted.id).unwrap();
    assert!(image.repo_tags.is_empty() && image.repo_digests.is_empty());
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_docker_archives_link_their_layers() {
    let site = Site::new().await;
    let wanted = image("x", &[(file("a"), Pack::Plain), (file("a"), Pack::Plain)]);
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": ["app:v1", "reg.example/app:v2"],
        "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    let tar = Tar::new()
        .file("config.json", &wanted.blobs[&wanted.id])
        .file("one/layer.tar", &file("a"))
        .symlink("two/layer.tar", "../one/layer.tar")
        .file("manifest.json", manifest.to_string().as_bytes());
    let archive = site.path("a.tar");
    fs::write(&archive, tar.bytes()).unwrap();
    let loaded = site.images.load(&archive).await.unwrap();
    assert_eq!(loaded, ["docker.io/library/app:v1", "reg.example/app:v2"]);
    site.assert_clean();
}

fn layout(image: &Image, name: &str) -> Tar {
    let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for (key, bytes) in &image.blobs {
        tar = tar.file(&format!("blobs/sha256/{}", &key[7..]), bytes);
    }
    tar.file("index.json", &image.layout_index(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_broken() {
    let site = Site::new().await;
    let good = simple("x");
    let without = |key: &str| {
        let mut image = simple("x");
        image.blobs.remove(key);
        layout(&image, "app:v1")
    };
    let changed = |key: &str| {
        let mut image = simple("x");
        *image.blobs.get_mut(key).unwrap() = b"something else".to_vec();
        layout(&image, "app:v1")
    };
    let absent = json!([{"Config": "../../etc/passwd", "RepoTags": null, "Layers": []}]);
    for (tar, kind, part) in [
        (
            Tar::new().file("x", b""),
            ErrorKind::InvalidContent,
            "neither an OCI layout",
        ),
        (
            Tar::new().file("index.json", b"{}"),
            ErrorKind::InvalidContent,
            "no image",
        ),
        (
            without(&good.digest),
            ErrorKind::InvalidContent,
            "it has no file",
        ),
        (
            without(&good.id),
            ErrorKind::InvalidContent,
            "it has no file",
        ),
        (
            without(&good.layers[0]),
            ErrorKind::InvalidContent,
            "it has no file",
        ),
        (
            changed(&good.digest),
            ErrorKind::DigestMismatch,
            &good.digest,
        ),
        (
            changed(&good.layers[0]),
            ErrorKind::DigestMismatch,
            &good.layers[0],
        ),
        (
            layout(&good, "app:v1").file("index.json", b"{}"),
            ErrorKind::InvalidContent,
            "twice",
        ),
        (
            layout(&good, "UPPER:v1"),
            ErrorKind::InvalidReference,
            "UPPER",
        ),
        (
            Tar::new().file("manifest.json", absent.to_string().as_bytes()),
            ErrorKind::InvalidContent,
            "it has no file \"../../etc/passwd\"",
        ),
    ] {
        let archive = site.path("a.tar");
        fs::write(&archive, tar.bytes()).unwrap();
        let error = site.images.load(&archive).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(site.images.list().is_empty());
        site.assert_clean();
    }
    let error = site.images.load(&site.path("nothing")).await.unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
    fs::write(site.path("a.tar"), b"\x1f\x8bgarbage").unwrap();
    let error = site.images.load(&site.path("a.tar")).await.unwrap_err();
    assert!(error.to_string().contains("a.tar"), "{error}");
    site.assert_clean();
}
