//! Image references: `[registry/]name[:tag][@sha256:...]`, completed as users of containerd and
//! Docker expect: `busybox` means `docker.io/library/busybox:latest`.
//!
//! Rule: OCI distribution-spec v1.1, "Pulling manifests" (names and tags).

use std::fmt;

use crate::digest::Digest;
use crate::error::Error;

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const DEFAULT_REGISTRY: &str = "docker.io";

/// A complete reference: it has a registry, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// A tag beside a digest is dropped: the digest says more.
    ///
    /// # Errors
    /// [`Error::Reference`] with the part that is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        split(text).map_err(|reason| Error::Reference {
            reference: text.chars().take(2 * MAX_NAME).collect(),
            reason,
        })
    }

    /// Shape: `docker.io`, `localhost:5000`.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Shape: `library/busybox`.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// What `Image.repo_tags` lists; `None` for a digest reference.
    pub(crate) fn repo_tag(&self) -> Option<String> {
        matches!(self.version, Version::Tag(_)).then(|| self.to_string())
    }

    /// What `Image.repo_digests` lists.
    pub(crate) fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

fn split(text: &str) -> Result<Reference, &'static str> {
    if Digest::from_hex(text).is_some() || Digest::parse(text).is_some() {
        return Err("is an image id, not a name");
    }
    let (named, digest) = match text.split_once('@') {
        None => (text, None),
        Some((named, digest)) => {
            let digest = Digest::parse(digest)
                .ok_or("the digest is not sha256 and 64 hex digits, or sha512 and 128")?;
            (named, Some(digest))
        }
    };
    // A colon before the last slash belongs to the registry's port.
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag must be 1 to 128 letters, digits, '_', '.', '-'");
    }
    let (registry, repository) = complete(name);
    if !is_registry(&registry) {
        return Err("the registry is not a host name with an optional port");
    }
    if repository.is_empty() || !repository.split('/').all(is_component) {
        return Err(
            "the name must be lower case letters and digits, separated by '.', '_', '-', '/'",
        );
    }
    if registry.len() + repository.len() > MAX_NAME {
        return Err("the name is longer than 255 characters");
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference {
        registry,
        repository,
        version,
    })
}

fn complete(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    // index.docker.io is what old configurations call Docker Hub.
    if registry != DEFAULT_REGISTRY && registry != "index.docker.io" {
        return (registry.to_owned(), repository.to_owned());
    }
    let repository = if repository.contains('/') || repository.is_empty() {
        repository.to_owned()
    } else {
        format!("library/{repository}")
    };
    (DEFAULT_REGISTRY.to_owned(), repository)
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_ok = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let port_ok = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    host_ok && port_ok
}

/// Runs of letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(*first) || !word(*last) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let got = match Reference::parse(text) {
            Ok(reference) => reference.to_string(),
            Err(Error::Reference { reason, .. }) => reason.to_owned(),
            Err(other) => panic!("{other}"),
        };
        assert!(got == want || got.contains(want), "{text}: {got}");
    }

    #[test]
    fn short_names_are_completed() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("library/busybox", "docker.io/library/busybox:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check(
            "index.docker.io/busybox",
            "docker.io/library/busybox:latest",
        );
        check("user/app", "docker.io/user/app:latest");
        check("localhost/app", "localhost/app:latest");
        check("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest");
        check(
            "registry.k8s.io/e2e-test-images/busybox:1.29-2",
            "registry.k8s.io/e2e-test-images/busybox:1.29-2",
        );
        check("[::1]:5000/app:v1", "[::1]:5000/app:v1");
        check("a__b.c-d---e", "docker.io/library/a__b.c-d---e:latest");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::of(b"x");
        check(&format!("q.io/a:v1@{digest}"), &format!("q.io/a@{digest}"));
        check(
            &format!("a@{digest}"),
            &format!("docker.io/library/a@{digest}"),
        );
    }

    #[test]
    fn what_is_no_reference_says_why() {
        check("", "the name must be");
        check("UPPER", "the name must be");
        check("a//b", "the name must be");
        check("a/../b", "the name must be");
        check("a___b", "the name must be");
        check("a:", "the tag must be");
        check("a:-x", "the tag must be");
        check(&format!("a:{}", "t".repeat(129)), "the tag must be");
        check("a@sha256:12", "the digest is not");
        check("a@md5:12", "the digest is not");
        check("bad_host.io:5000/a", "the registry is not");
        check("h.io:99999/a", "the registry is not");
        check("h.io:/a b", "the registry is not");
        check(&"a".repeat(256), "longer than 255");
        check(&"a".repeat(64), "is an image id");
        check("a b", "the name must be");
        check("a\n", "the name must be");
    }
}
