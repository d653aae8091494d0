//! Images as documents and blobs, ready for a layout on disk or for a fake registry.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tree::{Pack, Tar, pack};

pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct Image {
    pub(crate) id: String,
    /// Of the manifest.
    pub(crate) digest: String,
    /// Manifest, config and layers by digest.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// By the order of the layers: digest of the packed bytes.
    pub(crate) layers: Vec<String>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image whose command is `name`, so that each name gives another id.
pub(crate) fn image(name: &str, layers: &[(Vec<u8>, Pack)]) -> Image {
    image_with(name, layers, |_| {})
}

/// The same, with its manifest edited before it is digested.
pub(crate) fn image_with(
    name: &str,
    layers: &[(Vec<u8>, Pack)],
    edit: impl FnOnce(&mut Value),
) -> Image {
    image_by(digest, name, layers, edit)
}

/// Image with digests by another algorithm.
pub(crate) fn image_by(
    digest: fn(&[u8]) -> String,
    name: &str,
    layers: &[(Vec<u8>, Pack)],
    edit: impl FnOnce(&mut Value),
) -> Image {
    let mut blobs = BTreeMap::new();
    let mut put = |bytes: Vec<u8>| {
        let key = digest(&bytes);
        let size = bytes.len();
        blobs.insert(key.clone(), bytes);
        (key, size)
    };
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
    let config = json!({
        "os": "linux",
        "architecture": arch(),
        "config": {"Cmd": [name], "Env": ["A=b"], "User": "1002", "Labels": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let (id, config_size) = put(config.to_string().into_bytes());
    let descriptors: Vec<_> = layers
        .iter()
        .map(|(tar, how)| {
            let (digest, size) = put(pack(tar, *how));
            let suffix = match how {
                Pack::Plain => "",
                Pack::Gzip => "+gzip",
                Pack::Zstd => "+zstd",
            };
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            json!({"mediaType": media_type, "digest": digest, "size": size})
        })
        .collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": id,
            "size": config_size,
        },
        "layers": descriptors,
    });
    edit(&mut manifest);
    let (digest, _) = put(manifest.to_string().into_bytes());
    let layers = descriptors
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect();
    Image {
        id,
        digest,
        blobs,
        layers,
    }
}

/// One layer with one file.
pub(crate) fn simple(name: &str) -> Image {
    image(name, &[(file(name), Pack::Gzip)])
}

pub(crate) fn file(name: &str) -> Vec<u8> {
    Tar::new().file("hello", name.as_bytes()).bytes()
}

pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An index over images, with a platform for each.
pub(crate) fn index(entries: &[(&str, usize, Option<Value>)]) -> Vec<u8> {
    let manifests: Vec<_> = entries
        .iter()
        .map(|(digest, size, platform)| {
            let mut entry = json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size});
            if let Some(platform) = platform {
                entry["platform"] = platform.clone();
            }
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests})
        .to_string()
        .into_bytes()
}

impl Image {
    /// The image with its manifest written anew.
    pub(crate) fn with_manifest(mut self, edit: impl FnOnce(String) -> String) -> Self {
        let old = String::from_utf8(self.blobs[&self.digest].clone()).unwrap();
        let new = edit(old.clone());
        assert_ne!(old, new);
        self.digest = digest(new.as_bytes());
        self.blobs.insert(self.digest.clone(), new.into_bytes());
        self
    }

    /// The image with another config.
    pub(crate) fn with_config(mut self, edit: impl FnOnce(String) -> String) -> Self {
        let old = String::from_utf8(self.blobs[&self.id].clone()).unwrap();
        let new = edit(old.clone());
        assert_ne!(old, new);
        self.id = digest(new.as_bytes());
        let (id, size) = (self.id.clone(), new.len());
        self.blobs.insert(id.clone(), new.into_bytes());
        self.with_manifest(|manifest| {
            let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
            manifest["config"]["digest"] = json!(id);
            manifest["config"]["size"] = json!(size);
            manifest.to_string()
        })
    }

    /// An OCI layout; `name` is what the layout calls the image.
    pub(crate) fn write_layout(&self, dir: &Path, name: &str) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for (key, bytes) in &self.blobs {
            let hex = key.strip_prefix("sha256:").unwrap();
            fs::write(dir.join("blobs/sha256").join(hex), bytes).unwrap();
        }
        fs::write(dir.join("index.json"), self.layout_index(name)).unwrap();
    }

    pub(crate) fn layout_index(&self, name: &str) -> Vec<u8> {
        json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST_TYPE,
                "digest": self.digest,
                "size": self.blobs.get(&self.digest).map_or(0, Vec::len),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        })
        .to_string()
        .into_bytes()
    }
}
