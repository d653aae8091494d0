//! What issue trackers of other runtimes tell of registries and images in the wild, by its number there.

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use corten_image::Auth;
use serde_json::json;

use crate::credentials::{BASIC, password};
use crate::fake::{Fake, Reply, serve_image};
use crate::image::{file, image, image_with, simple};
use crate::site::Site;
use crate::tree::{Pack, Tar};

async fn pulls(registry: &Fake, auth: Option<Auth>) {
    let site = Site::new().await;
    let reference = registry.reference();
    let pull = site.images.pull(&reference, auth).await;
    pull.unwrap_or_else(|error| panic!("{error}: {:?}", registry.asked()));
    site.assert_verified().await;
    site.assert_clean();
}

/// containerd 7390 and 3549, docker/cli 5304, containerd/cri 787: no Content-Type, no digest, or a type that says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_manifest_are_not_needed() {
    for kind in [None, Some("application/json"), Some("text/html")] {
        let image = simple("x");
        let registry = Fake::start(move |asked| {
            let mut reply = serve_image(&image, asked);
            reply.headers.clear();
            match kind {
                Some(kind) => reply.with("Content-Type", kind),
                None => reply,
            }
        })
        .await;
        pulls(&registry, None).await;
    }
}

/// containerd 9274 and 8388, enroot 278: a token that expires while layers are fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_fetched_anew() {
    let layers: Vec<_> = (0..4)
        .map(|at| (file(&format!("{at}")), Pack::Gzip))
        .collect();
    let image = image("x", &layers);
    let issued = AtomicUsize::new(0);
    let used = Mutex::new(HashMap::<String, usize>::new());
    let registry = Fake::start(move |asked| {
        if asked.path.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            return Reply::new(200, format!(r#"{{"token":"t{number}"}}"#).as_bytes());
        }
        // Good for two requests.
        let token = asked.authorization().to_owned();
        let is_token = token.starts_with("Bearer t");
        let mut used = used.lock().unwrap();
        let uses = used.entry(token).or_default();
        *uses += 1;
        if is_token && *uses <= 2 {
            return serve_image(&image, asked);
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\",error=\"invalid_token\"",
            asked.headers["host"]
        );
        Reply::new(401, b"").with("WWW-Authenticate", &challenge)
    })
    .await;
    pulls(&registry, None).await;
}

/// jib 4187, prowler 12691, devcontainers/cli 884: challenges that are not ours beside one that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_found_among_others() {
    for lines in [
        &["Negotiate", "BASIC realm=\"Sonatype\""][..],
        &["Negotiate, basic realm=r"],
        &["NTLM", "Bearer error=\"x\"", "Basic"],
    ] {
        let image = simple("x");
        let registry = Fake::start(move |asked| {
            if asked.authorization() == BASIC {
                return serve_image(&image, asked);
            }
            let refusal = Reply::new(401, b"");
            let line = |reply: Reply, line: &&str| reply.with("WWW-Authenticate", line);
            lines.iter().fold(refusal, line)
        })
        .await;
        pulls(&registry, Some(password())).await;
    }
}

/// go-containerregistry 1747, harbor 18856: a password is asked for where a token was not enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_may_be_asked_for_after_a_token() {
    let image = simple("x");
    let registry = Fake::start(move |asked| {
        if asked.path.starts_with("/token") {
            return Reply::new(200, br#"{"token":"little"}"#);
        }
        let challenge = match asked.authorization() {
            BASIC => return serve_image(&image, asked),
            "Bearer little" => "Basic realm=\"r\"".to_owned(),
            _ => format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]),
        };
        Reply::new(401, b"").with("WWW-Authenticate", &challenge)
    })
    .await;
    pulls(&registry, Some(password())).await;
}

/// terraform-provider-docker 582: challenges with an empty scope, or none.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_without_a_scope_means_the_repository() {
    for scope in ["", ",scope=\"\"", ",service=\"\",scope=\"\""] {
        let image = simple("x");
        let registry = Fake::start(move |asked| {
            if asked.path.contains("scope=repository%3Aapp%3Apull") {
                return Reply::new(200, br#"{"token":"t0"}"#);
            }
            if asked.authorization() == "Bearer t0" {
                return serve_image(&image, asked);
            }
            let host = &asked.headers["host"];
            let challenge = format!("Bearer realm=\"http://{host}/token\"{scope}");
            Reply::new(401, b"").with("WWW-Authenticate", &challenge)
        })
        .await;
        pulls(&registry, None).await;
    }
}

/// containerd 10134 and 3326, containers/storage 2053: layers that are packed in another way than their type says.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_say_how_a_layer_is_packed() {
    for (pack, kind) in [
        (Pack::Gzip, "application/vnd.oci.image.layer.v1.tar"),
        (Pack::Plain, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (Pack::Zstd, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (Pack::Gzip, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (
            Pack::Zstd,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ] {
        let wanted = image_with("x", &[(file("x"), pack)], |manifest| {
            manifest["layers"][0]["mediaType"] = json!(kind);
        });
        pulls(&Fake::serving(wanted, |_| None).await, None).await;
    }
}

/// containerd 3583: one layer many times in one image.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_may_have_a_layer_many_times() {
    let layers: Vec<_> = (0..30).map(|_| (file("x"), Pack::Gzip)).collect();
    let wanted = image("x", &layers);
    let name = wanted.layers[0].clone();
    let registry = Fake::serving(wanted, |_| None).await;
    pulls(&registry, None).await;
    assert_eq!(registry.count(&name), 1);
}

/// containerd 6991 and 13030: whiteouts and what they hide, in one layer, in either order.
#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_stand_beside_what_they_are_not_for() {
    let layer = Tar::new()
        .dir("doc")
        .symlink("doc/link", "../curl")
        .file("doc/.wh..wh..opq", b"")
        .file("doc/copyright", b"c")
        .file("doc/.wh.link", b"")
        .bytes();
    let site = Site::new().await;
    let registry = Fake::serving(image("x", &[(layer, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let top = site.top_layer(&reference);
    assert!(
        fs::symlink_metadata(top.join("doc/link"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(fs::read(top.join("doc/copyright")).unwrap(), b"c");
    site.assert_clean();
}

/// containerd 5503, go-containerregistry 2333: a mirror that redirects, also for manifests, to a registry with tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_front_that_redirects_all_to_a_registry_with_tokens() {
    let image = simple("x");
    let registry = Fake::start(move |asked| {
        if asked.path.starts_with("/token") {
            return Reply::new(200, br#"{"token":"t0"}"#);
        }
        if asked.authorization() == "Bearer t0" {
            return serve_image(&image, asked);
        }
        let host = &asked.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        Reply::new(401, b"").with("WWW-Authenticate", &challenge)
    })
    .await;
    let there = registry.address.clone();
    let gateway = Fake::start(move |asked| {
        Reply::new(307, b"").with("Location", &format!("http://{there}{}", asked.path))
    })
    .await;
    let there = gateway.address.clone();
    let front = Fake::start(move |asked| {
        Reply::new(308, b"").with("Location", &format!("http://{there}{}", asked.path))
    })
    .await;
    pulls(&front, Some(password())).await;
    assert!(
        registry
            .asked()
            .iter()
            .all(|asked| asked.authorization() != BASIC)
    );
}

/// Mirrors behind other policies than the registry: one that refuses is no reason to give up.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_refuses_is_passed_over() {
    for status in [400, 401, 403, 405, 429, 502] {
        let site = Site::new().await;
        let mirror = Fake::start(move |_| Reply::new(status, b"no").with("Retry-After", "0")).await;
        let server = Fake::serving(simple("x"), |_| None).await;
        site.write_hosts(
            "reg.example",
            &format!(
                "server = 'http://{}'\n[host.'http://{}']\n",
                server.address, mirror.address
            ),
        );
        site.images.pull("reg.example/app:v1", None).await.unwrap();
        site.assert_clean();
    }
}
