//! The daemon dies and comes back: containers run on, and nothing of them is lost.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::PathBuf};

use corten_proto::cri::{self, ContainerState};
use corten_test::{
    file_registry::FileRegistry, image, leftovers::Leftovers, node::Node, pod, wait::until,
};
use nix::sys::signal::Signal;

/// A pod with a container that counts, one that ends when it is let, and one that waits for its start.
struct Survivors {
    node: Node,
    before: Leftovers,
    pod: String,
    ticker: String,
    mortal: String,
    waiting: String,
}

async fn make_survivors() -> Survivors {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::pod("survivor"));
    let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
    let script = "i=0; while :; do i=$((i + 1)); echo tick $i; sleep 0.05; done";
    let ticker = pod::run(&mut runtime, &pod, &pod::container("ticker", script))
        .await
        .unwrap();
    let script = "while ! test -e /gate/open; do sleep 0.05; done; exit 42";
    let mut mortal = pod::container("mortal", script);
    let gate = gate(&node);
    fs::create_dir(&gate).unwrap();
    mortal.mounts = vec![pod::mount(&gate, "/gate")];
    let mortal = pod::run(&mut runtime, &pod, &mortal).await.unwrap();
    let waiting = pod::container("waiting", "sleep 1000");
    let waiting = pod::create(&mut runtime, &pod, &waiting).await.unwrap();
    Survivors {
        node,
        before,
        pod,
        ticker,
        mortal,
        waiting,
    }
}

fn gate(node: &Node) -> PathBuf {
    node.dir().join("gate")
}

fn ticks(node: &Node) -> Vec<u32> {
    let text = fs::read_to_string(node.dir().join("logs/ticker.log")).unwrap();
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse().unwrap();
    text.lines().map(number).collect()
}

/// While no daemon runs: the log goes on, and a container ends.
async fn meanwhile(node: &Node) {
    fs::write(gate(node).join("open"), "").unwrap();
    let then = ticks(node).len();
    until(|| async {
        if ticks(node).len() > then + 5 {
            Ok(())
        } else {
            Err("no more lines")
        }
    })
    .await
    .unwrap();
    until(|| async {
        let left = node
            .shell("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
            .unwrap();
        if left.contains("/gate/open") {
            Err(left)
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
}

async fn survives(signal: Signal) {
    let Survivors {
        mut node,
        before,
        pod,
        ticker,
        mortal,
        waiting,
    } = make_survivors().await;
    let mut runtime = node.runtime().await.unwrap();
    let started_at = pod::status(&mut runtime, &ticker).await.unwrap().started_at;
    node.end_daemon(signal).unwrap();
    meanwhile(&node).await;
    node.start_daemon().await.unwrap();

    let mut runtime = node.runtime().await.unwrap();
    let status = pod::status(&mut runtime, &ticker).await.unwrap();
    assert_eq!(
        (status.state(), status.started_at),
        (ContainerState::ContainerRunning, started_at)
    );
    let ended = pod::status(&mut runtime, &mortal).await.unwrap();
    assert_eq!(
        (ended.state(), ended.exit_code),
        (ContainerState::ContainerExited, 42)
    );
    assert_eq!(
        pod::output(&mut runtime, &ticker, "echo hello")
            .await
            .unwrap(),
        "hello\n"
    );
    pod::start(&mut runtime, &waiting).await.unwrap();
    let status = pod::status(&mut runtime, &waiting).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    let ticks = ticks(&node);
    assert!(
        ticks.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a line was lost or doubled"
    );
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_a_kill() {
    survives(Signal::SIGKILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_a_drain() {
    survives(Signal::SIGTERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_does_not_stop_the_start() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let good = pod::run_pod(&mut runtime, &pod::pod("good")).await.unwrap();
    node.end_daemon(Signal::SIGKILL).unwrap();
    fs::write(node.root().join("pods").join("b".repeat(64)), "rubbish").unwrap();
    node.start_daemon().await.unwrap();

    let mut runtime = node.runtime().await.unwrap();
    let pods = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items;
    assert_eq!(
        pods.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(),
        [good]
    );
    let status = runtime
        .status(cri::StatusRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    let told = status
        .conditions
        .iter()
        .find(|condition| condition.r#type == "StoreComplete")
        .unwrap();
    assert!(
        !told.status && told.message.contains("quarantine"),
        "{}",
        told.message
    );
    assert_eq!(
        fs::read_dir(node.root().join("quarantine"))
            .unwrap()
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_nothing() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    for micros in (0..12).map(|step| step * 700) {
        let mut runtime = node.runtime().await.unwrap();
        let flow = tokio::spawn(async move {
            let pod_id = pod::run_pod(&mut runtime, &pod::pod("cut")).await?;
            pod::run(&mut runtime, &pod_id, &pod::container("cut", "sleep 1000")).await
        });
        tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
        node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = flow.await;
        node.start_daemon().await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let pods = runtime
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await
            .unwrap()
            .into_inner()
            .items;
        for pod in pods {
            pod::remove_pod(&mut runtime, &pod.id).await.unwrap();
        }
        Leftovers::settle(&node, &before).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_pull_leaves_nothing() {
    let mut node = Node::start().await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    let before = Leftovers::count(&node).unwrap();
    image::busybox_archive(node.dir()).unwrap();
    let layer = fs::read(node.dir().join("layer.tar")).unwrap();
    registry.add("1", &layer, &serde_json::json!({})).unwrap();
    let image = || {
        Some(cri::ImageSpec {
            image: FileRegistry::reference(":1"),
            ..Default::default()
        })
    };
    let pull = move || cri::PullImageRequest {
        image: image(),
        ..Default::default()
    };
    for millis in (0..8).map(|step| step * 6) {
        let mut images = node.images().await.unwrap();
        let flow = tokio::spawn(async move { images.pull_image(pull()).await.map(drop) });
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = flow.await;
        node.start_daemon().await.unwrap();
        let mut images = node.images().await.unwrap();
        // What the killed one had is taken up, and nothing of it stays.
        images.pull_image(pull()).await.unwrap();
        images
            .remove_image(cri::RemoveImageRequest { image: image() })
            .await
            .unwrap();
        Leftovers::settle(&node, &before).await.unwrap();
    }
}

/// The host's id of a container's shim.
fn shim_of(node: &Node, id: &str) -> String {
    let find = format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^corten-shim container {id}' && echo ${{p#/proc/}} || true; done"
    );
    node.shell(&find).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_holds_nobody_up_and_leaves_nothing() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod = pod::run_pod(&mut runtime, &pod::pod("silent"))
        .await
        .unwrap();
    let config = pod::container("silent", "sleep 1000");
    let id = pod::run(&mut runtime, &pod, &config).await.unwrap();
    let started_at = pod::status(&mut runtime, &id).await.unwrap().started_at;
    let shim = shim_of(&node, &id);
    node.shell(&format!("kill -STOP {shim}")).unwrap();
    node.end_daemon(Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let status = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(
        (status.state(), status.started_at),
        (ContainerState::ContainerRunning, started_at)
    );
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 255);
    assert_eq!(shim_of(&node, &id), "");
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_pod_is_gone_is_removed_at_the_start() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod = pod::host_network_pod("gone");
    let pod = pod::run_pod(&mut runtime, &pod).await.unwrap();
    let config = pod::container("runs", "sleep 1000");
    pod::run(&mut runtime, &pod, &config).await.unwrap();
    let config = pod::container("waits", "sleep 1000");
    pod::create(&mut runtime, &pod, &config).await.unwrap();
    node.end_daemon(Signal::SIGKILL).unwrap();
    fs::remove_file(node.root().join("pods").join(&pod)).unwrap();
    node.start_daemon().await.unwrap();
    let runtime = node.runtime().await.unwrap();
    until(|| async {
        let left = pod::containers(&mut runtime.clone()).await?;
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
    .unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}
