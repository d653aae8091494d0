//! Parsers of this folder, opened to [`crate::fuzzing`].

use std::path::Path;

use http::Uri;

use super::{auth, hosts};

pub(crate) fn hosts(text: &str) {
    let _ = hosts::parse(
        Path::new("/certs.d/registry.example/hosts.toml"),
        text,
        "registry.example",
    );
}

pub(crate) fn challenge(text: &str) {
    if let Some(auth::Challenge::Bearer { realm, .. }) = auth::Challenge::parse(text.split('\n')) {
        let base = Uri::from_static("https://registry.example/v2");
        let _ = auth::token_url(&realm, &base, &[("scope", "repository:a/b:pull")]);
    }
}
