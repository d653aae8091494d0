//! Manifests and indexes, in OCI's and in Docker's (schema 2) media types.
//!
//! A document's own shape decides what it is, and its `mediaType` must agree: a document that can be
//! read as two things is refused, since two readers would run two different images from one digest.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::Error;

/// Rule: OCI distribution-spec v1.1, "Pushing Manifests": registries take at least 4 MiB.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
const MAX_LAYERS: usize = 499;

/// What to ask a registry for, most wanted first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// The manifest of one image.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    /// Bottom first, as stored by the registry (mostly compressed).
    pub(crate) layers: Vec<Blob>,
}

/// A blob to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// Unit: bytes.
    pub(crate) size: u64,
}

/// # Errors
/// Content, if the document is broken or ambiguous; Unsupported, if it is sound but no image.
pub(crate) fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, Error> {
    let subject = format!("manifest {digest}");
    let outline: Outline =
        serde_json::from_slice(bytes).map_err(|source| Error::content(&subject, source))?;
    if outline.schema_version == 1 {
        let reason = "Docker's schema 1 is obsolete; push the image again with a current tool";
        return Err(Error::unsupported(&subject, reason));
    }
    let media_type = outline.media_type.as_deref();
    let is_manifest = outline.config.is_some() || outline.layers.is_some();
    match (outline.manifests.is_some(), is_manifest) {
        (true, false) if media_type.is_none_or(is_index_type) => {
            let index: ImageIndex =
                serde_json::from_slice(bytes).map_err(|source| Error::content(&subject, source))?;
            Ok(Document::Index(index.manifests().clone()))
        }
        (false, true) if media_type.is_none_or(is_manifest_type) => {
            let manifest: ImageManifest =
                serde_json::from_slice(bytes).map_err(|source| Error::content(&subject, source))?;
            image(&subject, &manifest).map(Document::Manifest)
        }
        (false, false) => {
            let reason = "it lists neither manifests nor layers, so it is no image";
            Err(Error::content(&subject, reason))
        }
        _ => Err(Error::content(
            &subject,
            "it can be read as a manifest and as an index",
        )),
    }
}

pub(crate) fn blob(subject: &str, descriptor: &Descriptor) -> Result<Blob, Error> {
    let digest = descriptor.digest().as_ref();
    Ok(Blob {
        digest: Digest::parse(digest).ok_or_else(|| {
            Error::unsupported(subject, format!("digest {digest:?} is not sha256"))
        })?,
        size: descriptor.size(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

fn image(subject: &str, manifest: &ImageManifest) -> Result<Manifest, Error> {
    let config_type = manifest.config().media_type().as_ref();
    if !is_config_type(config_type) {
        let kind = manifest
            .artifact_type()
            .as_ref()
            .map_or(config_type, MediaType::as_ref);
        let reason = format!("it is an artifact of type {kind:?}, not an image");
        return Err(Error::unsupported(subject, reason));
    }
    if manifest.layers().len() > MAX_LAYERS {
        let reason = format!("more than {MAX_LAYERS} layers");
        return Err(Error::unsupported(subject, reason));
    }
    let layers = manifest.layers().iter().map(|layer| {
        check_layer_type(subject, layer)?;
        blob(subject, layer)
    });
    Ok(Manifest {
        config: blob(subject, manifest.config())?,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// The compression is not read from the type but from the data, since types in the wild lie.
fn check_layer_type(subject: &str, layer: &Descriptor) -> Result<(), Error> {
    let media_type = layer.media_type().as_ref();
    let reason = if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        "its content lies outside the registry (a foreign layer)"
    } else if media_type.ends_with("+encrypted") {
        "it is encrypted"
    } else if !media_type.contains(".tar") {
        "it is no tar archive"
    } else {
        return Ok(());
    };
    let reason = format!("layer {} ({media_type}): {reason}", layer.digest());
    Err(Error::unsupported(subject, reason))
}

fn is_index_type(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

fn is_manifest_type(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

fn is_config_type(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            // Docker's early plugins and some builders.
            | "application/octet-stream"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn manifest(config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{A}","size":2}},
                "layers":[{{"mediaType":"{layer}","digest":"{A}","size":3}}]}}"#
        )
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        let got = match parse(&Digest::of(b""), text.as_bytes()) {
            Ok(Document::Index(entries)) => format!("index of {}", entries.len()),
            Ok(Document::Manifest(manifest)) => format!("manifest of {}", manifest.layers.len()),
            Err(error) => error.to_string(),
        };
        assert!(got.contains(want), "{got}");
    }

    #[test]
    fn both_families_are_read() {
        check(&manifest(CONFIG, LAYER), "manifest of 1");
        check(
            &manifest(
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            "manifest of 1",
        );
        check(r#"{"schemaVersion":2,"manifests":[]}"#, "index of 0");
        check(
            &manifest(CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
            "manifest of 1",
        );
    }

    #[test]
    fn what_is_no_image_says_so() {
        check("{", "EOF");
        check("{}", "no image");
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1");
        check(
            &manifest("application/vnd.cncf.helm.config.v1+json", LAYER),
            "artifact of type",
        );
        check(
            &manifest(
                CONFIG,
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            ),
            "foreign layer",
        );
        check(
            &manifest(
                CONFIG,
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ),
            "encrypted",
        );
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let both = manifest(CONFIG, LAYER).replacen('{', r#"{"manifests":[],"#, 1);
        check(&both, "as a manifest and as an index");
        let lying = manifest(CONFIG, LAYER).replacen(
            '{',
            r#"{"mediaType":"application/vnd.oci.image.index.v1+json","#,
            1,
        );
        check(&lying, "as a manifest and as an index");
    }
}
