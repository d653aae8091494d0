//! Mirrors, credentials, redirects, TLS: who is asked, and who learns what.

use std::fs;

use corten_image::{Auth, ErrorKind};

use crate::credentials::{BASIC, password};
use crate::fake::{Asked, Fake, Reply, asks_for, serve_image};
use crate::image::simple;
use crate::registry::{Registry, certificates};
use crate::site::Site;

/// `u` and `secret`, as docker-registry's htpasswd wants it; made with libxcrypt.
const HTPASSWD: &str = "u:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

fn has_credentials(asked: &[Asked]) -> bool {
    asked
        .iter()
        .any(|asked| asked.headers.contains_key("authorization"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_serves_what_a_mirror_cannot() {
    let site = Site::new().await;
    let down = Fake::start(|_| Reply::new(500, b"").with("Retry-After", "0")).await;
    let empty = Fake::start(|_| Reply::new(404, b"")).await;
    let good = Fake::serving(simple("x"), |_| None).await;
    site.write_hosts(
        "reg.example",
        &format!(
            "server = 'http://{}'\n[host.'http://{}']\n[host.'http://{}']\n",
            good.address, down.address, empty.address
        ),
    );
    let pulled = site
        .images
        .pull("reg.example/team/app:v1", None)
        .await
        .unwrap();
    assert_eq!(pulled.repo_tags, ["reg.example/team/app:v1"]);
    assert!(
        empty.asked()[0]
            .path
            .ends_with("/v2/team/app/manifests/v1?ns=reg.example")
    );
    assert_eq!(good.asked()[0].path, "/v2/team/app/manifests/v1");
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_wrong_bytes_is_passed_over() {
    let site = Site::new().await;
    let short = Fake::start(|asked| {
        let is_manifest = asked.path.contains("/manifests/");
        Reply::new(if is_manifest { 404 } else { 200 }, b"{}")
    })
    .await;
    let garbled = Fake::serving(simple("x"), |asked| {
        let layer = simple("x");
        let bytes = &layer.blobs[&layer.layers[0]];
        asks_for(asked, bytes).then(|| Reply::new(200, &vec![0; bytes.len()]))
    })
    .await;
    let good = Fake::serving(simple("x"), |_| None).await;
    site.write_hosts(
        "reg.example",
        &format!(
            "server = 'http://{}'\n[host.'http://{}']\n[host.'http://{}']\n",
            good.address, garbled.address, short.address
        ),
    );
    let pulled = site.images.pull("reg.example/app:v1", None).await.unwrap();
    assert_eq!(
        std::fs::read(site.top_layer(&pulled.id).join("hello")).unwrap(),
        b"x"
    );
    assert!(garbled.count("/blobs/") > 0 && good.count("/blobs/") > 0);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_host_cannot_ask_for_the_registrys_credentials() {
    let site = Site::new().await;
    let tokens = Fake::start(|_| Reply::new(200, br#"{"token":"t0"}"#)).await;
    let header = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let storage =
        Fake::start(move |_| Reply::new(401, b"").with("WWW-Authenticate", &header)).await;
    let location = format!("http://{}/key", storage.address);
    let registry = Fake::start(move |_| Reply::new(307, b"").with("Location", &location)).await;
    let reference = registry.reference();
    let error = site
        .images
        .pull(&reference, Some(password()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    // It may have the token that anyone gets, and no more.
    assert_eq!(tokens.asked().len(), 1);
    assert!(!has_credentials(&tokens.asked()));
    assert!(!format!("{:?}", tokens.asked()).contains("secret"));
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_that_failed_is_in_the_error() {
    let site = Site::new().await;
    let down = Fake::start(|_| Reply::new(503, b"").with("Retry-After", "0")).await;
    let empty = Fake::start(|_| Reply::new(404, b"")).await;
    site.write_hosts(
        "_default",
        &format!(
            "server = 'http://{}'\n[host.'http://{}']\n",
            empty.address, down.address
        ),
    );
    let error = site
        .images
        .pull("reg.example/app:v1", None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    for part in [
        "reg.example/app:v1",
        &down.address,
        "503",
        &empty.address,
        "404",
    ] {
        assert!(text.contains(part), "{text}");
    }
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_files_are_read_anew_and_name_their_faults() {
    let site = Site::new().await;
    site.write_hosts("reg.example", "server = 3");
    let error = site
        .images
        .pull("reg.example/app:v1", None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("reg.example/hosts.toml"),
        "{error}"
    );
    let good = Fake::serving(simple("x"), |_| None).await;
    site.write_hosts(
        "reg.example",
        &format!("server = 'http://{}'", good.address),
    );
    site.images.pull("reg.example/app:v1", None).await.unwrap();
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_only_what_it_may() {
    let site = Site::new().await;
    let mirror = Fake::serving(simple("x"), |_| None).await;
    let server = Fake::serving(simple("x"), |_| None).await;
    site.write_hosts(
        "reg.example",
        &format!(
            "server = 'http://{}'\n[host.'http://{}/extra/path']\ncapabilities = ['pull']\noverride_path = true\n[host.'http://{}/extra/path'.header]\nx-team = 'a'\n",
            server.address, mirror.address, mirror.address
        ),
    );
    site.images.pull("reg.example/app:v1", None).await.unwrap();
    assert_eq!(server.asked().len(), 1, "the tag only");
    let asked = mirror.asked();
    assert_eq!(asked.len(), 2);
    for asked in asked {
        assert!(asked.path.starts_with("/extra/path/app/blobs/"));
        assert_eq!(asked.headers["x-team"], "a");
    }
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_the_registry_and_not_to_mirrors() {
    let site = Site::new().await;
    let challenge = |asked: &Asked| {
        (asked.headers.get("authorization").map(String::as_str) != Some(BASIC))
            .then(|| Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"r\""))
    };
    let mirror = Fake::serving(simple("x"), challenge).await;
    let server = Fake::serving(simple("x"), challenge).await;
    site.write_hosts(
        "reg.example",
        &format!(
            "server = 'http://{}'\n[host.'http://{}']\n",
            server.address, mirror.address
        ),
    );
    site.images
        .pull("reg.example/app:v1", Some(password()))
        .await
        .unwrap();
    assert!(has_credentials(&server.asked()));
    assert!(!has_credentials(&mirror.asked()));
    // An address that names another host keeps them here.
    let auth = Auth {
        server_address: "other.example".to_owned(),
        ..password()
    };
    let error = site
        .images
        .pull("reg.example/app:v1", Some(auth))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_and_shown() {
    let site = Site::new().await;
    let tokens = Fake::start(|asked| {
        let known = asked
            .headers
            .get("authorization")
            .is_some_and(|value| value == BASIC);
        let scoped = asked.path == "/token?scope=repository%3Aapp%3Apull&service=s";
        match known && scoped {
            true => Reply::new(200, br#"{"token":"t0"}"#),
            false => Reply::new(401, b""),
        }
    })
    .await;
    let header = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        tokens.address
    );
    let registry = Fake::serving(simple("x"), move |asked| {
        let token = asked.headers.get("authorization").map(String::as_str);
        (token != Some("Bearer t0")).then(|| Reply::new(401, b"").with("WWW-Authenticate", &header))
    })
    .await;
    let reference = registry.reference();
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    assert_eq!(tokens.asked().len(), 1);
    assert_eq!(
        registry
            .asked()
            .iter()
            .filter(|asked| asked
                .headers
                .get("authorization")
                .is_some_and(|v| v.starts_with("Basic")))
            .count(),
        0
    );
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("token server"), "{error}");
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_on_without_credentials() {
    let site = Site::new().await;
    let wanted = simple("x");
    let blob = wanted.blobs[&wanted.layers[0]].clone();
    let path = format!("/blobs/{}", wanted.layers[0]);
    let storage = Fake::start(move |_| Reply::new(200, &blob)).await;
    let location = format!("http://{}/bucket/key?sig=1", storage.address);
    let registry = Fake::start(move |asked| {
        if asked
            .headers
            .get("authorization")
            .is_none_or(|value| value != BASIC)
        {
            return Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        match asked.path.contains(&path) {
            true => Reply::new(307, b"").with("Location", &location),
            false => serve_image(&wanted, asked),
        }
    })
    .await;
    let reference = registry.reference();
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    let asked = storage.asked();
    assert_eq!(asked[0].path, "/bucket/key?sig=1");
    assert!(!has_credentials(&asked));
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_goes_in_circles_ends() {
    let site = Site::new().await;
    let registry = Fake::start(|asked| Reply::new(302, b"").with("Location", &asked.path)).await;
    let reference = registry.reference();
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(registry.asked().len(), 9);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_private_ca_and_a_password() {
    let site = Site::new().await;
    let plain = Registry::start();
    let dir = site.path("tls");
    fs::create_dir(&dir).unwrap();
    certificates(&dir);
    let file = |name: &str| dir.join(name).display().to_string();
    fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
    let secure = Registry::start_on(
        &plain,
        &format!(
            "  tls:\n    certificate: {}\n    key: {}",
            file("server.pem"),
            file("server.key")
        ),
        &format!(
            "auth:\n  htpasswd:\n    realm: r\n    path: {}",
            file("htpasswd")
        ),
    );
    plain.push(&simple("x"), "app:v1");
    let reference = format!("{}/app:v1", secure.address);
    let hosts = |more: &str| {
        site.write_hosts(
            &secure.address,
            &format!("server = 'https://{}'\n{more}", secure.address),
        )
    };
    hosts("");
    let error = site
        .images
        .pull(&reference, Some(password()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegistryUnavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
    hosts(&format!("ca = '{}'", file("ca.pem")));
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    site.images.remove(&reference).await.unwrap();
    hosts("skip_verify = true");
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    hosts("ca = 'missing.pem'");
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
    site.assert_clean();
}
