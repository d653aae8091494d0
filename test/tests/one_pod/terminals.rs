//! What a container has at the place of its terminals, when a command is given one.

use std::sync::Mutex;

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{
    pod,
    streams::{self, Protocol},
    wait::{limit, until},
};
use nix::sys::signal::Signal;

use super::site::{Site, options};

fn on_terminal(container: &str, script: &str) -> cri::ExecRequest {
    cri::ExecRequest {
        tty: true,
        stdin: false,
        stderr: false,
        ..streams::exec_request(container, script)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_server_in_place_of_a_terminal_holds_up_its_own_container_alone() {
    let mut site = Site::new().await;
    let options = options(NamespaceMode::Container, false);
    let pod = site.run_pod("hostile", &options).await;
    let id = site.serve(&pod, &options, "/dev/pts/ptmx").await;
    let mut runtime = site.runtime.clone();
    let request = on_terminal(&id, "echo came");
    let command = streams::exec(&site.node, &mut runtime, request, Protocol::WebSocket).await;
    let client = Mutex::new(command.unwrap().spawn().unwrap());
    let ended = || client.lock().unwrap().try_wait();
    // It has ended, or somebody waits for the server.
    let waits = site.shared.join("waits");
    let asked = || async {
        anyhow::ensure!(waits.exists() || ended()?.is_some(), "neither");
        Ok(())
    };
    until(asked).await.unwrap();
    site.others_live().await;
    let status = ended().unwrap();
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");

    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    site.others_live().await;
    let mut runtime = site.runtime.clone();
    site.soon(pod::remove_pod(&mut runtime, &pod)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_of_the_containers_own_devpts() {
    let site = Site::new().await;
    let options = options(NamespaceMode::Container, false);
    let pod = site.run_pod("own", &options).await;
    let cases = [
        ("none", "true", true),
        (
            "other",
            "mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts",
            true,
        ),
        ("file", "touch /x && mount --bind /x /dev/pts/ptmx", false),
        ("null", "mount --bind /dev/null /dev/pts/ptmx", false),
        (
            "fifo",
            "mount -t tmpfs tmpfs /dev/pts && busybox mkfifo /dev/pts/ptmx",
            false,
        ),
        (
            "node",
            "mount -t tmpfs tmpfs /dev/pts && mknod /dev/pts/ptmx c 5 2",
            false,
        ),
        (
            "link",
            "mount -t tmpfs tmpfs /dev/pts && busybox ln -s /dev/null /dev/pts/ptmx",
            false,
        ),
    ];
    for (name, script, works) in cases {
        let config = site.attacker(name, &options, &["SYS_ADMIN"]);
        let id = site.run(&pod, &config).await;
        let mut runtime = site.runtime.clone();
        pod::output(&mut runtime, &id, script).await.unwrap();
        let request = on_terminal(&id, "tty; echo came");
        let command = streams::exec(&site.node, &mut runtime, request, Protocol::WebSocket)
            .await
            .unwrap();
        let ran = tokio::task::spawn_blocking(|| streams::run(command, b""));
        let ran = tokio::time::timeout(limit(), ran).await;
        let ran = ran.unwrap_or_else(|_| panic!("the session does not end"));
        let ran = ran.unwrap().unwrap();
        let (said, error) = (
            String::from_utf8_lossy(&ran.stdout).into_owned(),
            String::from_utf8_lossy(&ran.stderr).into_owned(),
        );
        if works {
            assert!(
                said.contains("/dev/pts/") && said.contains("came"),
                "{name}: {said} {error}"
            );
        } else {
            assert!(
                !ran.status.success() && !said.contains("came"),
                "{name}: {said}"
            );
            assert!(error.contains("/dev/pts"), "{name}: {error}");
        }
    }
}
