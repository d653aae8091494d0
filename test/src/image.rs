//! Images for tests, as OCI archives: Debian's static busybox with a link for each applet.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::node::Node;

/// The name under which [`load_busybox`] adds its image.
pub const BUSYBOX: &str = "test.example/busybox:1";

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "ls", "id", "sleep", "true", "false", "hostname", "mount", "ps", "env",
    "touch", "mkdir", "rm", "kill", "stat", "pwd", "head", "tail", "wc", "grep", "httpd", "wget",
    "nc", "ip", "ping", "test", "dd", "yes", "seq", "sync", "readlink", "chmod", "nslookup",
    "printf", "tr", "sed", "awk", "mknod", "unshare", "date", "umount", "find", "chown", "sort",
];

/// Adds the busybox image to the node's daemon.
pub async fn load_busybox(node: &Node) -> Result<()> {
    let archive = busybox_archive(node.dir())?;
    node.corten_image(&["load", &archive.display().to_string()])?;
    Ok(())
}

/// Writes an OCI archive with the busybox image into `dir`.
pub fn busybox_archive(dir: &Path) -> Result<PathBuf> {
    archive(dir, &busybox_tree(dir)?, &busybox_config(), BUSYBOX)
}

/// Adds the busybox image after a `change` of its files and its config as `name`.
pub async fn load_changed(
    node: &Node,
    name: &str,
    change: impl FnOnce(&Path, &mut Value) -> Result<()>,
) -> Result<()> {
    let (tree, mut config) = (busybox_tree(node.dir())?, busybox_config());
    change(&tree, &mut config)?;
    let archive = archive(node.dir(), &tree, &config, name)?;
    fs::remove_dir_all(tree)?;
    node.corten_image(&["load", &archive.display().to_string()])?;
    Ok(())
}

/// Writes the busybox image's one layer, a tar, into `dir`.
pub fn busybox_layer(dir: &Path) -> Result<PathBuf> {
    let layer = dir.join("base.tar");
    pack(&busybox_tree(dir)?, &layer)?;
    Ok(layer)
}

fn busybox_config() -> Value {
    json!({ "Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"] })
}

/// The image's root.
fn busybox_tree(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("busybox-tree");
    for name in ["bin", "etc", "tmp", "root", "home/app"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))
        .context("copy busybox: is busybox-static installed?")?;
    for applet in APPLETS {
        let link = tree.join("bin").join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link)?;
        }
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
    )?;
    fs::write(
        tree.join("etc/group"),
        "root:x:0:\napp:x:1001:\nextra:x:2000:app\n",
    )?;
    Ok(tree)
}

/// Packs `tree` as the one layer of an image with this config and name.
pub fn archive(dir: &Path, tree: &Path, config: &Value, name: &str) -> Result<PathBuf> {
    let layer = dir.join("layer.tar");
    pack(tree, &layer)?;
    archive_of_layers(dir, &[&fs::read(layer)?], config, name)
}

fn pack(tree: &Path, layer: &Path) -> Result<()> {
    run(Command::new("tar")
        .arg("-C")
        .arg(tree)
        .args([
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--mtime=@0",
            "--sort=name",
            "-cf",
        ])
        .arg(layer)
        .arg("."))
}

/// A tar of one file, `noise-<number>`, that does not compress, and differs from number to number.
pub fn noise(number: usize, mib: u64) -> Result<Vec<u8>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 + number as u64;
    let mut content = Vec::new();
    while (content.len() as u64) < mib << 20 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        content.extend_from_slice(&seed.to_le_bytes());
    }
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, format!("noise-{number}"), &content[..])?;
    Ok(tar.into_inner()?)
}

/// An OCI archive of busybox with so many layers, each of which adds `/layers/<number>`, from 1 on.
pub fn archive_of_many(dir: &Path, count: usize, name: &str) -> Result<PathBuf> {
    let mut layers = vec![fs::read(busybox_layer(dir)?)?];
    for number in 1..count {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        tar.append_data(&mut header, format!("layers/{number}"), &[][..])?;
        layers.push(tar.into_inner()?);
    }
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    archive_of_layers(dir, &layers, &busybox_config(), name)
}

/// An OCI archive of an image with these tars as its layers, bottom first.
pub fn archive_of_layers(
    dir: &Path,
    layers: &[&[u8]],
    config: &Value,
    name: &str,
) -> Result<PathBuf> {
    let layout = dir.join(format!("layout-{}", name.replace(['/', ':'], "-")));
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut manifest = write_image(&blobs, layers, config)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;

    let packed = layout.with_extension("tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&packed)
        .arg("."))?;
    Ok(packed)
}

/// Writes layers, config and manifest as files named by their digests. Returns the manifest's descriptor.
pub fn write_image(blobs: &Path, layers: &[&[u8]], config: &Value) -> Result<Value> {
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        diff_ids.push(format!("sha256:{}", hex(&Sha256::digest(layer))));
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        descriptors.push(add(blobs, layer, media_type)?);
    }
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let media_type = "application/vnd.oci.image.config.v1+json";
    let config = add(blobs, config.to_string().as_bytes(), media_type)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
    });
    add(blobs, manifest.to_string().as_bytes(), media_type)
}

fn add(blobs: &Path, bytes: &[u8], media_type: &str) -> Result<Value> {
    let digest = hex(&Sha256::digest(bytes));
    fs::File::create(blobs.join(&digest))?.write_all(bytes)?;
    Ok(
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
