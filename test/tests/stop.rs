//! Stopping: signals, patience, and all that a container has started.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, time::Duration};

use corten_proto::cri::{self, ContainerState, NamespaceMode, Signal};
use corten_test::{image, leftovers::Leftovers, node::Node, pod, wait::until};

/// Longer than any test waits.
const FOREVER: i64 = 1000;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, pod::host_network_pod("stop"));
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    /// Runs a container and waits until its script has said that it is ready.
    async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        let id = pod::run(&mut self.runtime, &self.pod, config)
            .await
            .unwrap();
        let log = self.node.dir().join("logs").join(&config.log_path);
        until(|| async {
            let text = fs::read_to_string(&log).unwrap_or_default();
            anyhow::ensure!(text.contains("ready"), "{text}");
            Ok(())
        })
        .await
        .unwrap();
        id
    }

    async fn exit(&mut self, id: &str) -> (i32, String) {
        let status = pod::status(&mut self.runtime, id).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerExited);
        (status.exit_code, status.reason)
    }
}

/// Ends by `signal` with this code, and by no other signal.
fn trapping(name: &str, signal: &str, code: i32) -> cri::ContainerConfig {
    let script = format!(
        "trap '' TERM INT USR1; trap 'exit {code}' {signal}; echo ready; while :; do sleep 0.05; done"
    );
    pod::container(name, &script)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_signal_is_the_requests_or_the_images_or_sigterm() {
    let mut site = Site::new().await;
    let name = "test.example/stops:1";
    let stops_by_usr1 = |config: &mut serde_json::Value| config["StopSignal"] = "SIGUSR1".into();
    image::load_changed(&site.node, name, |_, config| {
        stops_by_usr1(config);
        Ok(())
    })
    .await
    .unwrap();
    let plain = trapping("plain", "TERM", 3);
    let mut of_image = trapping("of-image", "USR1", 4);
    of_image.image.as_mut().unwrap().image = name.into();
    let mut asked = of_image.clone();
    asked.command = trapping("", "INT", 5).command;
    asked.metadata.as_mut().unwrap().name = "asked".into();
    asked.log_path = "asked.log".into();
    asked.stop_signal = Signal::Sigint.into();
    for (config, code, signal) in [
        (plain, 3, Signal::Sigterm),
        (of_image, 4, Signal::Sigusr1),
        (asked, 5, Signal::Sigint),
    ] {
        let id = site.run(&config).await;
        let status = pod::status(&mut site.runtime, &id).await.unwrap();
        assert_eq!(status.stop_signal(), signal);
        pod::stop(&mut site.runtime, &id, FOREVER).await.unwrap();
        assert_eq!(site.exit(&id).await, (code, "Error".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_the_signal_is_killed() {
    let mut site = Site::new().await;
    let deaf = trapping("deaf", "HUP", 0);
    let id = site.run(&deaf).await;
    pod::stop(&mut site.runtime, &id, 1).await.unwrap();
    assert_eq!(site.exit(&id).await, (137, "Error".into()));
    // A second stop, and one with patience, are done already.
    pod::stop(&mut site.runtime, &id, FOREVER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_stop_with_less_patience_wins() {
    let mut site = Site::new().await;
    let id = site.run(&trapping("deaf", "HUP", 0)).await;
    let (mut patient, patient_id) = (site.node.runtime().await.unwrap(), id.clone());
    let patient = tokio::spawn(async move { pod::stop(&mut patient, &patient_id, FOREVER).await });
    let _ = tokio::time::timeout(
        Duration::from_millis(100),
        pod::stop(&mut site.runtime, &id, FOREVER),
    )
    .await;
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    assert_eq!(site.exit(&id).await.0, 137);
    patient.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_outlives_its_client_and_the_daemon() {
    let mut site = Site::new().await;
    let id = site.run(&trapping("deaf", "HUP", 0)).await;
    let given_up = pod::stop(&mut site.runtime, &id, 1);
    let _ = tokio::time::timeout(Duration::from_millis(50), given_up).await;
    site.node
        .end_daemon(nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_container_started_ends_with_it() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    for (mode, number) in [
        (NamespaceMode::Container, 991),
        (NamespaceMode::Pod, 992),
        (NamespaceMode::Node, 993),
    ] {
        let mut config = pod::host_network_pod(&format!("mode-{number}"));
        let linux = config.linux.as_mut().unwrap();
        let options = pod::namespaces(NamespaceMode::Node, mode);
        linux.security_context.as_mut().unwrap().namespace_options = Some(options.clone());
        let pod_id = pod::run_pod(&mut site.runtime, &config).await.unwrap();
        let script = format!("trap '' TERM; (sleep {number} &) ; sleep {number} & wait");
        let mut config = pod::container("parent", &script);
        pod::security(&mut config).namespace_options = Some(options);
        let id = pod::run(&mut site.runtime, &pod_id, &config).await.unwrap();
        let count = format!(
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o '[s]leep {number}' | wc -l"
        );
        let running = |want: &'static str| {
            let (node, count) = (&site.node, &count);
            until(move || async move {
                let seen = node.shell(count)?;
                // The script names each once.
                anyhow::ensure!(seen.trim() == want, "{seen} of {want}");
                Ok(())
            })
        };
        running("4").await.unwrap();
        pod::stop(&mut site.runtime, &id, 0).await.unwrap();
        running("0").await.unwrap();
        pod::remove_pod(&mut site.runtime, &pod_id).await.unwrap();
    }
    Leftovers::settle(&site.node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_outlives_init_does_not_hold_the_container() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let mut config = pod::host_network_pod("shared");
    let options = pod::namespaces(NamespaceMode::Node, NamespaceMode::Pod);
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let config = pod::logged(&site.node, config);
    let pod_id = pod::run_pod(&mut site.runtime, &config).await.unwrap();
    // It holds the log's pipe, too.
    let mut config = pod::container("parent", "sleep 994 & echo said; exit 6");
    pod::security(&mut config).namespace_options = Some(options);
    let id = pod::run(&mut site.runtime, &pod_id, &config).await.unwrap();
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 6);
    let log = fs::read_to_string(site.node.dir().join("logs/parent.log")).unwrap();
    assert!(log.ends_with("stdout F said\n"), "{log}");
    pod::remove_pod(&mut site.runtime, &pod_id).await.unwrap();
    Leftovers::settle(&site.node, &before).await.unwrap();
}
