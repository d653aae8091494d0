//! `corten image`, as a person uses it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, process::Command};

use corten_test::{
    image,
    leftovers::Leftovers,
    node::{Node, binary},
    pod,
    registry::{self, ADDRESS, Protection},
    wait::until,
};
use serde_json::{Value, json};

/// What is pulled: two layers.
fn name() -> String {
    format!("{ADDRESS}/app:1")
}

async fn node_with_app(protection: Protection, options: &[&str]) -> Node {
    let node = Node::start_with(options).await.unwrap();
    registry::start(&node, protection).await.unwrap();
    let hosts = registry::hosts(&node, protection, ADDRESS);
    node.write_hosts(ADDRESS, &hosts).unwrap();
    let layers = [image::noise(1, 1).unwrap(), image::noise(2, 2).unwrap()];
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let archive = image::archive_of_layers(node.dir(), &layers, &json!({}), "app:1").unwrap();
    registry::push(&node, &archive, "app:1", &[]).unwrap();
    node
}

fn json(node: &Node, arguments: &[&str]) -> Value {
    let text = node
        .corten_image(&[arguments, &["--json"]].concat())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn is_id(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_in_a_pipe_prints_plain_lines() {
    let node = node_with_app(Protection::None, &[]).await;
    let text = node.corten_image(&["pull", &name()]).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let (id, steps) = lines.split_last().unwrap();
    assert!(is_id(id), "{text}");
    assert!(
        steps.iter().any(|line| line.ends_with("1.00 MiB")),
        "{text}"
    );
    assert!(!text.contains(['\r', '\u{1b}']), "{text:?}");
    // All is here already.
    assert_eq!(
        node.corten_image(&["pull", "-q", &name()]).unwrap(),
        format!("{id}\n")
    );
    let pulled = json(&node, &["pull", &name()]);
    assert_eq!(pulled, json!({ "image": name(), "id": id }));
    let absent = format!("{ADDRESS}/absent:1");
    let error = node
        .corten_image(&["pull", &absent])
        .unwrap_err()
        .to_string();
    assert!(error.contains(&absent) && error.contains("404"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_on_a_terminal_draws_bars() {
    let node = node_with_app(Protection::None, &[]).await;
    // Slow enough to be seen.
    node.shell("tc qdisc add dev lo root tbf rate 8mbit burst 512kb latency 500ms")
        .unwrap();
    let tmux = |arguments: &[&str]| {
        let socket = node.dir().join("tmux");
        let mut command = Command::new("tmux");
        let output = command
            .arg("-S")
            .arg(socket)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let inside = node.command(binary("corten").unwrap().to_str().unwrap());
    let mut pull = vec!["nsenter".to_owned()];
    pull.extend(
        inside
            .get_args()
            .map(|argument| argument.to_str().unwrap().to_owned()),
    );
    let socket = node.socket().display().to_string();
    pull.extend(["image", "--socket", &socket, "pull", &name()].map(str::to_owned));
    let words: Vec<_> = pull.iter().map(|word| format!("'{word}'")).collect();
    let screen = format!("{}; sleep 1000", words.join(" "));
    tmux(&[
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "-x",
        "100",
        "-y",
        "20",
        &screen,
    ]);
    let seen = |wanted: &'static [&'static str]| {
        let tmux = &tmux;
        async move {
            until(|| async {
                let screen = tmux(&["capture-pane", "-p"]);
                let has_all = wanted.iter().all(|part| screen.contains(part));
                anyhow::ensure!(has_all, "{wanted:?} are not in\n{screen}");
                Ok(screen)
            })
            .await
            .unwrap()
        }
    };
    let during = seen(&["fetching", "=>", "/2.00 MiB", "/s"]).await;
    let bars = during.lines().filter(|line| line.contains('[')).count();
    assert_eq!(bars, 2, "{during}");
    let after = seen(&["sha256:"]).await;
    assert!(!after.contains("fetching"), "{after}");
    tmux(&["kill-server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_by_standard_input() {
    let node = node_with_app(Protection::Tls, &[]).await;
    let corten = binary("corten").unwrap().display().to_string();
    let (socket, name) = (node.socket().display().to_string(), name());
    let with = |credentials: &str| {
        node.shell(&format!(
            "printf %s '{credentials}' | '{corten}' image --socket {socket} pull --creds-stdin {name}"
        ))
    };
    let refused = with("tester:wrong").unwrap_err().to_string();
    assert!(
        refused.contains("401") && !refused.contains("wrong\""),
        "{refused}"
    );
    let refused = with("tester").unwrap_err().to_string();
    assert!(refused.contains("want USER:PASSWORD"), "{refused}");
    let pair = format!("{}:{}", registry::USER, registry::PASSWORD);
    with(&pair).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_inspected_and_counted() {
    let node = node_with_app(Protection::None, &[]).await;
    let id = node.corten_image(&["pull", "-q", &name()]).unwrap();
    let seen = json(&node, &["inspect", &name()]);
    assert_eq!(seen["id"], id.trim());
    assert_eq!(seen["repo_tags"], json!([name()]));
    assert_eq!(seen["config"]["os"], "linux");
    assert_eq!(seen["manifest"]["layers"].as_array().unwrap().len(), 2);
    let layers = seen["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(
        layers[1]["diff_id"],
        seen["config"]["rootfs"]["diff_ids"][1]
    );
    let bytes: u64 = layers
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap())
        .sum();
    let size = seen["size"].as_u64().unwrap();
    assert!(
        bytes > 3 << 20 && bytes < size && size < bytes + 4096,
        "{seen}"
    );
    assert_eq!(layers[0]["images"], 1);
    let listed = json(&node, &["ls"]);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["size"]),
        (&seen["id"], &seen["size"])
    );
    let error = node
        .corten_image(&["inspect", "absent:1"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"absent:1\" is not on this node"),
        "{error}"
    );

    let usage = json(&node, &["df"]);
    assert_eq!((&usage["images"], &usage["layers"]), (&json!(1), &json!(2)));
    assert_eq!(
        (&usage["bytes"], &usage["collectable_bytes"]),
        (&seen["size"], &seen["size"])
    );
    let text = node.corten_image(&["df"]).unwrap();
    assert!(
        text.contains("1 in 2 layers") && text.contains("3.0"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_spares_what_is_pinned_or_in_use() {
    let node = node_with_app(
        Protection::None,
        &["--dev-network", "--pinned-image", "*/pinned:*"],
    )
    .await;
    let before = Leftovers::count(&node).unwrap();
    image::load_busybox(&node).await.unwrap();
    image::load_changed(&node, "example.test/pinned:1", |tree, _| {
        Ok(fs::write(tree.join("etc/pinned"), "")?)
    })
    .await
    .unwrap();
    node.corten_image(&["pull", &name()]).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("user")).await.unwrap();
    let config = pod::container("user", "sleep 1000");
    pod::run(&mut runtime, &pod_id, &config).await.unwrap();

    let size = json(&node, &["inspect", &name()])["size"].clone();
    let planned = json(&node, &["gc", "--dry-run"]);
    let want = |dry_run: bool| json!({ "images": [name()], "bytes": size, "dry_run": dry_run });
    assert_eq!(planned, want(true));
    assert_eq!(json(&node, &["ls"]).as_array().unwrap().len(), 3);
    let in_use = json(&node, &["inspect", image::BUSYBOX]);
    assert_eq!(in_use["containers"].as_array().unwrap().len(), 1);
    assert_eq!(json(&node, &["gc"]), want(false));
    assert_eq!(json(&node, &["gc"])["images"], json!([]));

    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    assert_eq!(json(&node, &["gc"])["images"], json!([image::BUSYBOX]));
    let left = json(&node, &["ls"]);
    assert_eq!(left[0]["repo_tags"], json!(["example.test/pinned:1"]));
    assert_eq!(left[0]["pinned"], true);
    // By name it goes all the same.
    node.corten_image(&["rm", "example.test/pinned:1"]).unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_loaded_under_the_same_id() {
    let node = node_with_app(Protection::None, &[]).await;
    image::load_busybox(&node).await.unwrap();
    let id = node.corten_image(&["pull", "-q", &name()]).unwrap();
    let (archive, again) = (node.dir().join("saved.tar"), node.dir().join("again.tar"));
    for path in [&archive, &again] {
        let path = path.to_str().unwrap();
        node.corten_image(&["save", "-o", path, &name(), image::BUSYBOX])
            .unwrap();
    }
    let saved = fs::read(&archive).unwrap();
    assert!(
        saved == fs::read(&again).unwrap(),
        "two archives of the same images differ"
    );
    let before = json(&node, &["ls"]);
    node.corten_image(&["rm", &name(), image::BUSYBOX]).unwrap();
    node.corten_image(&["load", archive.to_str().unwrap()])
        .unwrap();
    let ids = |list: &Value| {
        let list = list.as_array().unwrap().iter();
        let mut ids: Vec<_> = list.map(|image| image["id"].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&json(&node, &["ls"])), ids(&before));
    assert_eq!(json(&node, &["inspect", &name()])["id"], id.trim());
    assert_eq!(json(&node, &["verify"])["faults"], json!([]));
    // Others read it, too.
    for transport in ["oci-archive", "docker-archive"] {
        let one = node.dir().join(format!("{transport}.tar"));
        let path = one.to_str().unwrap();
        node.corten_image(&["save", "-o", path, &name()]).unwrap();
        let config = node
            .shell(&format!("skopeo inspect --config --raw {transport}:{path}"))
            .unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config, json(&node, &["inspect", &name()])["config"]);
    }
    let nowhere = node.corten_image(&["save", "-o", "/absent/x.tar", &name()]);
    assert!(nowhere.unwrap_err().to_string().contains("/absent/x.tar"));
    let absent = node.corten_image(&["save", "-o", again.to_str().unwrap(), "absent:1"]);
    assert!(absent.unwrap_err().to_string().contains("absent:1"));
    assert!(
        saved == fs::read(&again).unwrap(),
        "a failed save spoiled the file"
    );
    assert!(!again.with_extension("tar.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_layers_are_found_and_repaired() {
    let node = node_with_app(Protection::None, &[]).await;
    node.corten_image(&["pull", "-q", &name()]).unwrap();
    let text = node.corten_image(&["verify"]).unwrap();
    assert!(
        text.starts_with("2 layers, ") && text.ends_with(": 0 broken\n"),
        "{text}"
    );
    let layer = json(&node, &["inspect", &name()])["layers"][1]["name"].clone();
    let layer = node.root().join("layers").join(layer.as_str().unwrap());
    fs::write(layer.join("noise-2"), "spoiled").unwrap();
    let error = node.corten_image(&["verify"]).unwrap_err().to_string();
    for part in [&*name(), "/noise-2: it is shorter", "1 broken"] {
        assert!(error.contains(part), "{error}");
    }
    let text = node.corten_image(&["verify", "--repair"]).unwrap();
    assert!(text.contains(&format!("repaired: {}", name())), "{text}");
    assert_eq!(json(&node, &["verify"])["faults"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_complete_commands() {
    let node = Node::without_daemon(&[]).await.unwrap();
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef corten"),
        ("fish", "complete -c corten"),
    ] {
        let script = node.corten(&["completions", shell]).unwrap();
        assert!(
            script.contains(part) && script.contains("verify"),
            "{shell}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_blobs_are_saved_as_they_came() {
    for (options, are_kept) in [(&["--keep-blobs"][..], true), (&[], false)] {
        let node = node_with_app(Protection::None, options).await;
        node.corten_image(&["pull", &name()]).unwrap();
        let manifest = json(&node, &["inspect", &name()])["manifest_digest"].clone();
        let hex = manifest.as_str().unwrap().replace("sha256:", "");
        let archive = node.dir().join("saved.tar").display().to_string();
        node.corten_image(&["save", "--output", &archive, &name()])
            .unwrap();
        let members = node.shell(&format!("tar -tf {archive}")).unwrap();
        assert_eq!(members.contains(&hex), are_kept, "{members}");
        let blobs = node.root().join("blobs").read_dir().unwrap().count();
        assert_eq!(blobs, if are_kept { 2 } else { 0 });
    }
}
