//! Redirects in every form, and the tokens of hosts that they lead to.

use crate::credentials::{BASIC, password};
use crate::fake::{Asked, Fake, Reply, serve_image};
use crate::image::{Image, file, image, simple};
use crate::site::Site;
use crate::tree::Pack;

fn two_layers() -> Image {
    image("x", &[(file("a"), Pack::Gzip), (file("b"), Pack::Gzip)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_led_to_gives_its_own_token_to_anyone() {
    let site = Site::new().await;
    let tokens = Fake::start(|_| Reply::new(200, br#"{"token":"anyone's"}"#)).await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        tokens.address
    );
    let blobs = two_layers().blobs;
    let storage = Fake::start(move |asked| {
        if asked.authorization() != "Bearer anyone's" {
            return Reply::new(401, b"").with("WWW-Authenticate", &challenge);
        }
        Reply::new(200, &blobs[asked.path.rsplit('/').next().unwrap()])
    })
    .await;
    let (wanted, there) = (two_layers(), storage.address.clone());
    let layers = wanted.layers.clone();
    let registry = Fake::start(move |asked| {
        if asked.authorization() != BASIC {
            return Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        let name = asked.path.rsplit('/').next().unwrap();
        match layers.iter().any(|layer| layer == name) {
            true => Reply::new(307, b"").with("Location", &format!("http://{there}/{name}")),
            false => serve_image(&wanted, asked),
        }
    })
    .await;
    let reference = registry.reference();
    site.images
        .pull(&reference, Some(password()))
        .await
        .unwrap();
    for asked in storage.asked() {
        assert!(["", "Bearer anyone's"].contains(&asked.authorization()));
    }
    for asked in tokens.asked() {
        assert_eq!(asked.path, "/token?scope=repository%3Aapp%3Apull&service=s");
        assert_eq!((asked.authorization(), asked.body.as_str()), ("", ""));
    }
    for asked in registry.asked() {
        assert!(!asked.authorization().starts_with("Bearer"), "{asked:?}");
    }
    site.assert_clean();
}

/// The layer is served at `/store/key`, and by query alone.
#[track_caller]
fn leads_to_the_layer(location: &'static str) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let site = Site::new().await;
        let wanted = simple("x");
        let name = wanted.layers[0].clone();
        let registry = Fake::start(move |asked| {
            if ["/store/key", "/store/a%20key?x=%C3%BC"].contains(&asked.path.as_str())
                || asked.path.ends_with("?signed=1")
            {
                return Reply::new(200, &wanted.blobs[&name]);
            }
            if !asked.path.contains(&name) {
                return serve_image(&wanted, asked);
            }
            let host = &asked.headers["host"];
            Reply::new(302, b"").with("Location", &location.replace("HOST", host))
        })
        .await;
        let reference = registry.reference();
        let pull = site.images.pull(&reference, None).await;
        pull.unwrap_or_else(|error| panic!("{location} at {caller}: {error}"));
        site.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_may_have_any_form() {
    for location in [
        "http://HOST/store/key",
        "HTTP://user:word@HOST/store/key#part",
        "//HOST/store/key",
        "//HOST/v2/../store/./key",
        "/store/key",
        "/../store/x/../key",
        "../../../store/key",
        "../../../../../store/key#part",
        "./../../../store/key",
        "?signed=1",
        "/store/a key?x=ü",
    ] {
        leads_to_the_layer(location).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_no_address_is_named() {
    let site = Site::new().await;
    for location in ["mailto:x", "https:", "http://", "ftp://h/x"] {
        let registry = Fake::start(|_| Reply::new(302, b"").with("Location", location)).await;
        let reference = registry.reference();
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert!(
            error.to_string().contains("a redirect"),
            "{location}: {error}"
        );
        assert_eq!(registry.asked().len(), 1);
    }
    site.assert_clean();
}

/// A registry that wants `Bearer t0`, which a token server gives with `answer`.
async fn pull_with_token(realm: &str, answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
    let site = Site::new().await;
    let (image, realm) = (simple("x"), realm.to_owned());
    let registry = Fake::start(move |asked| {
        if asked.path.starts_with("/token") || asked.path.starts_with("/login") {
            return answer(asked);
        }
        if asked.authorization() == "Bearer t0" {
            return serve_image(&image, asked);
        }
        let realm = realm.replace("HOST", &asked.headers["host"]);
        Reply::new(401, b"").with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let reference = registry.reference();
    let pull = site.images.pull(&reference, Some(password())).await;
    pull.unwrap_or_else(|error| panic!("{:?}: {error}", registry.asked()));
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_stand_in_either_field() {
    for answer in [
        r#"{"token":"t0"}"#,
        r#"{"access_token":"t0"}"#,
        r#"{"token":"","access_token":"t0"}"#,
        r#"{"token":null,"access_token":"t0","expires_in":60}"#,
        r#"{"token":"t0","access_token":""}"#,
        r#"{"token":"t0","access_token":"t1"}"#,
        r#"{"token":"old","token":"t0"}"#,
    ] {
        pull_with_token("http://HOST/token", move |_| {
            Reply::new(200, answer.as_bytes())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_may_be_relative_and_redirect() {
    pull_with_token("/token", |_| Reply::new(200, br#"{"token":"t0"}"#)).await;
    pull_with_token("http://HOST/token?a=b", |asked| {
        assert!(asked.authorization().starts_with("Basic "), "{asked:?}");
        match asked.path.starts_with("/login") {
            true => Reply::new(200, br#"{"token":"t0"}"#),
            false => Reply::new(302, b"").with("Location", "login"),
        }
    })
    .await;
    let other = Fake::start(|asked| match asked.authorization() {
        "" => Reply::new(200, br#"{"token":"t0"}"#),
        _ => Reply::new(500, b""),
    })
    .await;
    let location = format!("http://{}/", other.address);
    pull_with_token("http://HOST/token", move |_| {
        Reply::new(302, b"").with("Location", &location)
    })
    .await;
}

/// Proxies that compress make other bytes, and other ranges, of what is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_to_be_compressed_on_its_way() {
    let site = Site::new().await;
    let registry = Fake::serving(simple("x"), |asked| {
        (asked.headers.get("accept-encoding").map(String::as_str) != Some("identity"))
            .then(|| Reply::new(200, b"\x1f\x8b").with("Content-Encoding", "gzip"))
    })
    .await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    site.assert_clean();
}
