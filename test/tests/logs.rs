//! Logs under load: rotated at any moment, at the pipe's full speed, and none of it lost.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri;
use corten_test::{
    flood::{self, Reader},
    image, log,
    log::Rotated,
    node::Node,
    pod,
    wait::until,
};
use tonic::Code;

/// Longer than any test waits.
const FOREVER: i64 = 1000;
/// What the shim of a container that floods may have at most, KiB: its code, a read's lines, and its messages.
const MOST_MEMORY: u64 = 8 << 10;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new(options: &[&str]) -> Self {
        let node = Node::start_with(options).await.unwrap();
        image::load_busybox(&node).await.unwrap();
        flood::load(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, pod::host_network_pod("logs"));
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, config: &cri::ContainerConfig) -> (String, Rotated) {
        let id = pod::run(&mut self.runtime, &self.pod, config)
            .await
            .unwrap();
        let log = self.node.dir().join("logs").join(&config.log_path);
        (id, Rotated::new(log))
    }

    /// Runs a script that may flood.
    async fn flood(&mut self, name: &str, script: &str) -> (String, Rotated) {
        let mut config = pod::container(name, &format!("{}{script}", flood::SCRIPT));
        config.image.as_mut().unwrap().image = flood::IMAGE.into();
        self.run(&config).await
    }

    /// Passes that the container says to have printed, when there are any.
    async fn passes(&self, id: &str, stream: &str) -> usize {
        until(|| async {
            let command = format!("cat /{stream}");
            let said = pod::output(&mut self.runtime.clone(), id, &command).await?;
            anyhow::Ok(said.trim().parse()?)
        })
        .await
        .unwrap()
    }

    /// Waits until the log has something.
    async fn wait_for(&self, log: &Rotated) {
        until(|| async {
            let length = fs::metadata(log.log())?.len();
            anyhow::ensure!(length > 0, "the log is empty");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// The most memory that the container's shim has had, KiB (VmHWM of proc_pid_status(5)).
    fn peak(&self, id: &str) -> u64 {
        let shim = format!("/proc/$(pgrep -f '[c]orten-shim container {id}')/status");
        let script = format!("sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' {shim}");
        self.node.shell(&script).unwrap().trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_rotations_at_full_speed_lose_nothing() {
    let mut site = Site::new(&[]).await;
    let script = "flood /out & flood /err >&2 & wait";
    let (id, mut log) = site.flood("rotated", script).await;
    for number in 0..50 {
        // At once, or when there is something in the new file.
        if number % 2 == 0 {
            site.wait_for(&log).await;
        }
        log.rotate(&mut site.runtime, &id).await.unwrap();
    }
    pod::output(&mut site.runtime, &id, "touch /done")
        .await
        .unwrap();
    pod::exited(&site.runtime, &id).await.unwrap();
    let mut reader = Reader::new();
    log.take(|text| reader.read(text)).unwrap();
    for stream in [&reader.stdout, &reader.stderr] {
        assert!(stream.passes > 0);
        assert_eq!(stream.end, format!("end {}", stream.passes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_being_written_is_in_one_file_as_a_whole() {
    let mut site = Site::new(&[]).await;
    let go = |number: usize| format!("until test -e /{number}; do sleep 0.05; done; ");
    let script = format!(
        "printf half; printf err >&2; touch /a; {}echo ' of it'; echo ' of it' >&2; \
         head -c 40000 /dev/zero | tr '\\0' x; touch /b; {}echo; printf last; touch /c; {}",
        go(1),
        go(2),
        go(3)
    );
    let (id, mut log) = site.run(&pod::container("halves", &script)).await;
    for (written, number) in [("a", 1), ("b", 2), ("c", 3)] {
        let command = format!("until test -e /{written}; do sleep 0.01; done");
        pod::output(&mut site.runtime, &id, &command).await.unwrap();
        log.rotate(&mut site.runtime, &id).await.unwrap();
        let command = format!("touch /{number}");
        pod::output(&mut site.runtime, &id, &command).await.unwrap();
    }
    pod::exited(&site.runtime, &id).await.unwrap();
    let mut files = Vec::new();
    log.take(|text| {
        let entries = log::entries(text).map(|entry| {
            let entry = entry?;
            let text = String::from_utf8(entry.text.to_vec())?;
            let tag = if entry.is_full { "F" } else { "P" };
            let stream = String::from_utf8(entry.stream.to_vec())?;
            let shown = match text.trim_matches('x') {
                "" => text.len().to_string(),
                _ => text,
            };
            anyhow::Ok(format!("{stream} {tag} {shown}"))
        });
        let mut entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        // Two pipes have no order.
        entries.sort_by_key(|entry| entry.starts_with("stderr"));
        files.push(entries.join(", "));
        Ok(())
    })
    .unwrap();
    let want = [
        "",
        "stdout F half of it, stdout P 16384, stdout P 16384, stderr F err of it",
        "stdout F 7232",
        "stdout P last",
    ];
    assert_eq!(files, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_being_stopped_has_its_log_rotated() {
    let mut site = Site::new(&[]).await;
    let script = "trap 'flood_on /out & flood_on /err >&2 &' TERM; touch /ready; while :; do sleep 0.02; done";
    let (id, mut log) = site.flood("stopped", script).await;
    let ready = "until test -e /ready; do sleep 0.01; done";
    pod::output(&mut site.runtime, &id, ready).await.unwrap();
    let (mut patient, patient_id) = (site.node.runtime().await.unwrap(), id.clone());
    let patient = tokio::spawn(async move { pod::stop(&mut patient, &patient_id, FOREVER).await });
    for _ in 0..10 {
        site.wait_for(&log).await;
        log.rotate(&mut site.runtime, &id).await.unwrap();
    }
    assert!(!patient.is_finished());
    let stdout = site.passes(&id, "out").await;
    let stderr = site.passes(&id, "err").await;
    pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    patient.await.unwrap().unwrap();
    // One that has ended keeps its log, as the kubelet gives it its name back.
    let ended = log.rotate(&mut site.runtime, &id).await.unwrap_err();
    let status = ended.downcast_ref::<tonic::Status>().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let mut reader = Reader::new();
    log.take(|text| reader.read(text)).unwrap();
    assert!(reader.stdout.passes >= stdout && reader.stderr.passes >= stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_amid_rotations_loses_nothing() {
    let mut site = Site::new(&[]).await;
    for number in 0..10 {
        let script =
            "touch /done; for i in 1 2 3; do cat /numbers; done; cat /numbers >&2; printf 'end 3'";
        let (id, mut log) = site.flood(&format!("ends-{number}"), script).await;
        let error = loop {
            if let Err(error) = log.rotate(&mut site.runtime, &id).await {
                break error;
            }
        };
        let status = error.downcast_ref::<tonic::Status>().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        pod::exited(&site.runtime, &id).await.unwrap();
        let mut reader = Reader::new();
        log.take(|text| reader.read(text)).unwrap();
        assert_eq!(reader.stdout.end, "end 3");
        assert_eq!((reader.stdout.passes, reader.stderr.passes), (3, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_down_and_other_calls_are_answered() {
    let mut site = Site::new(&[]).await;
    let script = "flood_on /out & flood_on /err >&2 & wait";
    let (id, mut log) = site.flood("flood", script).await;
    let mut reader = Reader::new();
    for number in 0..30 {
        site.wait_for(&log).await;
        let said = pod::output(&mut site.runtime, &id, &format!("echo {number}")).await;
        assert_eq!(said.unwrap(), format!("{number}\n"));
        log.rotate(&mut site.runtime, &id).await.unwrap();
    }
    let stdout = site.passes(&id, "out").await;
    let stderr = site.passes(&id, "err").await;
    let peak = site.peak(&id);
    pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    log.take(|text| reader.read(text)).unwrap();
    // What the container knows to be printed is there: it is the pipe that slows it down.
    assert!(reader.stdout.passes >= stdout && reader.stderr.passes >= stderr);
    assert!(peak < MOST_MEMORY, "{peak} KiB");
}
