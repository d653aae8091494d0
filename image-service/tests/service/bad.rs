//! Registries that fail: each failure has its kind, names what is wrong, and leaves nothing.

use corten_image::{Auth, ErrorKind};

use crate::fake::{Asked, Fake, Reply, asks_for, ranged};
use crate::image::{Image, digest, file, image, image_with, index, simple};
use crate::site::Site;
use crate::tree::Pack;

/// Pulls `app:v1` of `wanted` from a registry that answers `wrong`; returns the error's text.
async fn fails(
    wanted: Image,
    wrong: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    kind: ErrorKind,
) -> String {
    let site = Site::new().await;
    let registry = Fake::serving(wanted, wrong).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(site.images.list().is_empty());
    site.assert_clean();
    error.to_string()
}

fn is_manifest(asked: &Asked) -> bool {
    asked.path.contains("/manifests/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none() {
    let site = Site::new().await;
    for name in ["", "UPPER", "a b", "../x", "http://h/x", &"f".repeat(64)] {
        let error = site.images.pull(name, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidReference, "{name}");
        assert!(error.to_string().contains(&format!("{name:?}")));
    }
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist() {
    let not_found = |asked: &Asked| is_manifest(asked).then(|| Reply::new(404, b"{}"));
    let text = fails(simple("x"), not_found, ErrorKind::NotFound).await;
    assert!(text.contains("app:v1") && text.contains("404"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_does_not_exist() {
    let wanted = simple("x");
    let path = format!("/blobs/{}", wanted.layers[0]);
    let not_found = move |asked: &Asked| asked.path.contains(&path).then(|| Reply::new(404, b""));
    let text = fails(wanted, not_found, ErrorKind::NotFound).await;
    assert!(text.contains("blob sha256:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down() {
    let site = Site::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let error = site.images.pull(&format!("{address}/x"), None).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegistryUnavailable);
    assert!(error.to_string().contains("refused"), "{error}");
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_trouble_is_asked_again() {
    let site = Site::new().await;
    let registry = Fake::start(|_| Reply::new(503, b"")).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegistryUnavailable);
    assert!(error.to_string().contains("503"), "{error}");
    assert!(error.to_string().contains("tried 3 times"), "{error}");
    assert_eq!(registry.count("/manifests/"), 3);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_recovers() {
    let site = Site::new().await;
    let failures = std::sync::atomic::AtomicU32::new(2);
    let registry = Fake::serving(simple("x"), move |_| {
        let left = failures.load(std::sync::atomic::Ordering::Relaxed);
        failures.store(left.saturating_sub(1), std::sync::atomic::Ordering::Relaxed);
        (left > 0).then(|| Reply::new(500, b"").with("Retry-After", "0"))
    })
    .await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hangs() {
    let wanted = simple("x");
    let layer = wanted.blobs[&wanted.layers[0]].clone();
    let hangs = move |asked: &Asked| {
        asks_for(asked, &layer).then(|| Reply::new(200, &layer).hanging_after(20))
    };
    let text = fails(wanted, hangs, ErrorKind::Timeout).await;
    assert!(text.contains("no byte within 1 s"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_another_digest() {
    let wanted = simple("x");
    let layer = wanted.blobs[&wanted.layers[0]].clone();
    let other = crate::tree::pack(&file("y"), Pack::Gzip);
    assert_eq!(other.len(), layer.len());
    let wrong = move |asked: &Asked| asks_for(asked, &layer).then(|| Reply::new(200, &other));
    let text = fails(wanted, wrong, ErrorKind::DigestMismatch).await;
    assert!(text.contains("blob of layer sha256:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_garbage() {
    let wanted = simple("x");
    let layer = wanted.blobs[&wanted.layers[0]].clone();
    let garbage = vec![7; layer.len()];
    let wrong = move |asked: &Asked| asks_for(asked, &layer).then(|| Reply::new(200, &garbage));
    fails(wanted, wrong, ErrorKind::DigestMismatch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_whose_content_is_not_what_the_config_says() {
    // The blob is what the manifest says; the config speaks of another.
    let mut wanted = simple("x");
    let lie = wanted.blobs[&wanted.id].clone();
    let lie = String::from_utf8(lie).unwrap();
    let lie = lie.replace(&digest(&file("x")), &digest(&file("y")));
    let manifest = String::from_utf8(wanted.blobs[&wanted.digest].clone()).unwrap();
    let manifest = manifest.replace(&wanted.id, &digest(lie.as_bytes()));
    wanted.digest = digest(manifest.as_bytes());
    for bytes in [lie, manifest] {
        wanted
            .blobs
            .insert(digest(bytes.as_bytes()), bytes.into_bytes());
    }
    let text = fails(wanted, |_| None, ErrorKind::DigestMismatch).await;
    assert!(text.contains("uncompressed content"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_another_digest() {
    let site = Site::new().await;
    let wanted = simple("x");
    let by_digest = wanted.digest.clone();
    let registry = Fake::serving(wanted, |asked| {
        is_manifest(asked).then(|| Reply::new(200, b"{\"schemaVersion\":2}"))
    })
    .await;
    let reference = format!("{}/app@{by_digest}", registry.address);
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_manifest() {
    for (body, kind, part) in [
        (&b"<html>"[..], ErrorKind::InvalidContent, "expected value"),
        (b"{}", ErrorKind::InvalidContent, "no image"),
        (b"", ErrorKind::InvalidContent, "EOF"),
        (
            br#"{"schemaVersion":1}"#,
            ErrorKind::Unsupported,
            "schema 1",
        ),
    ] {
        let wrong = move |asked: &Asked| is_manifest(asked).then(|| Reply::new(200, body));
        let text = fails(simple("x"), wrong, kind).await;
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_too_large() {
    let huge = vec![b' '; (4 << 20) + 1];
    let wrong = move |asked: &Asked| is_manifest(asked).then(|| Reply::new(200, &huge));
    let text = fails(simple("x"), wrong, ErrorKind::InvalidContent).await;
    assert!(text.contains("larger than 4194304 bytes"), "{text}");
    let wanted = image_with("x", &[], |manifest| {
        manifest["config"]["size"] = (9 << 20).into();
    });
    let text = fails(wanted, |_| None, ErrorKind::InvalidContent).await;
    assert!(text.contains("limit is 8388608"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_lie() {
    for (lie, part) in [(-5, "more than"), (5, "ended after")] {
        let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
            let size = manifest["layers"][0]["size"].as_i64().unwrap();
            manifest["layers"][0]["size"] = (size + lie).into();
        });
        let text = fails(wanted, |_| None, ErrorKind::InvalidContent).await;
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_and_config_that_disagree() {
    let wanted = image_with("x", &[(file("x"), Pack::Gzip)], |manifest| {
        manifest["layers"] = serde_json::json!([]);
    });
    let text = fails(wanted, |_| None, ErrorKind::InvalidContent).await;
    assert!(text.contains("lists 0 layers, the config 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_for_this_machine() {
    let other = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let list = index(&[(&format!("sha256:{}", "0".repeat(64)), 9, Some(other))]);
    let wrong = move |asked: &Asked| is_manifest(asked).then(|| Reply::new(200, &list));
    let text = fails(simple("x"), wrong, ErrorKind::Unsupported).await;
    assert!(text.contains("no variant for linux/"), "{text}");
    let artifact = image_with("x", &[], |manifest| {
        manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    });
    let text = fails(artifact, |_| None, ErrorKind::Unsupported).await;
    assert!(text.contains("not an image"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_continued() {
    let site = Site::new().await;
    let wanted = image("x", &[(file("some content"), Pack::Plain)]);
    let layer = wanted.blobs[&wanted.layers[0]].clone();
    let path = format!("/blobs/{}", wanted.layers[0]);
    let registry = Fake::serving(wanted, move |asked| {
        asks_for(asked, &layer)
            .then(|| ranged(&layer, asked).cut_after(600.min(ranged(&layer, asked).body.len())))
    })
    .await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    assert!(registry.count(&path) > 2);
    let asked = registry.asked();
    assert!(asked.iter().any(|asked| {
        asked
            .headers
            .get("range")
            .is_some_and(|r| r.starts_with("bytes=600-"))
    }));
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_always_breaks_off_at_the_same_place() {
    let wanted = simple("x");
    let layer = wanted.blobs[&wanted.layers[0]].clone();
    let cut =
        move |asked: &Asked| asks_for(asked, &layer).then(|| Reply::new(200, &layer).cut_after(30));
    let text = fails(wanted, cut, ErrorKind::RegistryUnavailable).await;
    assert!(
        text.contains("broke off") && text.contains("tried 3 times"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses() {
    let site = Site::new().await;
    let registry =
        Fake::start(|_| Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"r\"")).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let auth = Auth {
        username: "u".to_owned(),
        password: "hidden".to_owned(),
        ..Auth::default()
    };
    let error = site.images.pull(&reference, Some(auth)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.to_string().contains("the request's credentials"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hidden"));
    site.assert_clean();
}
