//! What programs write: into logs, through terminals, as answers of exec.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri;
use corten_test::{image, log, node::Node, pod};

/// Both streams of one ExecSync: what clients take, less the rest of the message.
const MAX_OUTPUT: usize = (16 << 20) - (64 << 10);

async fn site() -> (Node, pod::Runtime, String) {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::host_network_pod("output"));
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    (node, runtime, pod_id)
}

/// Runs the container to its end and returns its log.
async fn log(
    node: &Node,
    runtime: &mut pod::Runtime,
    pod_id: &str,
    config: &cri::ContainerConfig,
) -> Vec<u8> {
    let id = pod::run(runtime, pod_id, config).await.unwrap();
    let status = pod::exited(runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 0, "{}", status.message);
    assert_eq!(
        status.log_path,
        node.dir()
            .join("logs")
            .join(&config.log_path)
            .to_str()
            .unwrap()
    );
    fs::read(status.log_path).unwrap()
}

/// The lines without their times.
fn lines(log: &[u8]) -> Vec<&[u8]> {
    log::entries(log).map(|entry| entry.unwrap().rest).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_hold_any_bytes() {
    let (node, mut runtime, pod_id) = site().await;
    let config = pod::container("bytes", r"printf 'a\000b\377\r\n\n  \n\nend'");
    let log = log(&node, &mut runtime, &pod_id, &config).await;
    let want: [&[u8]; 5] = [
        b"stdout F a\0b\xff\r",
        b"stdout F ",
        b"stdout F   ",
        b"stdout F ",
        b"stdout P end",
    ];
    assert_eq!(lines(&log), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_is_logged_whole_and_in_order() {
    let (node, mut runtime, pod_id) = site().await;
    let config = pod::container("much", "seq 200000");
    let log = log(&node, &mut runtime, &pod_id, &config).await;
    let lines = lines(&log);
    assert_eq!(lines.len(), 200_000);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("stdout F {}", number + 1).as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_one_stream_with_its_line_ends() {
    let (node, mut runtime, pod_id) = site().await;
    let mut config = pod::container(
        "tty",
        "test -t 0 && test -t 1 && test -t 2; echo $? $TERM; echo err >&2",
    );
    config.tty = true;
    let log = log(&node, &mut runtime, &pod_id, &config).await;
    let want: [&[u8]; 2] = [b"stdout F 0 xterm\r", b"stdout F err\r"];
    assert_eq!(lines(&log), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_path_nothing_is_logged_and_nothing_blocks() {
    let (node, mut runtime, pod_id) = site().await;
    let mut config = pod::container("silent", "seq 200000; echo err >&2");
    config.log_path = String::new();
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    assert_eq!(pod::exited(&runtime, &id).await.unwrap().exit_code, 0);
    assert_eq!(fs::read_dir(node.dir().join("logs")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_cut_where_clients_would_refuse_it() {
    let (_node, mut runtime, pod_id) = site().await;
    let config = pod::container("loud", "sleep 1000");
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let script = "head -c 12000000 /dev/zero & head -c 12000000 /dev/zero >&2; wait; exit 9";
    let done = pod::exec(&mut runtime, &id, script).await.unwrap();
    assert_eq!(done.exit_code, 9);
    assert_eq!(done.stdout.len() + done.stderr.len(), MAX_OUTPUT);
    // A program of the background that holds the pipes keeps nobody.
    let done = pod::exec(&mut runtime, &id, "sleep 1000 & echo said")
        .await
        .unwrap();
    assert_eq!((done.exit_code, &*done.stdout), (0, &b"said\n"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_no_input_unless_asked_for() {
    let (node, mut runtime, pod_id) = site().await;
    let config = pod::container("input", "cat; echo $?; readlink /proc/self/fd/0");
    let log = log(&node, &mut runtime, &pod_id, &config).await;
    let want: [&[u8]; 2] = [b"stdout F 0", b"stdout F /dev/null"];
    assert_eq!(lines(&log), want);
}
