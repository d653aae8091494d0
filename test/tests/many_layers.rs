//! A container of hundreds of layers, by the kernel's new way to mount them and by the old one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_test::{image, node::Node, pod, vm};

/// overlayfs takes 500, of which one is Corten's own.
const LAYERS: usize = 450;
const NAME: &str = "test.example/layers:1";
const COUNT: &str = "ls /layers | wc -l";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_every_layer() {
    let node = Node::start().await.unwrap();
    let archive = image::archive_of_many(node.dir(), LAYERS, NAME).unwrap();
    node.corten_image(&["load", &archive.display().to_string()])
        .unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let sandbox = pod::host_network_pod("layers");
    let mut config = pod::container("layers", "sleep 1000");
    config.image.as_mut().unwrap().image = NAME.into();
    let id = pod::run_pod(&mut runtime, &sandbox).await.unwrap();
    let container = pod::run(&mut runtime, &id, &config).await.unwrap();
    let counted = pod::output(&mut runtime, &container, COUNT).await.unwrap();
    assert_eq!(counted.trim(), (LAYERS - 1).to_string());
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}

const POD: &str = r#"{"metadata": {"name": "layers", "namespace": "test", "uid": "1"},
    "linux": {"security_context": {"namespace_options": {"network": 2}}}}"#;
const CONTAINER: &str = r#"{"metadata": {"name": "layers"}, "image": {"image": "test.example/layers:1"},
    "command": ["sleep", "1000"]}"#;
const SCRIPT: &str = "set -e
mkdir /node
corten serve --root /node/root --state /run/corten --socket /run/corten.sock --certs-dir /node/certs \
    --cni-conf-dir /node/net >/node/log 2>&1 &
trap 'cat /node/log' EXIT
for try in $(seq 300); do [ -S /run/corten.sock ] || sleep 0.1; done
corten image load --socket /run/corten.sock /share/archive
export CONTAINER_RUNTIME_ENDPOINT=unix:///run/corten.sock
pod=$(crictl --timeout 60s runp /share/pod.json)
container=$(crictl --timeout 60s create --no-pull $pod /share/container.json /share/pod.json)
crictl --timeout 60s start $container
echo \"counted $(crictl --timeout 60s exec --sync $container sh -c 'ls /layers | wc -l')\"
crictl --timeout 60s rmp --force $pod
trap - EXIT
";

/// Debian's kernel is older than the new way.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_on_an_older_kernel() {
    if !vm::is_outside() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = image::archive_of_many(dir.path(), LAYERS, NAME).unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::rename(archive, share.join("archive")).unwrap();
    for (name, text) in [
        ("pod.json", POD),
        ("container.json", CONTAINER),
        ("run", SCRIPT),
    ] {
        fs::write(share.join(name), text).unwrap();
    }
    let mut command = vm::command();
    command
        .arg("--share")
        .arg(&share)
        .args(["--", "sh", "/share/run"]);
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(
        out.contains(&format!("counted {}", LAYERS - 1)),
        "{out}{err}"
    );
}
