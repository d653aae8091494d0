//! An image as its users see it, and the part of its config that containers take over.
//!
//! Images in the wild carry `null` for every list and values other than `{}` in the sets.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::Error;
use crate::json::{self, Object};
use crate::platform;
use crate::reference::{Reference, Version};

/// OCI image-spec v1.1 sets no limit; real configs stay below 100 KiB.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Overlay stacks at most 500 directories (`OVL_MAX_STACK`, fs/overlayfs/params.h), one of them the daemon's own.
const MAX_LAYERS: usize = 499;

/// One image of this node. All names that lead to it are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Shape: `sha256:` and 64 hex digits; the digest of the config.
    pub id: String,
    /// Shape: `docker.io/library/busybox:1.36`.
    pub repo_tags: Vec<String>,
    /// Shape: `docker.io/library/busybox@sha256:...`; the digest that a registry serves.
    pub repo_digests: Vec<String>,
    /// Unit: bytes on this disk (layers, config, manifest); above 0.
    pub size: u64,
    pub config: ImageConfig,
    /// Names for [`crate::ImageService::hold_layers`], bottom first.
    pub layers: Vec<String>,
    /// Not to be removed by the kubelet's garbage collection.
    pub pinned: bool,
}

impl Image {
    /// The name that people know the image by: the first in `wanted` that leads to it, as it is there, else its first tag,
    /// else its first digest reference, else its id.
    pub fn name(&self, wanted: &[&str]) -> String {
        let mut wanted = wanted.iter().filter(|text| self.is_named(text));
        let mut own = self.repo_tags.iter().chain(&self.repo_digests);
        let name = wanted.next().copied();
        let name = name.or_else(|| own.next().map(String::as_str));
        name.unwrap_or(&self.id).to_owned()
    }

    fn is_named(&self, text: &str) -> bool {
        let Ok(reference) = Reference::parse(text) else {
            return false;
        };
        match reference.version() {
            Version::Tag(_) => self.repo_tags.contains(&reference.to_string()),
            Version::Digest(digest) => self.repo_digests.contains(&reference.repo_digest(digest)),
        }
    }
}

/// How to run the image, if the pod does not say otherwise.
///
/// Rule: OCI image-spec v1.1, config.md, "Properties", `config`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Shape: `NAME=value`.
    pub env: Vec<String>,
    /// Shape: `user`, `uid`, `user:group`, ...; empty for root.
    pub user: String,
    pub working_dir: String,
    /// Shape: `SIGTERM`, `9`; empty if not set.
    pub stop_signal: String,
    /// Paths in the container.
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Shape: `80/tcp`.
    pub exposed_ports: Vec<String>,
}

/// A whole config document, checked.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) architecture: String,
}

/// # Errors
/// Content, if it is no image config; Unsupported, if it is for another system than Linux.
pub(crate) fn parse(id: &Digest, bytes: &[u8]) -> Result<Document, Error> {
    let subject = || format!("image config {id}");
    let broken = |fault: json::Fault| Error::content(subject(), fault);
    let value = json::parse(bytes).map_err(broken)?;
    let top = value.object().map_err(broken)?;
    let os = top.text("os").map_err(broken)?;
    if !platform::is_linux(&os) {
        let reason = format!("the image is for {os:?}, not for linux");
        return Err(Error::unsupported(subject(), reason));
    }
    if !top.has("rootfs") {
        return Err(broken("it has no rootfs".to_owned()));
    }
    let diff_ids = top.object("rootfs", |rootfs| rootfs.texts("diff_ids"));
    let diff_ids = diff_ids.map_err(broken)?;
    if diff_ids.len() > MAX_LAYERS {
        let reason = format!(
            "{} layers, the kernel's overlay takes {MAX_LAYERS}",
            diff_ids.len()
        );
        return Err(Error::unsupported(subject(), reason));
    }
    let diff_ids = diff_ids.into_iter().map(Digest::try_from);
    Ok(Document {
        config: top.object("config", ImageConfig::read).map_err(broken)?,
        diff_ids: diff_ids.collect::<Result<_, _>>().map_err(broken)?,
        architecture: top.text("architecture").map_err(broken)?,
    })
}

impl ImageConfig {
    fn read(config: &Object<'_>) -> Result<Self, json::Fault> {
        Ok(Self {
            entrypoint: config.texts("Entrypoint")?,
            cmd: config.texts("Cmd")?,
            env: config.texts("Env")?,
            user: config.text("User")?,
            working_dir: config.text("WorkingDir")?,
            stop_signal: config.text("StopSignal")?,
            volumes: config.set("Volumes")?,
            labels: config.map("Labels")?,
            exposed_ports: config.set("ExposedPorts")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn read(text: &str) -> Result<Document, Error> {
        parse(&Digest::of(b""), text.as_bytes())
    }

    #[test]
    fn nulls_and_absent_fields_are_empty() {
        let document = read(
            r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},
                "config":{"Entrypoint":null,"Cmd":["sh"],"Volumes":{"/data":{}},"ExposedPorts":null,
                          "Labels":null,"User":"1002","OnBuild":["x"]}}"#,
        )
        .unwrap();
        assert_eq!(document.config.cmd, ["sh"]);
        assert_eq!(document.config.volumes, ["/data"]);
        assert_eq!(document.config.user, "1002");
        assert!(document.config.entrypoint.is_empty());
        assert!(read(r#"{"rootfs":{"diff_ids":[]}}"#).is_ok());
        assert!(read(r#"{"rootfs":{"diff_ids":null},"history":null,"config":null}"#).is_ok());
        let every = r#"{"os":"Linux","rootfs":{"diff_ids":[]},"config":{"Env":null,"Cmd":null,"User":null,
            "WorkingDir":null,"StopSignal":null,"Volumes":null,"Labels":{"a":null}}}"#;
        assert_eq!(read(every).unwrap().config.labels["a"], "");
    }

    #[test]
    fn keys_are_read_as_go_reads_them() {
        let twice =
            r#"{"rootfs":{"diff_ids":[]},"config":{"User":"1","cmd":["a"]},"CONFIG":{"user":"2"}}"#;
        let config = read(twice).unwrap().config;
        assert_eq!(
            (config.user.as_str(), &config.cmd[..]),
            ("2", &["a".to_owned()][..])
        );
    }

    #[test]
    fn what_cannot_run_here_is_refused() {
        let kind = |text: &str| read(text).unwrap_err().kind();
        let windows = r#"{"os":"windows","rootfs":{"diff_ids":[]}}"#;
        assert_eq!(kind(windows), ErrorKind::Unsupported);
        assert_eq!(kind("{}"), ErrorKind::InvalidContent);
        assert_eq!(kind("[1"), ErrorKind::InvalidContent);
        let short = r#"{"rootfs":{"diff_ids":["sha256:12"]}}"#;
        assert_eq!(kind(short), ErrorKind::InvalidContent);
        let many = vec![format!("{:?}", Digest::of(b"x").to_string()); 500].join(",");
        let tall = format!(r#"{{"rootfs":{{"diff_ids":[{many}]}}}}"#);
        assert_eq!(kind(&tall), ErrorKind::Unsupported);
    }
}
