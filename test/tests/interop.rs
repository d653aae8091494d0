//! What skopeo, umoci and buildah write is unpacked as umoci unpacks it, in every format, on Debian's packages.
//!
//! `CORTEN_INTEROP_STORAGE`, a registry's storage by `hack/bench-image`, adds an image of 2.7 GiB.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use corten_proto::cri;
use corten_test::{
    node::Node,
    registry::{self, ADDRESS, PASSWORD, Protection, USER},
    tree::{self, Manifest},
    wait::until,
};
use serde_json::{Value, json};

/// By `hack/interop-images`: tags of its layout.
const IMAGES: [&str; 6] = ["system", "names", "many", "python", "perl", "server"];
/// overlayfs' own marks, and labels that the host gives.
const IGNORED: [&str; 2] = ["trusted.overlay.", "security.selinux"];

/// A node with a registry and the images that umoci and buildah have made.
struct Site {
    node: Node,
    made: PathBuf,
    protection: Protection,
}

impl Site {
    async fn new(protection: Protection) -> Self {
        let script = corten_test::repository().join("hack/interop-images");
        let output = Command::new(script).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hack/interop-images: {error}");
        let made = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let node = Node::start().await.unwrap();
        registry::start(&node, protection).await.unwrap();
        let hosts = registry::hosts(&node, protection, ADDRESS);
        node.write_hosts(ADDRESS, &hosts).unwrap();
        Self {
            node,
            made,
            protection,
        }
    }

    /// Copies with `options` of `skopeo copy`.
    fn copy(&self, from: &str, to: &str, options: &str) {
        self.node
            .shell(&format!(
                "skopeo --insecure-policy copy --quiet --src-tls-verify=false --dest-tls-verify=false \
                 --dest-creds {USER}:{PASSWORD} {options} '{from}' '{to}'"
            ))
            .unwrap();
    }

    /// Puts a made image into the registry, in a format. Returns its name there.
    fn push(&self, image: &str, format: &str) -> String {
        let name = format!("{ADDRESS}/interop/{image}:{format}");
        let (from, to) = (self.layout(image), format!("docker://{name}"));
        let aside = self.node.dir().join(format!("{image}-{format}"));
        let dir = format!("dir:{}", aside.display());
        match format {
            "gzip" => self.copy(&from, &to, ""),
            "zstd" => self.copy(&from, &to, "--dest-compress-format zstd"),
            "chunked" => self.copy(&from, &to, "--dest-compress-format zstd:chunked"),
            "docker" => self.copy(&from, &to, "--format v2s2"),
            // As buildah has written it.
            "buildah" => self.copy(
                &format!("dir:{}/docker", self.made.display()),
                &to,
                "--preserve-digests",
            ),
            _ => {
                self.copy(&from, &dir, "--dest-decompress");
                self.copy(&dir, &to, "--preserve-digests");
            }
        }
        name
    }

    fn layout(&self, image: &str) -> String {
        format!("oci:{}/layout:{image}", self.made.display())
    }

    async fn pull(&self, name: &str) {
        let auth = (self.protection != Protection::None).then(|| cri::AuthConfig {
            username: USER.into(),
            password: PASSWORD.into(),
            ..Default::default()
        });
        let request = cri::PullImageRequest {
            image: Some(cri::ImageSpec {
                image: name.into(),
                ..Default::default()
            }),
            auth,
            ..Default::default()
        };
        let mut images = self.node.images().await.unwrap();
        images
            .pull_image(request)
            .await
            .unwrap_or_else(|status| panic!("{name}: {status}"));
    }

    /// What a container of the image would see.
    fn unpacked(&self, name: &str) -> Manifest {
        let shown = self
            .node
            .corten_image(&["inspect", "--json", name])
            .unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let layers = shown["layers"].as_array().unwrap();
        let names: Vec<&str> = layers
            .iter()
            .rev()
            .map(|layer| layer["name"].as_str().unwrap())
            .collect();
        let root = self.node.root();
        self.node
            .shell(&format!(
                "mkdir -p /run/seen /run/empty && cd {}/layers \
                 && mount -t overlay overlay -o ro,lowerdir={}:/run/empty /run/seen",
                root.display(),
                names.join(":")
            ))
            .unwrap();
        let seen = format!("/proc/{}/root/run/seen", self.node.daemon_pid().unwrap());
        let found = tree::manifest(Path::new(&seen), &IGNORED).unwrap();
        self.node.shell("umount /run/seen").unwrap();
        found
    }

    /// What umoci makes of a tag of a layout.
    fn expected(&self, layout: &str, image: &str) -> Manifest {
        let bundle = self.node.dir().join("bundle");
        let shown = bundle.display();
        self.node
            .shell(&format!(
                "rm -rf '{shown}' && umoci unpack --image '{layout}:{image}' '{shown}'"
            ))
            .unwrap();
        let expected = tree::manifest(&bundle.join("rootfs"), &IGNORED).unwrap();
        self.node.shell(&format!("rm -rf '{shown}'")).unwrap();
        expected
    }

    /// Compares and removes it, so that the next format is unpacked anew.
    async fn check(&self, name: &str, expected: &Manifest) {
        let differences = tree::differences(&self.unpacked(name), expected, 20);
        assert!(differences.is_empty(), "{name}: {differences:#?}");
        self.node.corten_image(&["verify"]).unwrap();
        self.node.corten_image(&["rm", name]).unwrap();
        let layers = self.node.root().join("layers");
        until(|| async {
            let left = layers.read_dir()?.count();
            anyhow::ensure!(left == 0, "{left} layers are left");
            Ok(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_image_in_every_format_is_unpacked_as_umoci_does() {
    let site = Site::new(Protection::None).await;
    let layout = format!("{}/layout", site.made.display());
    for image in IMAGES {
        let expected = site.expected(&layout, image);
        assert!(expected.len() > 100, "{image} is nearly empty");
        for format in ["gzip", "zstd", "chunked", "docker", "plain"] {
            let name = site.push(image, format);
            site.pull(&name).await;
            site.check(&name, &expected).await;
        }
        let archive = site.node.dir().join(format!("{image}.tar"));
        let name = format!("interop.example/{image}:archive");
        site.copy(
            &site.layout(image),
            &format!("docker-archive:{}:{name}", archive.display()),
            "",
        );
        site.node
            .corten_image(&["load", &archive.display().to_string()])
            .unwrap();
        site.check(&name, &expected).await;
        if image == "server" {
            let name = site.push(image, "buildah");
            site.pull(&name).await;
            site.check(&name, &expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tokens_and_a_ca_of_its_own() {
    let site = Site::new(Protection::Token).await;
    let layout = format!("{}/layout", site.made.display());
    for image in ["system", "many"] {
        let name = site.push(image, "gzip");
        site.pull(&name).await;
        site.check(&name, &site.expected(&layout, image)).await;
    }
}

/// The platform's image is found below indexes, among other platforms and variants.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_within_indexes() {
    let site = Site::new(Protection::None).await;
    let layout = format!("{}/layout", site.made.display());
    let descriptor = |image: &str, platform: Value| {
        site.push(image, "gzip");
        let raw = site
            .node
            .shell(&format!(
                "skopeo inspect --raw --tls-verify=false docker://{ADDRESS}/interop/{image}:gzip"
            ))
            .unwrap();
        // All in one repository, as an index needs it.
        site.copy(
            &format!("docker://{ADDRESS}/interop/{image}:gzip"),
            &format!("docker://{ADDRESS}/interop/index:{image}"),
            "--preserve-digests",
        );
        described(
            "application/vnd.oci.image.manifest.v1+json",
            raw.trim_end_matches('\n'),
            Some(platform),
        )
    };
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let inner = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [
            descriptor("perl", json!({ "os": "linux", "architecture": "s390x" })),
            descriptor("python", json!({ "os": "linux", "architecture": arch })),
        ],
    })
    .to_string();
    put(&site.node, "inner", &inner);
    let outer = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [
            descriptor("server", json!({ "os": "linux", "architecture": "arm", "variant": "v6" })),
            described(INDEX, &inner, None),
        ],
    })
    .to_string();
    put(&site.node, "outer", &outer);
    let name = format!("{ADDRESS}/interop/index:outer");
    site.pull(&name).await;
    site.check(&name, &site.expected(&layout, "python")).await;
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn described(kind: &str, content: &str, platform: Option<Value>) -> Value {
    use sha2::{Digest, Sha256};
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut descriptor = json!({
        "mediaType": kind, "digest": format!("sha256:{hex}"), "size": content.len(),
    });
    if let Some(platform) = platform {
        descriptor["platform"] = platform;
    }
    descriptor
}

fn put(node: &Node, tag: &str, index: &str) {
    let file = node.dir().join(tag);
    std::fs::write(&file, index).unwrap();
    node.shell(&format!(
        "curl --silent --show-error --fail -X PUT -H 'Content-Type: {INDEX}' --data-binary @{} \
         http://{ADDRESS}/v2/interop/index/manifests/{tag}",
        file.display()
    ))
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_very_large_image() {
    let Some(storage) = env::var_os("CORTEN_INTEROP_STORAGE") else {
        println!("left out: CORTEN_INTEROP_STORAGE is not set");
        return;
    };
    let site = Site::new(Protection::None).await;
    let (registry, layout) = (
        site.node.dir().join("large-registry"),
        site.node.dir().join("large"),
    );
    let start = corten_test::repository().join("hack/registry");
    site.node
        .shell(&format!(
            "'{}' start '{}' '{}' 127.0.0.1:5001",
            start.display(),
            registry.display(),
            PathBuf::from(storage).display()
        ))
        .unwrap();
    let name = "127.0.0.1:5001/bench/large:1";
    site.copy(
        &format!("docker://{name}"),
        &format!("oci:{}:large", layout.display()),
        "",
    );
    let expected = site.expected(&layout.display().to_string(), "large");
    site.pull(name).await;
    site.check(name, &expected).await;
}
