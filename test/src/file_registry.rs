//! A registry as plain files, which a test may break as it likes; busybox serves them inside of the node.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{image::write_image, node::Node};

const ADDRESS: &str = "127.0.0.1:5005";

/// The files of the one repository `test`.
#[derive(Debug)]
pub struct FileRegistry {
    repository: PathBuf,
}

impl FileRegistry {
    pub fn start(node: &Node) -> Result<Self> {
        let root = node.dir().join("www");
        let repository = root.join("v2/test");
        for name in ["manifests", "blobs"] {
            fs::create_dir_all(repository.join(name))?;
        }
        let root = root.display();
        node.shell(&format!("busybox httpd -p {ADDRESS} -h {root}"))?;
        Ok(Self { repository })
    }

    /// What is served, for another server.
    pub fn root(&self) -> PathBuf {
        self.repository
            .ancestors()
            .nth(2)
            .unwrap_or(&self.repository)
            .to_owned()
    }

    /// The name under which the daemon finds a tag, or a digest with its `@`.
    pub fn reference(suffix: &str) -> String {
        format!("{ADDRESS}/test{suffix}")
    }

    /// Adds an image of one layer, by tag and digest. Returns the digest of its manifest.
    pub fn add(&self, tag: &str, layer: &[u8], config: &Value) -> Result<String> {
        self.add_layers(tag, &[layer], config)
    }

    /// The same with several layers, bottom first.
    pub fn add_layers(&self, tag: &str, layers: &[&[u8]], config: &Value) -> Result<String> {
        let blobs = self.repository.join("blobs");
        let descriptor = write_image(&blobs, layers, config)?;
        for entry in fs::read_dir(&blobs)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with("sha256:") {
                fs::rename(&path, blobs.join(format!("sha256:{name}")))?;
            }
        }
        let digest = descriptor["digest"].as_str().context("no digest")?;
        for name in [tag, digest] {
            fs::copy(self.blob(digest), self.manifest(name))?;
        }
        Ok(digest.to_owned())
    }

    /// The file of a manifest, by tag or digest.
    pub fn manifest(&self, name: &str) -> PathBuf {
        self.repository.join("manifests").join(name)
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.repository.join("blobs").join(digest)
    }

    /// The file that lists what refers to a manifest.
    pub fn referrers(&self, digest: &str) -> PathBuf {
        self.repository.join("referrers").join(digest)
    }

    /// The digest of the one layer of an image.
    pub fn layer(&self, tag: &str) -> Result<String> {
        layer(&self.manifest(tag))
    }
}

fn layer(manifest: &Path) -> Result<String> {
    let manifest: Value = serde_json::from_slice(&fs::read(manifest)?)?;
    let digest = manifest["layers"][0]["digest"].as_str();
    Ok(digest.context("no layer")?.to_owned())
}
