//! Whose images may come in: cosign's signatures, made here with openssl, beside images in a real registry.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use corten_proto::cri::{self, image_service_client::ImageServiceClient};
use corten_test::{
    file_registry::FileRegistry,
    image,
    leftovers::Leftovers,
    node::Node,
    registry::{self, ADDRESS, Protection},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::{Code, Status, transport::Channel};

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// A node with a registry, keys `ours` and `theirs`, and a daemon with this policy.
struct Site {
    node: Node,
    images: ImageServiceClient<Channel>,
}

impl Site {
    async fn new(policy: impl FnOnce(&Path) -> String) -> Self {
        let mut node = Node::without_daemon(&[]).await.unwrap();
        let config = node.dir().join("config.toml");
        fs::write(
            &config,
            format!("[image]\npolicy = [{}]\n", policy(node.dir())),
        )
        .unwrap();
        node.add_options(["--config".to_owned(), config.display().to_string()]);
        let dir = node.dir().display().to_string();
        node.shell(&format!(
            "cd {dir}
             for name in ours theirs; do
                 openssl ecparam -name prime256v1 -genkey -noout -out $name.key
             done
             openssl genpkey -algorithm ed25519 -out edwards.key
             openssl genrsa -out rsa.key 2048 2>/dev/null
             for key in *.key; do openssl pkey -in $key -pubout -out ${{key%.key}}.pub; done"
        ))
        .unwrap();
        node.start_daemon().await.unwrap();
        registry::start(&node, Protection::None).await.unwrap();
        node.write_hosts(ADDRESS, &format!("server = 'http://{ADDRESS}'\n"))
            .unwrap();
        let images = node.images().await.unwrap();
        Self { node, images }
    }

    /// Pushes an image of its own; returns the digest of its manifest.
    fn push(&self, name: &str) -> String {
        let layer = image::noise(1, 1).unwrap();
        let config = json!({ "Cmd": [name] });
        let archive = image::archive_of_layers(self.node.dir(), &[&layer], &config, name).unwrap();
        registry::push(&self.node, &archive, name, &[]).unwrap()
    }

    async fn pull(&mut self, name: &str) -> Result<(), Status> {
        self.pull_name(&format!("{ADDRESS}/{name}")).await
    }

    async fn pull_name(&mut self, name: &str) -> Result<(), Status> {
        let request = cri::PullImageRequest {
            image: Some(cri::ImageSpec {
                image: name.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.images.pull_image(request).await.map(drop)
    }

    /// The pull fails as the kubelet wants to hear it, says why, and leaves nothing.
    async fn refused(&mut self, name: &str, reason: &str) {
        let before = Leftovers::count(&self.node).unwrap();
        let error = self.pull(name).await.unwrap_err();
        assert_eq!(error.code(), Code::Unknown, "{error}");
        let text = error.message();
        assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
        assert!(
            text.contains(reason) && text.contains(name),
            "{reason}: {text}"
        );
        Leftovers::settle(&self.node, &before).await.unwrap();
    }

    /// Raw bytes of a signature over `payload`, in base64.
    fn sign(&self, key: &str, payload: &str) -> String {
        let dir = self.node.dir();
        fs::write(dir.join("payload"), payload).unwrap();
        let how = match key {
            "edwards" => "pkeyutl -sign -rawin -inkey edwards.key -in payload".to_owned(),
            key => format!("dgst -sha256 -sign {key}.key payload"),
        };
        let script = format!("cd {} && openssl {how} | base64 -w 0", dir.display());
        self.node.shell(&script).unwrap()
    }

    fn put_blob(&self, repository: &str, bytes: &[u8]) -> Value {
        let dir = self.node.dir();
        fs::write(dir.join("blob"), bytes).unwrap();
        let digest = digest(bytes);
        let url = format!("http://{ADDRESS}/v2/{repository}/blobs/uploads/");
        self.node
            .shell(&format!(
                "at=$(curl -sS -X POST -D - -o /dev/null {url} | tr -d '\\r' | sed -n 's/^Location: //ip')
                 curl -sSf -X PUT -H 'Content-Type: application/octet-stream' \
                     --data-binary @{}/blob \"$at&digest={digest}\"",
                dir.display()
            ))
            .unwrap();
        json!({ "digest": digest, "size": bytes.len() })
    }

    fn put_manifest(&self, repository: &str, tag: &str, kind: &str, manifest: &Value) -> Value {
        let text = manifest.to_string();
        let file = self.node.dir().join("manifest");
        fs::write(&file, &text).unwrap();
        let url = format!("http://{ADDRESS}/v2/{repository}/manifests/{tag}");
        self.node
            .shell(&format!(
                "curl -sSf -X PUT -H 'Content-Type: {kind}' --data-binary @{} {url}",
                file.display()
            ))
            .unwrap();
        json!({ "mediaType": kind, "digest": digest(text.as_bytes()), "size": text.len() })
    }

    /// A signature's manifest for these (payload, signature), by tag.
    fn attach(&self, repository: &str, tag: &str, signatures: &[(String, String)]) -> Value {
        let mut config = self.put_blob(repository, b"{}");
        config["mediaType"] = json!(ARTIFACT);
        let layers: Vec<_> = signatures
            .iter()
            .map(|(payload, signature)| {
                let mut layer = self.put_blob(repository, payload.as_bytes());
                layer["mediaType"] = json!(PAYLOAD);
                layer["annotations"] = json!({ SIGNATURE: signature });
                layer
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let mut descriptor = self.put_manifest(repository, tag, MANIFEST, &manifest);
        descriptor["artifactType"] = json!(ARTIFACT);
        descriptor
    }

    /// As `cosign sign --key` does.
    fn cosign(&self, repository: &str, image: &str, key: &str) {
        let payload = payload(repository, image);
        let signature = self.sign(key, &payload);
        self.attach(repository, &cosign_tag(image), &[(payload, signature)]);
    }
}

fn cosign_tag(image: &str) -> String {
    format!("{}.sig", image.replace(':', "-"))
}

fn payload(repository: &str, image: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": format!("{ADDRESS}/{repository}") },
            "image": { "docker-manifest-digest": image },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

fn signed_by(scope: &str, dir: &Path, keys: &[&str]) -> String {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| format!("\"{}/{key}.pub\"", dir.display()))
        .collect();
    format!(
        "{{ scope = \"{scope}\", require = \"sigstore\", keys = [{}] }}",
        keys.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_key_has_signed_comes_in() {
    let mut site = Site::new(|dir| signed_by("*", dir, &["ours"])).await;
    let signed = site.push("signed:1");
    site.cosign("signed", &signed, "ours");
    site.pull("signed:1").await.unwrap();
    site.pull(&format!("signed@{signed}")).await.unwrap();

    site.push("unsigned:1");
    site.refused("unsigned:1", "it has no signature").await;

    let foreign = site.push("foreign:1");
    site.cosign("foreign", &foreign, "theirs");
    site.refused("foreign:1", "by none of the keys").await;

    // A good signature beside a bad one.
    let both = site.push("both:1");
    let payload = payload("both", &both);
    let signatures = ["theirs", "ours"].map(|key| (payload.clone(), site.sign(key, &payload)));
    site.attach("both", &cosign_tag(&both), &signatures);
    site.pull("both:1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_counts_for_one_image_of_one_repository() {
    let mut site = Site::new(|dir| signed_by("*", dir, &["ours"])).await;
    let (one, other) = (site.push("one:1"), site.push("other:1"));
    let sign = |payload: String| {
        let signature = site.sign("ours", &payload);
        (payload, signature)
    };
    let of_other = sign(payload("one", &other));
    let elsewhere = sign(payload("elsewhere", &one));
    let (good, signature) = sign(payload("one", &one));
    let tampered = (good.replace("null", "{}"), signature.clone());
    let garbled = (good.clone(), "no base64!".to_owned());
    let strange = sign(good.replace("cosign container", "strange"));
    let cases = [
        (of_other, "a signature is for"),
        (elsewhere, "a signature is for repository"),
        (tampered, "by none of the keys"),
        (garbled, "no base64"),
        (strange, "is of type"),
        (sign("[]".to_owned()), "no simple signing payload"),
    ];
    for (signature, reason) in cases {
        site.attach("one", &cosign_tag(&one), &[signature]);
        site.refused("one:1", reason).await;
    }
    site.attach("one", &cosign_tag(&one), &[(good, signature)]);
    site.pull("one:1").await.unwrap();
}

/// Debian's registry keeps no referrers: the tag that stands for them is asked.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_and_an_index_covers_its_manifests() {
    let mut site = Site::new(|dir| signed_by("*", dir, &["ours"])).await;
    let image = site.push("app:1");
    let payload = payload("app", &image);
    let signature = site.sign("ours", &payload);
    let descriptor = site.attach("app", "anything", &[(payload, signature)]);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
    site.refused("app:1", "it has no signature").await;
    site.put_manifest("app", &image.replace(':', "-"), INDEX, &index);
    site.pull("app:1").await.unwrap();

    for signed_is_index in [true, false] {
        let name = if signed_is_index {
            "by-index"
        } else {
            "by-manifest"
        };
        let image = site.push(&format!("{name}:1"));
        let manifest = registry::manifest(&site.node, &format!("{name}:1")).unwrap();
        let entry = json!({
            "mediaType": MANIFEST,
            "digest": image,
            "size": site.node.shell(&format!(
                "curl -sSf -H 'Accept: {MANIFEST}' http://{ADDRESS}/v2/{name}/manifests/1 | wc -c"
            )).unwrap().trim().parse::<u64>().unwrap(),
            "platform": { "os": "linux", "architecture": "amd64" },
        });
        assert!(manifest["layers"].is_array());
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let index = site.put_manifest(name, "1", INDEX, &index);
        site.refused(&format!("{name}:1"), "it has no signature")
            .await;
        let signed = match signed_is_index {
            true => index["digest"].as_str().unwrap(),
            false => &image,
        };
        site.cosign(name, signed, "ours");
        site.pull(&format!("{name}:1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lists_referrers_is_asked_for_them() {
    let mut site = Site::new(|dir| signed_by("*", dir, &["ours"])).await;
    let registry = FileRegistry::start(&site.node).unwrap();
    let layer = image::noise(1, 1).unwrap();
    let digest_of_image = registry.add("1", &layer, &json!({})).unwrap();
    let name = FileRegistry::reference(":1");
    let (host, repository) = name.trim_end_matches(":1").split_once('/').unwrap();
    let payload = payload(repository, &digest_of_image).replace(ADDRESS, host);
    let signature = site.sign("ours", &payload);
    let store = |bytes: &[u8]| {
        fs::write(registry.blob(&digest(bytes)), bytes).unwrap();
        json!({ "digest": digest(bytes), "size": bytes.len() })
    };
    let mut layer = store(payload.as_bytes());
    layer["mediaType"] = json!(PAYLOAD);
    layer["annotations"] = json!({ SIGNATURE: signature });
    let mut config = store(b"{}");
    config["mediaType"] = json!(ARTIFACT);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
    });
    let manifest = manifest.to_string();
    fs::write(registry.manifest(&digest(manifest.as_bytes())), &manifest).unwrap();
    let entry = |kind: &str| {
        json!({
            "mediaType": MANIFEST, "artifactType": kind,
            "digest": digest(manifest.as_bytes()), "size": manifest.len(),
        })
    };
    let list = |kind: &str| {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(kind)] });
        let file = registry.referrers(&digest_of_image);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, index.to_string()).unwrap();
    };
    list("application/spdx+json");
    let error = site.pull_name(&name).await.unwrap_err();
    assert!(error.message().contains("it has no signature"), "{error}");
    list(ARTIFACT);
    site.pull_name(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_verifies() {
    let keys = ["ours", "edwards", "rsa"];
    let mut site = Site::new(|dir| signed_by("*", dir, &keys)).await;
    for key in keys {
        let image = site.push(&format!("{key}:1"));
        site.cosign(key, &image, key);
        site.pull(&format!("{key}:1")).await.unwrap();
    }
    // A key is read anew for each pull.
    let path = site.node.dir().join("ours.pub");
    fs::write(&path, "no key").unwrap();
    let error = site.pull("rsa:1").await.unwrap_err();
    assert!(error.message().contains("want PEM"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = site.pull("rsa:1").await.unwrap_err();
    assert!(error.message().contains("ours.pub"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_scope_decides() {
    let mut site = Site::new(|dir| {
        let signed = signed_by(&format!("{ADDRESS}/team"), dir, &["ours"]);
        format!(
            "{{ scope = \"*\", require = \"reject\" }},
             {{ scope = \"{ADDRESS}\", require = \"accept\" }}, {signed},
             {{ scope = \"{ADDRESS}/team/bad\", require = \"reject\" }}"
        )
    })
    .await;
    for name in ["free:1", "team/app:1", "team/bad:1"] {
        site.push(name);
    }
    site.pull("free:1").await.unwrap();
    site.refused("team/app:1", "/team\" wants a signature")
        .await;
    site.refused("team/bad:1", "/team/bad\" rejects it").await;
    let archive = image::busybox_archive(site.node.dir()).unwrap();
    let error = site
        .node
        .corten_image(&["load", archive.to_str().unwrap()])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("SignatureValidationFailed") && error.contains("\"*\" rejects"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_is_told_at_the_start() {
    let node = Node::without_daemon(&[]).await.unwrap();
    let file = node.dir().join("config.toml");
    for (rule, reason) in [
        (
            "scope = \"a.example\", require = \"sigstore\"",
            "want keys with sigstore",
        ),
        (
            "scope = \"a.example\", require = \"accept\", keys = [\"/k\"]",
            "only there",
        ),
        (
            "scope = \"a.example\", require = \"sigstore\", keys = [\"k\"]",
            "absolute paths",
        ),
        (
            "scope = \"a.example/x:1\", require = \"reject\"",
            "without a tag",
        ),
        ("scope = \"\", require = \"reject\"", "want * or a registry"),
        ("scope = \"*\", require = \"sign\"", "sigstore"),
    ] {
        fs::write(&file, format!("[image]\npolicy = [{{ {rule} }}]\n")).unwrap();
        let error = node
            .corten(&["config", "check", file.to_str().unwrap()])
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{rule}: {error}");
    }
}
