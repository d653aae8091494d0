//! Calls about one pod side by side, and a daemon that dies in the middle of them: what may not run at once waits, what must
//! overtake does, and the next daemon finishes what the last one began.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use corten_proto::cri::{self, ContainerState, PodSandboxState};
use corten_test::{handler, image, leftovers::Leftovers, node::Node, pod, wait::until};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

/// Longer than any test waits.
const FOREVER: i64 = 1000;

fn write_program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A node whose network is this plugin, which notes what it does in `$notes`.
async fn node_with_plugin(script: &str) -> Node {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    let dir = node.dir().join("plugins");
    fs::create_dir(&dir).unwrap();
    let set = format!(
        "dir={}\nnotes=$dir/notes\nid=$CNI_CONTAINERID\n",
        node.dir().display()
    );
    write_program(&dir.join("scripted"), &(set + script));
    let list =
        json!({ "cniVersion": "1.0.0", "name": "test", "plugins": [{ "type": "scripted" }] });
    fs::write(node.dir().join("net.d/test.conflist"), list.to_string()).unwrap();
    node.add_options(["--cni-bin-dir".to_owned(), dir.display().to_string()]);
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

/// What an ADD answers.
const RESULT: &str = r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.79.0.9/24"}]}'"#;

fn notes(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.dir().join("notes")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn noted(node: &Node, note: &str) {
    until(|| async {
        let notes = notes(node);
        anyhow::ensure!(notes.iter().any(|line| line == note), "{notes:?}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn pods(runtime: &mut pod::Runtime) -> Vec<cri::PodSandbox> {
    let all = cri::ListPodSandboxRequest::default();
    let reply = runtime.list_pod_sandbox(all).await.unwrap();
    reply.into_inner().items
}

async fn stop_pod(mut runtime: pod::Runtime, id: &str) -> pod::Reply<()> {
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: id.into(),
    };
    runtime.stop_pod_sandbox(request).await.map(drop)
}

async fn remove(mut runtime: pod::Runtime, id: &str) -> pod::Reply<()> {
    let request = cri::RemoveContainerRequest {
        container_id: id.into(),
    };
    runtime.remove_container(request).await.map(drop)
}

/// A node with a handler whose runtime is runc but for its command `held`, which does not end before there is `gate`.
async fn node_with_held(held: &str) -> (Node, PathBuf) {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    let (gate, program) = (node.dir().join("gate"), node.dir().join("held-runtime"));
    let script = format!(
        "for word; do [ \"$word\" != {held} ] || while ! [ -e {} ]; do echo {held} >>{}; sleep 0.05; done; done\nexec '{}' \"$@\"",
        gate.display(),
        node.dir().join("notes").display(),
        handler::runc().unwrap().display()
    );
    write_program(&program, &script);
    let config = node.dir().join("config.toml");
    fs::write(
        &config,
        handler::table(handler::OCI, &program.display().to_string()),
    )
    .unwrap();
    node.add_options(["--config".to_owned(), config.display().to_string()]);
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    (node, gate)
}

async fn run_held_pod(node: &Node) -> (pod::Runtime, String) {
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::host_network_pod("held");
    let pod = handler::run_pod(&mut runtime, &config, handler::OCI)
        .await
        .unwrap();
    (runtime, pod)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_client_has_left_and_a_removal_detach_one_after_the_other() {
    let script = format!(
        "case $CNI_COMMAND in\nADD) {RESULT} ;;\nDEL) mkdir $dir/busy || echo overlap >>$notes; echo DEL >>$notes; sleep 0.3; rmdir $dir/busy ;;\nesac"
    );
    let node = node_with_plugin(&script).await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("raced"))
        .await
        .unwrap();
    let left = stop_pod(runtime.clone(), &id);
    let _ = tokio::time::timeout(Duration::from_millis(50), left).await;
    let remove = cri::RemovePodSandboxRequest {
        pod_sandbox_id: id.clone(),
    };
    let (mut one, mut two) = (runtime.clone(), runtime.clone());
    let (removed, stopped, again) = tokio::join!(
        one.remove_pod_sandbox(remove.clone()),
        stop_pod(runtime.clone(), &id),
        two.remove_pod_sandbox(remove)
    );
    removed.unwrap();
    stopped.unwrap();
    again.unwrap();
    assert!(
        !notes(&node).contains(&"overlap".into()),
        "{:?}",
        notes(&node)
    );
    assert!(pods(&mut runtime).await.is_empty());
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_in_flight_is_undone_before_the_stop_of_its_pod_is_answered() {
    let (node, _gate) = node_with_held("create").await;
    let before = Leftovers::count(&node).unwrap();
    let (mut runtime, pod_id) = run_held_pod(&node).await;
    let creation = {
        let (mut runtime, pod_id) = (runtime.clone(), pod_id.clone());
        let config = pod::container("late", "sleep 1000");
        tokio::spawn(async move { pod::create(&mut runtime, &pod_id, &config).await })
    };
    noted(&node, "create").await;
    stop_pod(runtime.clone(), &pod_id).await.unwrap();
    let containers = fs::read_dir(node.root().join("containers")).unwrap();
    assert_eq!(containers.count(), 0);
    let refused = creation.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_being_started_is_stopped_and_removed_at_once() {
    let (node, _gate) = node_with_held("start").await;
    let before = Leftovers::count(&node).unwrap();
    let (mut runtime, pod_id) = run_held_pod(&node).await;
    let config = pod::container("held", "sleep 1000");
    let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
    let start = {
        let (mut runtime, id) = (runtime.clone(), id.clone());
        tokio::spawn(async move { pod::start(&mut runtime, &id).await })
    };
    noted(&node, "start").await;
    pod::stop(&mut runtime, &id, 0).await.unwrap();
    let status = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    // 255 would be a container that was given up as lost.
    assert_eq!(status.exit_code, 137, "{status:?}");
    remove(runtime.clone(), &id).await.unwrap();
    // Whether it was ended before or after its program ran, only the kernel knows.
    if let Err(refused) = start.await.unwrap() {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_of_a_pod_overtakes_that_of_its_container() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("deaf")).await.unwrap();
    let deaf = pod::container("deaf", "trap '' TERM; while :; do sleep 0.1; done");
    let id = pod::run(&mut runtime, &pod_id, &deaf).await.unwrap();
    let patient = {
        let (mut runtime, id) = (runtime.clone(), id.clone());
        tokio::spawn(async move { pod::stop(&mut runtime, &id, FOREVER).await })
    };
    let (removal, removed) = (runtime.clone(), id.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (stopped, removed) = tokio::join!(
        stop_pod(runtime.clone(), &pod_id),
        remove(removal, &removed)
    );
    stopped.unwrap();
    removed.unwrap();
    patient.await.unwrap().unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_its_daemon_did_not_live_to_see_is_told_by_the_next() {
    let (mut node, gate) = node_with_held("start").await;
    let (mut runtime, pod_id) = run_held_pod(&node).await;
    let config = pod::container("held", "sleep 1000");
    let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
    let start = {
        let (mut runtime, id) = (runtime.clone(), id.clone());
        tokio::spawn(async move { pod::start(&mut runtime, &id).await })
    };
    noted(&node, "start").await;
    node.end_daemon(Signal::SIGKILL).unwrap();
    start.await.unwrap().unwrap_err();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let status = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerCreated);
    fs::write(&gate, "").unwrap();
    until(|| async {
        let status = pod::status(&mut runtime.clone(), &id).await?;
        anyhow::ensure!(
            status.state() == ContainerState::ContainerRunning,
            "{status:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_that_was_cut_is_undone_behind_the_socket_and_before_the_next() {
    let script = format!(
        "case $CNI_COMMAND in\n\
         ADD) echo ADD >>$notes; [ -e $dir/quick ] || sleep 1007; {RESULT} ;;\n\
         DEL) echo DEL begins >>$notes; while ! [ -e $dir/gate ]; do sleep 0.05; done; echo DEL ends >>$notes ;;\n\
         esac"
    );
    let mut node = node_with_plugin(&script).await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let run = tokio::spawn(async move { pod::run_pod(&mut runtime, &pod::pod("cut")).await });
    noted(&node, "ADD").await;
    node.end_daemon(Signal::SIGKILL).unwrap();
    run.await.unwrap().unwrap_err();
    fs::write(node.dir().join("quick"), "").unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    assert!(pods(&mut runtime).await.is_empty());
    noted(&node, "DEL begins").await;
    // The plugin of the daemon that was killed makes nothing any more.
    let left =
        node.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep [1]007' || true");
    assert_eq!(left.unwrap().trim(), "0");
    let again = {
        let mut runtime = runtime.clone();
        tokio::spawn(async move { pod::run_pod(&mut runtime, &pod::pod("cut")).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::write(node.dir().join("gate"), "").unwrap();
    let id = again.await.unwrap().unwrap();
    assert_eq!(notes(&node), ["ADD", "DEL begins", "DEL ends", "ADD"]);
    pod::remove_pod(&mut runtime, &id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_undone_of_a_cut_pod_is_listed_and_removed_by_a_retry() {
    let script = format!(
        "case $CNI_COMMAND in\n\
         ADD) echo ADD >>$notes; sleep 1008; {RESULT} ;;\n\
         DEL) echo DEL >>$notes; [ -e $dir/failed ] || {{ touch $dir/failed; echo '{{\"code\": 100, \"msg\": \"not now\"}}'; exit 1; }} ;;\n\
         esac"
    );
    let mut node = node_with_plugin(&script).await;
    let before = Leftovers::count(&node).unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let run = tokio::spawn(async move { pod::run_pod(&mut runtime, &pod::pod("cut")).await });
    noted(&node, "ADD").await;
    node.end_daemon(Signal::SIGKILL).unwrap();
    run.await.unwrap().unwrap_err();
    node.start_daemon().await.unwrap();
    let runtime = node.runtime().await.unwrap();
    let left = until(|| async {
        let pods = pods(&mut runtime.clone()).await;
        pods.into_iter().next().ok_or("nothing is listed")
    })
    .await
    .unwrap();
    assert_eq!(left.state(), PodSandboxState::SandboxNotready);
    assert_eq!(left.metadata.unwrap().name, "cut");
    // The next daemon knows as much.
    node.end_daemon(Signal::SIGKILL).unwrap();
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    assert_eq!(pods(&mut runtime).await.len(), 1);
    pod::remove_pod(&mut runtime, &left.id).await.unwrap();
    assert_eq!(notes(&node), ["ADD", "DEL", "DEL"]);
    assert!(pods(&mut runtime).await.is_empty());
    Leftovers::settle(&node, &before).await.unwrap();
}
