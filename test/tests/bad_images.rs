//! Images that are absent, broken or hostile: told by name, and no blob, file or mount is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::PathBuf};

use corten_proto::cri;
use corten_test::{file_registry::FileRegistry, image, leftovers::Leftovers, node::Node};
use serde_json::{Value, json};
use tar::EntryType;
use tonic::{Code, Status};

async fn pull(node: &Node, reference: &str) -> Result<String, Status> {
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: reference.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut images = node.images().await.unwrap();
    Ok(images.pull_image(request).await?.into_inner().image_ref)
}

async fn refuse(node: &Node, reference: &str, code: Code, words: &[&str]) {
    let status = pull(node, reference).await.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    let text = status.message();
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

async fn refuse_test(node: &Node, suffix: &str, words: &[&str]) {
    refuse(
        node,
        &FileRegistry::reference(suffix),
        Code::FailedPrecondition,
        words,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let node = Node::start().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    FileRegistry::start(&node).unwrap();
    let absent = FileRegistry::reference(":absent");
    refuse(&node, &absent, Code::NotFound, &[&absent]).await;
    // The kubelet looks for this word in errors of this code.
    let words = ["RegistryUnavailable: ", "127.0.0.1:1", "refused"];
    refuse(&node, "127.0.0.1:1/test:down", Code::Unknown, &words).await;
    for bad in [
        "UPPER/case",
        "a//b",
        "test@sha256:short",
        "-dash/x",
        "x:tag:tag",
    ] {
        refuse(&node, bad, Code::InvalidArgument, &[bad]).await;
    }
    refuse(&node, "", Code::InvalidArgument, &["image.image"]).await;
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_refused() {
    let node = Node::start().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    let layer = tar(|tar| file(tar, "fine", b"fine"));
    let digest = registry.add("good", &layer, &json!({})).unwrap();
    let manifest = fs::read_to_string(registry.manifest("good")).unwrap();
    fs::write(registry.manifest("half"), &manifest[..manifest.len() / 2]).unwrap();
    refuse_test(&node, ":half", &["manifest"]).await;
    fs::write(registry.manifest("other"), r#"{"schemaVersion": 1}"#).unwrap();
    refuse_test(&node, ":other", &["manifest"]).await;
    let huge = manifest.replacen('{', &format!("{{{}", " ".repeat(9 << 20)), 1);
    fs::write(registry.manifest("huge"), huge).unwrap();
    refuse_test(&node, ":huge", &["manifest"]).await;

    // Another manifest than its digest says.
    let manifest_file = registry.manifest(&digest);
    fs::write(&manifest_file, format!("{manifest} ")).unwrap();
    refuse_test(&node, &format!("@{digest}"), &[&digest]).await;

    let layer_digest = registry.layer("good").unwrap();
    let parsed: Value = serde_json::from_str(&manifest).unwrap();
    let config_digest = parsed["config"]["digest"].as_str().unwrap();
    for blob in [&layer_digest, config_digest] {
        let content = fs::read(registry.blob(blob)).unwrap();
        let mut changed = content.clone();
        changed[0] ^= 1;
        for wrong in [
            changed,
            content[..content.len() - 1].to_vec(),
            [&content[..], b"x"].concat(),
        ] {
            fs::write(registry.blob(blob), wrong).unwrap();
            let reference = FileRegistry::reference(":good");
            let status = pull(&node, &reference).await.unwrap_err();
            assert!(status.message().contains(blob), "{status}");
        }
        fs::write(registry.blob(blob), content).unwrap();
    }
    Leftovers::settle(&node, &before).await.unwrap();
    // What was broken is good now.
    pull(&node, &FileRegistry::reference(":good"))
        .await
        .unwrap();
}

fn tar(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    tar.into_inner().unwrap()
}

/// The names as they are, also those that the crate would not write.
fn header(kind: EntryType, name: &str, target: &str, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size.try_into().unwrap());
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let header = header(EntryType::Regular, name, "", content.len());
    tar.append(&header, content).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
    tar.append(&header(kind, name, target, 0), &[][..]).unwrap();
}

struct Hostile {
    name: &'static str,
    layer: Vec<u8>,
    /// Why it is refused.
    reason: &'static str,
}

/// A directory of the host with a file, and layers that are made to reach it.
fn hostile_layers(node: &Node) -> (PathBuf, Vec<Hostile>) {
    let outside = node.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let path = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(12), path.trim_start_matches('/'));
    let (made, secret) = (format!("{up}/made"), format!("{path}/secret"));
    let hostile = |name, reason, layer| Hostile {
        name,
        layer,
        reason,
    };
    let layers = vec![
        hostile("upwards", "`..`", tar(|tar| file(tar, &made, b"x"))),
        hostile(
            "symlink",
            "no directory of this layer",
            tar(|tar| {
                link(tar, EntryType::Symlink, "way", &path);
                file(tar, "way/made", b"x");
            }),
        ),
        hostile(
            "relative-symlink",
            "no directory of this layer",
            tar(|tar| {
                link(tar, EntryType::Symlink, "way", &up);
                file(tar, "way/made", b"x");
            }),
        ),
        hostile(
            "hardlink",
            "not in this layer",
            tar(|tar| link(tar, EntryType::Link, "stolen", &secret)),
        ),
        hostile(
            "hardlink-upwards",
            "leads out of the layer",
            tar(|tar| link(tar, EntryType::Link, "stolen", &format!("{up}/secret"))),
        ),
        hostile(
            "hardlink-through-a-symlink",
            "not in this layer",
            tar(|tar| {
                link(tar, EntryType::Symlink, "way", &path);
                link(tar, EntryType::Link, "stolen", "way/secret");
            }),
        ),
        hostile(
            "whiteout",
            "`..`",
            tar(|tar| file(tar, &format!("{up}/.wh.secret"), b"")),
        ),
    ];
    (outside, layers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_escape() {
    let node = Node::start().await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    let (outside, layers) = hostile_layers(&node);
    let before = Leftovers::count(&node).unwrap();
    for hostile in &layers {
        let Hostile {
            name,
            layer,
            reason,
        } = hostile;
        registry.add(name, layer, &json!({})).unwrap();
        let digest = registry.layer(name).unwrap();
        refuse_test(&node, &format!(":{name}"), &[&digest, reason]).await;

        let archived = format!("test.example/hostile:{name}");
        let archive =
            image::archive_of_layers(node.dir(), &[layer], &json!({}), &archived).unwrap();
        let archive = archive.display().to_string();
        let refused = node.corten_image(&["load", &archive]).unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");

        let mut left = fs::read_dir(&outside).unwrap();
        assert_eq!(left.next().unwrap().unwrap().file_name(), "secret");
        assert!(left.next().is_none(), "{name} made something");
        let secret = fs::read_to_string(outside.join("secret")).unwrap();
        assert_eq!(secret, "secret", "{name}");
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

/// Unit: bytes. What the daemon needed at most.
fn high_water(node: &Node) -> u64 {
    let pid = node.daemon_pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_takes_no_memory() {
    let node = Node::start().await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    let before = Leftovers::count(&node).unwrap();
    for (name, command) in [("gzip", "gzip -1"), ("zstd", "zstd -1 --ultra --long=27")] {
        let bomb = node.dir().join(name);
        node.shell(&format!(
            "cd {} && truncate -s 768M zeros && tar -c zeros | {command} >{name}",
            node.dir().display()
        ))
        .unwrap();
        // Its diff id is one of a layer that is not compressed.
        registry
            .add(name, &fs::read(&bomb).unwrap(), &json!({}))
            .unwrap();
        refuse_test(&node, &format!(":{name}"), &["uncompressed content"]).await;
    }
    Leftovers::settle(&node, &before).await.unwrap();
    // The largest window of zstd takes 128 MiB.
    let high = high_water(&node);

    assert!(high < 256 << 20, "{high} bytes of memory");
}
