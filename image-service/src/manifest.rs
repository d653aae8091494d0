//! Manifests and indexes, in OCI's and in Docker's (schema 2) media types.
//!
//! A document's own shape decides what it is, and its `mediaType` must agree: a document that can be
//! read as two things is refused, since two readers would run two different images from one digest.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::Error;
use crate::json::{self, Object, Value};

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

/// Reference of a manifest or an index to another document, or to a blob.
///
/// Rule: OCI image-spec v1.1, descriptor.md.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    /// Unit: bytes; 0 where it is not said.
    pub(crate) size: u64,
    pub(crate) urls: Vec<String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Option<Platform>,
}

/// Platform as it is written, in whatever spelling.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: String,
}

impl Descriptor {
    fn read(object: &Object<'_>) -> Result<Self, json::Fault> {
        Ok(Self {
            media_type: object.text("mediaType")?,
            digest: object.text("digest")?,
            size: object.number("size")?.unwrap_or(0),
            urls: object.texts("urls")?,
            annotations: object.map("annotations")?,
            platform: object.optional("platform", |platform| {
                Ok(Platform {
                    os: platform.text("os")?,
                    architecture: platform.text("architecture")?,
                    variant: platform.text("variant")?,
                })
            })?,
        })
    }
}

/// The manifest of one image.
#[derive(Debug)]
pub(crate) struct Manifest {
    subject: String,
    pub(crate) config: Blob,
    /// Bottom first, as stored by the registry (mostly compressed).
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    media_type: String,
    blob: Blob,
}

impl Manifest {
    /// The blobs of the image's `count` layers, bottom first. Entries of other types, as attestations are, lie in the same
    /// list; they are no part of the file system, unless the config counts them.
    ///
    /// Rule: OCI image-spec v1.1, manifest.md, `layers`: a type that is unknown is ignored.
    ///
    /// # Errors
    /// Content, if manifest and config disagree.
    pub(crate) fn layers(&self, count: usize) -> Result<Vec<Blob>, Error> {
        let known: Vec<_> = self
            .layers
            .iter()
            .filter(|layer| is_layer_type(&layer.media_type))
            .collect();
        let (known, all) = (known, self.layers.iter().collect::<Vec<_>>());
        let Some(layers) = [&known, &all].into_iter().find(|list| list.len() == count) else {
            let others: Vec<_> = all
                .iter()
                .filter(|layer| !is_layer_type(&layer.media_type))
                .map(|layer| layer.media_type.as_str())
                .collect();
            let mut reason = format!(
                "the manifest lists {} layers, the config {count}",
                known.len()
            );
            if !others.is_empty() {
                reason += &format!("; {others:?} are no layers");
            }
            return Err(Error::content(&self.subject, reason));
        };
        Ok(layers.iter().map(|layer| layer.blob.clone()).collect())
    }
}

/// A blob to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// Unit: bytes.
    pub(crate) size: u64,
    /// Other places where it lies.
    pub(crate) urls: Vec<String>,
}

/// # Errors
/// Content, if the document is broken or ambiguous; Unsupported, if it is sound but no image.
pub(crate) fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, Error> {
    let subject = format!("manifest {digest}");
    let broken = |fault: json::Fault| Error::content(&subject, fault);
    let value = json::parse(bytes).map_err(broken)?;
    let top = value.object().map_err(broken)?;
    if top.number("schemaVersion").map_err(broken)? == Some(1) {
        let reason = "Docker's schema 1 is obsolete; push the image again with a current tool";
        return Err(Error::unsupported(&subject, reason));
    }
    let media_type = top.text("mediaType").map_err(broken)?;
    let is_manifest = top.has("config") || top.has("layers");
    // An index without entries may write `null` for them.
    let is_index = top.has("manifests") || (!is_manifest && is_index_type(&media_type));
    match (is_index, is_manifest) {
        (true, false) if media_type.is_empty() || is_index_type(&media_type) => {
            let entries = top.list("manifests", descriptor).map_err(broken)?;
            Ok(Document::Index(entries))
        }
        (false, true) if media_type.is_empty() || is_manifest_type(&media_type) => {
            image(subject.clone(), &top).map(Document::Manifest)
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

fn descriptor(value: &Value) -> Result<Descriptor, json::Fault> {
    Descriptor::read(&value.object()?)
}

pub(crate) fn blob(subject: &str, descriptor: &Descriptor) -> Result<Blob, Error> {
    let digest = &descriptor.digest;
    Ok(Blob {
        digest: Digest::parse(digest).ok_or_else(|| {
            Error::unsupported(
                subject,
                format!("digest {digest:?} is none by sha256 or sha512"),
            )
        })?,
        size: descriptor.size,
        urls: descriptor.urls.clone(),
    })
}

fn image(subject: String, top: &Object<'_>) -> Result<Manifest, Error> {
    let broken = |fault: json::Fault| Error::content(&subject, fault);
    let config = top.object("config", Descriptor::read).map_err(broken)?;
    let config_type = &config.media_type;
    if !is_config_type(config_type) {
        let kind = match top.text("artifactType").map_err(broken)? {
            kind if kind.is_empty() => config_type.clone(),
            kind => kind,
        };
        let reason = format!("it is an artifact of type {kind:?}, not an image");
        return Err(Error::unsupported(&subject, reason));
    }
    let layers = top.list("layers", descriptor).map_err(broken)?;
    if layers.len() > MAX_LAYERS {
        let reason = format!("more than {MAX_LAYERS} layers");
        return Err(Error::unsupported(&subject, reason));
    }
    let layers = layers.into_iter().map(|layer| {
        if layer.media_type.ends_with("+encrypted") {
            let reason = format!(
                "layer {} ({}): it is encrypted",
                layer.digest, layer.media_type
            );
            return Err(Error::unsupported(&subject, reason));
        }
        Ok(Layer {
            blob: blob(&subject, &layer)?,
            media_type: layer.media_type,
        })
    });
    Ok(Manifest {
        config: blob(&subject, &config)?,
        layers: layers.collect::<Result<_, _>>()?,
        subject,
    })
}

/// The compression is not read from the type but from the data, since types in the wild lie. Layers that may not be
/// distributed are layers: a registry that has them serves them as it does others.
fn is_layer_type(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
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
            Ok(Document::Manifest(manifest)) => match manifest.layers(1) {
                Ok(layers) => format!("manifest of {}", layers.len()),
                Err(error) => error.to_string(),
            },
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
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
            "no image",
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
    fn layers_that_registries_need_not_have_are_layers() {
        for layer in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            check(&manifest(CONFIG, layer), "manifest of 1");
        }
    }

    #[test]
    fn other_entries_count_only_where_the_config_counts_them() {
        let attested = |count: usize| {
            let entry = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{A}","size":3}}"#);
            let layers = [entry("application/vnd.in-toto+json"), entry(LAYER)].join(",");
            let text = manifest(CONFIG, LAYER).replace(&entry(LAYER), &layers);
            match parse(&Digest::of(b""), text.as_bytes()).unwrap() {
                Document::Manifest(manifest) => manifest.layers(count).map_err(|e| e.to_string()),
                Document::Index(_) => panic!("an index"),
            }
        };
        assert_eq!(attested(1).unwrap().len(), 1);
        assert_eq!(attested(2).unwrap().len(), 2);
        let text = attested(3).unwrap_err();
        assert!(
            text.contains("lists 1 layers, the config 3") && text.contains("in-toto"),
            "{text}"
        );
        check(
            &manifest(CONFIG, "application/octet-stream"),
            "manifest of 1",
        );
    }

    #[test]
    fn lists_may_be_null_and_keys_come_twice() {
        let index = r#"{"schemaVersion":2,"manifests":null,"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
        check(index, "index of 0");
        let nulls = r#""annotations":null,"urls":null,"platform":null,"size":3}]"#;
        check(
            &manifest(CONFIG, LAYER).replace("\"size\":3}]", nulls),
            "manifest of 1",
        );
        let none = manifest(CONFIG, LAYER);
        let start = none.find("[{").unwrap();
        check(&format!("{}null}}", &none[..start]), "lists 0 layers");
        let twice = none.replacen(r#""layers""#, r#""layers":[],"Layers""#, 1);
        check(&twice, "manifest of 1");
        check(
            &none.replace(r#""size":3"#, r#""size":-3"#),
            "layers[0].size: -3 is out of range",
        );
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let both = manifest(CONFIG, LAYER).replacen('{', r#"{"manifests":[],"#, 1);
        check(&both, "as a manifest and as an index");
        let capitals = both.replace("manifests", "Manifests");
        check(&capitals, "as a manifest and as an index");
        let lying = manifest(CONFIG, LAYER).replacen(
            '{',
            r#"{"mediaType":"application/vnd.oci.image.index.v1+json","#,
            1,
        );
        check(&lying, "as a manifest and as an index");
    }
}
