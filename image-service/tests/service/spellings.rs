//! Manifests and configs as tools write them that are not ours: types, nulls, keys, platforms, digests, sizes.

use std::fs;

use corten_image::ErrorKind;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::credentials::password;
use crate::fake::{Asked, Fake, Reply, asks_for};
use crate::image::{
    INDEX_TYPE, Image, MANIFEST_TYPE, digest, file, image, image_by, image_with, simple,
};
use crate::site::Site;
use crate::tree::{Pack, Tar};

const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

/// Pulls `app:v1` and looks for the file of [`file`].
async fn pulls(wanted: Image, content: &str) {
    let site = Site::new().await;
    let registry = Fake::serving(wanted, |_| None).await;
    let reference = registry.reference();
    let pull = site.images.pull(&reference, None).await;
    let pulled = pull.unwrap_or_else(|error| panic!("{error}"));
    let hello = fs::read(site.top_layer(&pulled.id).join("hello")).unwrap();
    assert_eq!(String::from_utf8(hello).unwrap(), content);
    site.assert_verified().await;
    site.assert_clean();
}

/// Serves `image`, and as `app:multi` an index of these entries.
async fn listing(image: Image, entries: &Value) -> Fake {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries});
    let index = index.to_string().into_bytes();
    Fake::serving(image, move |asked| {
        let is_index = asked.path.ends_with("/multi");
        is_index.then(|| Reply::new(200, &index))
    })
    .await
}

/// An entry among the layers that is none.
fn statement() -> Value {
    json!({
        "mediaType": "application/vnd.in-toto+json",
        "digest": digest(b"a statement that is not even there"),
        "size": 34,
        "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_need_not_be_distributed_come_from_the_registry_that_has_them() {
    for kind in [FOREIGN, NONDISTRIBUTABLE] {
        let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
            let mut layer = manifest["layers"][0].take();
            layer["mediaType"] = json!(kind);
            layer["urls"] = json!(["https://127.0.0.1:1/never"]);
            // Beside what is no layer, its type alone says that it is one.
            manifest["layers"] = json!([statement(), layer]);
        });
        pulls(wanted, "x").await;
    }
}

/// A registry that has all but the layer, which lies at `http://HOST/layer` of the other.
async fn foreign() -> (Fake, Fake) {
    let layer = crate::tree::pack(&file("x"), Pack::Gzip);
    let bytes = layer.clone();
    let files = Fake::start(move |asked| match asked.path.as_str() {
        "/layer?a=b" => Reply::new(200, &bytes),
        // A host that asks for credentials gets none, and the next address its turn.
        _ => Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let urls = json!([
        format!("http://{}/closed", files.address),
        format!("http://{}/layer?a=b", files.address)
    ]);
    let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
        manifest["layers"][0]["mediaType"] = json!(FOREIGN);
        manifest["layers"][0]["urls"] = urls;
    });
    let registry = Fake::serving(wanted, move |asked| {
        asks_for(asked, &layer).then(|| Reply::new(404, b""))
    })
    .await;
    (registry, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_fetched_from_where_the_image_says_only_if_that_is_allowed() {
    let (registry, files) = foreign().await;
    let reference = registry.reference();
    let other = ["https://files.example", "http://127.0.0.1:1"];
    for site in [Site::new().await, Site::allowing(&other).await] {
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        let layer = format!("http://{}/layer", files.address);
        assert!(
            text.contains(&layer) && text.contains("image.layer_hosts"),
            "{text}"
        );
        site.assert_clean();
    }
    assert!(files.asked().is_empty());
    let site = Site::allowing(&[&format!("http://{}", files.address)]).await;
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    let asked = files.asked();
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
    assert_eq!(
        fs::read(site.top_layer(&reference).join("hello")).unwrap(),
        b"x"
    );
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_unknown_types_are_no_layers() {
    for at in [0, 1] {
        let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
            manifest["layers"]
                .as_array_mut()
                .unwrap()
                .insert(at, statement());
        });
        pulls(wanted, "x").await;
    }
    // All of them are layers where the config counts so many.
    let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/octet-stream");
    });
    pulls(wanted, "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn null_stands_for_an_empty_list() {
    let wanted = simple("x").with_manifest(|manifest| {
        manifest.replacen(
            "\"size\":",
            "\"annotations\":null,\"urls\":null,\"platform\":null,\"data\":null,\"size\":",
            9,
        )
    });
    let wanted = wanted.with_config(|config| {
        let lists = "\"history\":null,\"variant\":null,\"os.features\":null,\"config\":{\
                     \"Env\":null,\"Cmd\":null,\"Entrypoint\":null,\"Volumes\":null,\
                     \"ExposedPorts\":null,\"OnBuild\":null,\"User\":null,";
        config.replacen("\"config\":{", lists, 1)
    });
    pulls(wanted, "x").await;
    // No layers at all.
    let empty = image("x", &[])
        .with_config(|config| config.replace("\"diff_ids\":[]", "\"diff_ids\":null"));
    let empty =
        empty.with_manifest(|manifest| manifest.replace("\"layers\":[]", "\"layers\":null"));
    let site = Site::new().await;
    let registry = Fake::serving(empty, |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await.unwrap();
    assert!(pulled.layers.is_empty());
    // An index of nothing has nothing for this machine.
    let registry = listing(simple("x"), &Value::Null).await;
    let reference = format!("{}/app:multi", registry.address);
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("no variant"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_twice_is_read_as_other_tools_read_it() {
    let wanted = simple("x").with_manifest(|manifest| {
        let first = format!(
            "{{\"schemaVersion\":7,\"layers\":[{{\"digest\":\"{}\"}}],",
            digest(b"0")
        );
        manifest
            .replacen('{', &first, 1)
            .replacen("\"mediaType\"", "\"MediaType\"", 1)
    });
    let wanted = wanted.with_config(|config| {
        let config = config.replacen("\"User\":\"1002\"", "\"user\":\"1\",\"User\":\"1002\"", 1);
        config.replacen(
            '{',
            "{\"config\":{\"User\":\"0\",\"WorkingDir\":\"/w\"},",
            1,
        )
    });
    let site = Site::new().await;
    let registry = Fake::serving(wanted, |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await.unwrap();
    assert_eq!(pulled.config.user, "1002");
    assert_eq!(pulled.config.working_dir, "/w");
    assert_eq!(pulled.config.cmd, ["x"]);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn platforms_are_known_in_every_spelling() {
    let site = Site::new().await;
    for platforms in [
        &[("Linux", "x86_64")][..],
        &[("linux", "x86-64")],
        &[("LINUX", "AMD64")],
        &[("linux", "386")],
        &[("linux", "i686"), ("linux", "arm64")],
    ] {
        let wanted = simple("here");
        let size = wanted.blobs[&wanted.digest].len();
        let entry = |(at, (os, arch)): (usize, &(&str, &str))| {
            let other = digest(b"of another machine");
            let digest = if at == 0 { &wanted.digest } else { &other };
            json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size,
                "platform": {"os": os, "architecture": arch}})
        };
        let entries: Vec<_> = platforms.iter().enumerate().map(entry).collect();
        let registry = listing(wanted, &json!(entries)).await;
        let reference = format!("{}/app:multi", registry.address);
        let pull = site.images.pull(&reference, None).await;
        pull.unwrap_or_else(|error| panic!("{platforms:?}: {error}"));
    }
    let wanted = simple("x").with_config(|config| {
        config
            .replace("\"os\":\"linux\"", "\"os\":\"Linux\"")
            .replace("amd64", "x86_64")
    });
    pulls(wanted, "x").await;
    site.assert_clean();
}

fn sha512(bytes: &[u8]) -> String {
    let hash = Sha512::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha512:{hex}")
}

/// An image of which every digest is by SHA-512.
fn by_sha512() -> Image {
    let layers = [
        (file("a"), Pack::Gzip),
        (Tar::new().file("hello", b"x").bytes(), Pack::Zstd),
    ];
    image_by(sha512, "x", &layers, |_| {})
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_by_sha512_are_verified_stored_and_saved() {
    for site in [Site::new().await, Site::keeping().await] {
        let wanted = by_sha512();
        let (id, top) = (wanted.id.clone(), wanted.digest.clone());
        let registry = Fake::serving(wanted, |_| None).await;
        let reference = format!("{}/app@{top}", registry.address);
        let pulled = site.images.pull(&reference, None).await.unwrap();
        assert_eq!(pulled.id, id);
        assert_eq!(pulled.repo_digests, [reference.as_str()]);
        for name in [&id, &reference, &id[..30]] {
            assert!(site.images.resolve(name).is_some(), "{name}");
        }
        assert_eq!(fs::read(site.top_layer(&id).join("hello")).unwrap(), b"x");
        site.assert_verified().await;
        let archive = site.path("saved.tar");
        site.images
            .save(std::slice::from_ref(&reference), &archive)
            .await
            .unwrap();
        let other = Site::new().await;
        other.images.load(&archive).await.unwrap();
        assert_eq!(other.images.list()[0].id, id);
        other.assert_verified().await;
        let site = site.reopen().await;
        site.images.collect_garbage().await;
        assert_eq!(site.images.resolve(&reference).unwrap().id, id);
        site.images.remove(&id).await.unwrap();
        site.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_its_sha512_says_is_refused() {
    let whole = by_sha512();
    for name in [&whole.digest, &whole.id, &whole.layers[0], &whole.layers[1]] {
        let site = Site::new().await;
        let name = name.clone();
        let registry = Fake::serving(by_sha512(), move |asked: &Asked| {
            let mut bytes = by_sha512().blobs[&name].clone();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            asked.path.contains(&name).then(|| Reply::new(200, &bytes))
        })
        .await;
        let reference = format!("{}/app@{}", registry.address, whole.digest);
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
        site.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_the_size_that_is_said_of_them() {
    let site = Site::new().await;
    for lie in [-1, 1] {
        let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
            let size = manifest["config"]["size"].as_i64().unwrap();
            manifest["config"]["size"] = json!(size + lie);
        });
        let registry = Fake::serving(wanted, |_| None).await;
        let reference = registry.reference();
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{error}");
        assert!(error.to_string().contains("its descriptor says"), "{error}");
        let wanted = simple("x");
        let size = i64::try_from(wanted.blobs[&wanted.digest].len()).unwrap();
        let entry =
            json!({"mediaType": MANIFEST_TYPE, "digest": wanted.digest, "size": size + lie});
        let registry = listing(wanted, &json!([entry])).await;
        let reference = format!("{}/app:multi", registry.address);
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert!(error.to_string().contains("its descriptor says"), "{error}");
    }
    site.assert_clean();
}
