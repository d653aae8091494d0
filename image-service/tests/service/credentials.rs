//! What a kubelet's `AuthConfig` may hold, and which host sees it.

use corten_image::{Auth, ErrorKind};

use crate::fake::{Fake, Reply};
use crate::image::simple;
use crate::site::Site;

fn auth(fill: impl FnOnce(&mut Auth)) -> Auth {
    let mut auth = Auth::default();
    fill(&mut auth);
    auth
}

/// Credentials that [`BASIC`] shows.
pub(crate) fn password() -> Auth {
    auth(|auth| {
        auth.username = "u".to_owned();
        auth.password = "secret".to_owned();
    })
}

/// A registry that wants `header`, and asks for it by `challenge`.
async fn wanting(header: &'static str, challenge: String) -> Fake {
    Fake::serving(simple("x"), move |asked| {
        let shown = asked.headers.get("authorization").map(String::as_str);
        (shown != Some(header)).then(|| Reply::new(401, b"").with("WWW-Authenticate", &challenge))
    })
    .await
}

/// base64 of `u:secret`.
pub(crate) const BASIC: &str = "Basic dTpzZWNyZXQ=";

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_may_come_as_one_field() {
    let registry = wanting(BASIC, "Basic realm=\"r\"".to_owned()).await;
    let reference = registry.reference();
    let site = Site::new().await;
    for field in ["dTpzZWNyZXQ=", "dTpzZWNyZXQA"] {
        // docker's own ends with a NUL.
        let credentials = auth(|auth| auth.auth = field.to_owned());
        site.images
            .pull(&reference, Some(credentials))
            .await
            .unwrap();
    }
    let broken = auth(|auth| auth.auth = "no base64!".to_owned());
    let error = site
        .images
        .pull(&reference, Some(broken))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_token_is_shown_as_it_is() {
    let registry = wanting(
        "Bearer ready-made",
        "Bearer realm=\"http://127.0.0.1:1/\"".to_owned(),
    )
    .await;
    let site = Site::new().await;
    let credentials = auth(|auth| auth.registry_token = "ready-made".to_owned());
    let reference = registry.reference();
    site.images
        .pull(&reference, Some(credentials))
        .await
        .unwrap();
}

/// distribution, docs/spec/auth/oauth.md
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_by_a_form() {
    let tokens = Fake::start(|asked| {
        let form: Vec<&str> = asked.body.split('&').collect();
        let wanted = [
            "grant_type=refresh_token",
            "refresh_token=id%2Btoken",
            "service=s",
            "scope=repository%3Aapp%3Apull",
        ];
        let known = asked.path == "/token" && wanted.iter().all(|part| form.contains(part));
        match known && !asked.headers.contains_key("authorization") {
            true => Reply::new(200, br#"{"access_token":"t1"}"#),
            false => Reply::new(400, b""),
        }
    })
    .await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        tokens.address
    );
    let registry = wanting("Bearer t1", challenge).await;
    let site = Site::new().await;
    let credentials = auth(|auth| auth.identity_token = "id+token".to_owned());
    let reference = registry.reference();
    site.images
        .pull(&reference, Some(credentials))
        .await
        .unwrap();
    assert_eq!(tokens.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_the_host_that_they_name() {
    let registry = wanting(BASIC, "Basic realm=\"r\"".to_owned()).await;
    let reference = registry.reference();
    let address = registry.address.clone();
    for (server_address, may) in [
        (String::new(), true),
        (address.clone(), true),
        (format!("http://{address}/v1/"), true),
        ("127.0.0.1".to_owned(), false),
        (format!("{address}.example.com"), false),
        (format!("example.com/{address}"), false),
        (format!("x@{address}"), false),
    ] {
        let credentials = auth(|auth| {
            auth.username = "u".to_owned();
            auth.password = "secret".to_owned();
            auth.server_address = server_address.clone();
        });
        let site = Site::new().await;
        let before = registry.asked().len();
        let pulled = site.images.pull(&reference, Some(credentials)).await;
        assert_eq!(pulled.is_ok(), may, "{server_address}");
        let shown = registry.asked()[before..]
            .iter()
            .any(|asked| asked.headers.contains_key("authorization"));
        assert_eq!(shown, may, "{server_address}");
        if let Err(error) = pulled {
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
