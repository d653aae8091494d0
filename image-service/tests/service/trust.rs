//! What hosts.toml says of a host's TLS, where that host leads to another.

use std::fs;
use std::path::PathBuf;

use corten_image::ErrorKind;

use crate::credentials::password;
use crate::fake::{Asked, Fake, Reply, serve_image};
use crate::image::{Image, simple};
use crate::registry::certificates;
use crate::site::Site;

/// A certificate of a CA that this machine does not know.
fn private_ca(site: &Site) -> PathBuf {
    let dir = site.path("tls");
    fs::create_dir(&dir).unwrap();
    certificates(&dir);
    dir
}

/// Serves `image`, but for its layer, which lies at another host.
async fn leading(dir: &std::path::Path, image: Image) -> (Fake, Fake) {
    let name = image.layers[0].clone();
    let layer = image.blobs[&name].clone();
    let storage = Fake::start_tls(dir, move |_| Reply::new(200, &layer)).await;
    let location = format!("https://{}/key", storage.address);
    let registry = Fake::start_tls(dir, move |asked: &Asked| match asked.path.contains(&name) {
        true => Reply::new(307, b"").with("Location", &location),
        false => serve_image(&image, asked),
    })
    .await;
    (registry, storage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_not_checked_only_where_it_is_named() {
    let site = Site::new().await;
    let (registry, storage) = leading(&private_ca(&site), simple("x")).await;
    let reference = registry.reference();
    let insecure = format!(
        "server = 'https://{}'\nskip_verify = true\n",
        registry.address
    );
    site.write_hosts(&registry.address, &insecure);
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegistryUnavailable);
    let text = error.to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(text.contains(&storage.address), "{text}");
    assert!(storage.asked().is_empty());
    // An entry that serves nothing, for what it says of the host.
    let named = format!(
        "{insecure}[host.'https://{}']\ncapabilities = []\nskip_verify = true\n",
        storage.address
    );
    site.write_hosts(&registry.address, &named);
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(storage.asked().len(), 1);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_is_not_named_is_checked_before_it_sees_a_password() {
    let site = Site::new().await;
    let dir = private_ca(&site);
    let tokens = Fake::start_tls(&dir, |_| Reply::new(200, br#"{"token":"t0"}"#)).await;
    let header = format!("Bearer realm=\"https://{}/token\"", tokens.address);
    let image = simple("x");
    let registry = Fake::start_tls(&dir, move |asked: &Asked| {
        let token = asked.headers.get("authorization").map(String::as_str);
        match token == Some("Bearer t0") {
            true => serve_image(&image, asked),
            false => Reply::new(401, b"").with("WWW-Authenticate", &header),
        }
    })
    .await;
    let reference = registry.reference();
    let insecure = format!(
        "server = 'https://{}'\nskip_verify = true\n",
        registry.address
    );
    site.write_hosts(&registry.address, &insecure);
    let pull = site.images.pull(&reference, Some(password())).await;
    let text = pull.unwrap_err().to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(tokens.asked().is_empty());
    let trusted = format!("{insecure}ca = '{}'\n", dir.join("ca.pem").display());
    site.write_hosts(&registry.address, &trusted);
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    assert_eq!(tokens.asked().len(), 1);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_shown_to_its_host_alone() {
    let site = Site::new().await;
    let dir = private_ca(&site);
    let (registry, storage) = leading(&dir, simple("x")).await;
    let file = |name: &str| dir.join(name).display().to_string();
    site.write_hosts(
        &registry.address,
        &format!(
            "server = 'https://{}'\nca = '{}'\nclient = [['{}', '{}']]\n",
            registry.address,
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        ),
    );
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    assert!(registry.asked().iter().all(|asked| asked.by_certificate));
    assert_eq!(storage.asked().len(), 1);
    assert!(!storage.asked()[0].by_certificate);
    site.assert_clean();
}
