//! Manifests and indexes made to harm.

use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::image::{INDEX_TYPE, MANIFEST_TYPE, digest, file, image_with, simple};
use crate::site::Site;
use crate::tree::Pack;

/// Each edit of a good one is refused with its words.
#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_has_its_fate() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 12] = [
        (
            "no layers",
            |m| drop(m.as_object_mut().unwrap().remove("layers")),
            "layers",
        ),
        (
            "layers that are no list",
            |m| m["layers"] = json!("x"),
            "not a list",
        ),
        (
            "a layer too many",
            |m| {
                let layer = m["layers"][0].clone();
                m["layers"].as_array_mut().unwrap().push(layer);
            },
            "lists 2 layers, the config 1",
        ),
        (
            "a layer too few",
            |m| m["layers"] = json!([]),
            "lists 0 layers, the config 1",
        ),
        (
            "five hundred layers",
            |m| {
                let layer = m["layers"][0].clone();
                m["layers"] = vec![layer; 500].into();
            },
            "499",
        ),
        (
            "a digest of another kind",
            |m| m["layers"][0]["digest"] = json!("md5:00"),
            "digest",
        ),
        (
            "a digest as a path",
            |m| m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"),
            "etc/passwd",
        ),
        (
            "a size below zero",
            |m| m["layers"][0]["size"] = json!(-1),
            "out of range",
        ),
        (
            "a size of exabytes",
            |m| m["layers"][0]["size"] = json!(u64::MAX),
            "size",
        ),
        (
            "a config of gigabytes",
            |m| m["config"]["size"] = json!(1u64 << 40),
            "limit",
        ),
        (
            "both a manifest and an index",
            |m| m["manifests"] = json!([]),
            "as a manifest and as an index",
        ),
        (
            "an artifact",
            |m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"),
            "artifact",
        ),
    ];
    let site = Site::new().await;
    for (name, edit, words) in cases {
        let hostile = image_with(name, &[(file("x"), Pack::Gzip)], edit);
        let registry = Fake::serving(hostile, |_| None).await;
        let reference = registry.reference();
        let error = site.images.pull(&reference, None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{name}: {text}");
        site.assert_clean();
    }
}

/// An index that lists itself cannot be made, since it would have to know its digest; one that is served for every digest
/// can, and so can a chain of them.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_without_an_end() {
    let site = Site::new().await;
    let mut documents = Vec::new();
    let mut below = simple("end").digest;
    let mut size = 300;
    for _ in 0..40 {
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPE,
            "manifests": [{"mediaType": INDEX_TYPE, "digest": below, "size": size}],
        });
        let index = index.to_string().into_bytes();
        below = digest(&index);
        size = index.len();
        documents.push(index);
    }
    let top = documents.last().unwrap().clone();
    let registry = Fake::start(move |asked| {
        let found = documents
            .iter()
            .find(|bytes| asked.path.contains(&digest(bytes)));
        Reply::new(200, found.unwrap_or(&top)).with("Content-Type", MANIFEST_TYPE)
    })
    .await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("nest too deep"), "{error}");
    site.assert_clean();
}
