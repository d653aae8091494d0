//! The limit of a log's rate: what it leaves out is told in its place, to the byte, and nobody else notices it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri;
use corten_test::{
    flood,
    log::{self, Entry, Rotated},
    node::Node,
    pod,
    streams::{self, Protocol},
    wait::until,
};

/// Bytes per second.
const RATE: u64 = 20_000;
/// Bytes.
const BURST: u64 = 65_536;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let (rate, burst) = (RATE.to_string(), BURST.to_string());
        let options = ["--log-rate-limit", &rate, "--log-rate-burst", &burst];
        let (node, runtime, pod) = streams::site(&options).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, config: &cri::ContainerConfig) -> (String, Rotated) {
        let id = pod::run(&mut self.runtime, &self.pod, config);
        let log = self.node.dir().join("logs").join(&config.log_path);
        (id.await.unwrap(), Rotated::new(log))
    }

    async fn touch(&mut self, id: &str, file: &str) {
        let command = format!("touch /{file}");
        pod::output(&mut self.runtime, id, &command).await.unwrap();
    }
}

/// One stream, of which each byte has to be in the log, or left out by a marker.
struct Stream {
    name: &'static str,
    printed: Vec<u8>,
    at: usize,
    markers: usize,
    /// Lines that end with a marker.
    cut: usize,
}

impl Stream {
    fn new(name: &'static str, printed: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            printed: printed.into(),
            at: 0,
            markers: 0,
            cut: 0,
        }
    }

    /// Reads on in `log`, which may have another stream, too.
    fn read(&mut self, log: &[u8]) -> Result<()> {
        for entry in log::entries(log) {
            let entry = entry?;
            if entry.stream == self.name.as_bytes() {
                self.take(&entry).with_context(|| {
                    let text = &entry.text[..entry.text.len().min(100)];
                    format!("at {}: {:?}", self.at, String::from_utf8_lossy(text))
                })?;
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry<'_>) -> Result<()> {
        let &Entry { text, is_full, .. } = entry;
        let is_within_line = self.at > 0 && self.printed[self.at - 1] != b'\n';
        let rest = &self.printed[self.at..];
        if let Some((lines, bytes)) = marker(text, self.name) {
            let left_out = rest.get(..bytes).context("more than was printed")?;
            let ends = left_out.iter().filter(|byte| **byte == b'\n').count();
            let has_open_end = left_out.last() != Some(&b'\n');
            ensure!(lines == ends + usize::from(has_open_end), "another number");
            self.at += bytes;
            self.markers += 1;
        } else if is_full && is_within_line && text.is_empty() {
            self.cut += 1;
        } else {
            ensure!(rest.starts_with(text), "this was not next");
            self.at += text.len() + usize::from(is_full);
            let is_end = rest.get(text.len()) == Some(&b'\n');
            ensure!(is_end == is_full || self.at == self.printed.len());
        }
        Ok(())
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(self.at, self.printed.len(), "{}", self.name);
        assert!(self.markers > 0, "{}", self.name);
    }
}

/// Lines and bytes that a marker tells of.
fn marker(text: &[u8], stream: &str) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix("corten: ")?;
    let end = format!(" bytes) of {stream} dropped: over the rate limit of {RATE} bytes/s");
    let (lines, bytes) = text.strip_suffix(&end)?.split_once(" (")?;
    let lines = lines.strip_suffix(" lines").or(lines.strip_suffix(" line"));
    Some((lines?.parse().ok()?, bytes.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_flood_is_in_the_log_or_told_by_a_marker() {
    let mut site = Site::new().await;
    flood::load(&site.node).await.unwrap();
    // At the limit this would take an hour.
    let script = "f() { for i in $(seq 20); do cat /numbers; done; printf end; }; f & f >&2 & wait";
    let mut config = pod::container("flood", script);
    config.image.as_mut().unwrap().image = flood::IMAGE.into();
    let began = Instant::now();
    let (id, log) = site.run(&config).await;
    pod::exited(&site.runtime, &id).await.unwrap();
    let text = fs::read(log.log()).unwrap();
    let most = 2 * BURST + RATE * (began.elapsed().as_secs() + 1);
    assert!(
        u64::try_from(text.len()).unwrap() < most,
        "{} bytes",
        text.len()
    );
    let printed = [flood::numbers().repeat(20), b"end".to_vec()].concat();
    for name in ["stdout", "stderr"] {
        let mut stream = Stream::new(name, &*printed);
        stream.read(&text).unwrap();
        stream.assert_whole();
        // All of its lines are shorter than the burst.
        assert_eq!(stream.cut, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_before_a_rotation_is_told_after_it() {
    let mut site = Site::new().await;
    let script = "n=20000; seq $n; touch /flooded; until test -e /go; do sleep 0.02; done; \
        until test -e /stop; do n=$((n+1)); echo $n; sleep 0.02; done; echo $n >/last";
    let (id, mut log) = site.run(&pod::container("rotated", script)).await;
    let flooded = "until test -e /flooded; do sleep 0.01; done";
    pod::output(&mut site.runtime, &id, flooded).await.unwrap();
    log.rotate(&mut site.runtime, &id).await.unwrap();
    site.touch(&id, "go").await;
    until(|| async {
        let text = fs::read(log.log())?;
        let told = log::entries(&text).nth(1).context("nothing came after")?;
        told.map(drop)
    })
    .await
    .unwrap();
    site.touch(&id, "stop").await;
    pod::exited(&site.runtime, &id).await.unwrap();
    let upper = site.node.root().join("containers").join(&id).join("upper");
    let last: u32 = fs::read_to_string(upper.join("last"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let printed: String = (1..=last).map(|number| format!("{number}\n")).collect();
    let mut stream = Stream::new("stdout", printed);
    let mut files = Vec::new();
    log.take(|text| {
        files.push(text.to_vec());
        stream.read(text)
    })
    .unwrap();
    stream.assert_whole();
    let first = log::entries(&files[1]).next().unwrap().unwrap();
    assert!(marker(first.text, "stdout").is_some(), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_cut_and_ended_by_the_marker() {
    let mut site = Site::new().await;
    let script = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo after";
    let (id, log) = site.run(&pod::container("endless", script)).await;
    pod::exited(&site.runtime, &id).await.unwrap();
    let text = fs::read(log.log()).unwrap();
    let mut stream = Stream::new("stdout", "x".repeat(10_000_000) + "\nafter\n");
    stream.read(&text).unwrap();
    stream.assert_whole();
    assert_eq!(stream.cut, 1);
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_client_is_shown_what_the_log_leaves_out() {
    let mut site = Site::new().await;
    let script = "until test -e /go; do echo waiting; sleep 0.05; done; seq 50000";
    let (id, log) = site.run(&pod::container("attached", script)).await;
    let request = cri::AttachRequest {
        container_id: id.clone(),
        stdin: false,
        tty: false,
        stdout: true,
        stderr: false,
    };
    let command = streams::attach(&site.node, &mut site.runtime, request, Protocol::WebSocket);
    let mut client = command.await.unwrap();
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut seen = String::new();
    output.read_line(&mut seen).unwrap();
    site.touch(&id, "go").await;
    output.read_to_string(&mut seen).unwrap();
    client.wait().unwrap();
    pod::exited(&site.runtime, &id).await.unwrap();
    let want: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    assert!(
        seen.replace("waiting\n", "") == want,
        "{} bytes",
        seen.len()
    );
    let text = fs::read_to_string(log.log()).unwrap();
    assert!(text.contains("dropped: over the rate limit"), "{text}");
}
