//! On cgroup v2 with systemd: a container opens the devices that it was given and no others, whatever systemd does.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::{Result, ensure};
use corten_proto::cri;
use corten_test::{
    pod::{self, Runtime},
    vm,
    wait::until,
};

/// Opens its device until it cannot, and counts.
const USER: &str = "while true < /dev/fuse; do echo >> /count; sleep 0.2; done; exit 1";

#[test]
fn devices_hold_in_a_machine_with_systemd() {
    vm::run(&[]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_device_stays_allowed_and_no_other_is() {
    if !vm::is_here() {
        return;
    }
    vm::shell("modprobe fuse").unwrap();
    let mut runtime = vm::start_corten("").await.unwrap();
    vm::load_busybox().unwrap();
    let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("devices"))
        .await
        .unwrap();
    let units = units();
    let plain = pod::run(&mut runtime, &pod, &pod::container("plain", "sleep 1000"))
        .await
        .unwrap();
    let mut config = pod::container("user", USER);
    config.devices = vec![cri::Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: "r".into(),
    }];
    let user = pod::run(&mut runtime, &pod, &config).await.unwrap();

    open(&mut runtime, &user, ": < /dev/fuse").await;
    open(&mut runtime, &plain, ": < /dev/zero").await;
    refused(&mut runtime, &user, ": > /dev/fuse").await;
    for (container, node) in [(&plain, "c 10 229"), (&user, "c 1 1"), (&user, "b 254 0")] {
        let script = format!("mknod /node {node} && : < /node");
        refused(&mut runtime, container, &script).await;
        open(&mut runtime, container, "rm /node").await;
    }
    // The program itself is under the rules, too, not only what joins it.
    let itself = "mknod /node c 1 1 && { true < /node || exit 3; }";
    let itself = pod::run(&mut runtime, &pod, &pod::container("itself", itself))
        .await
        .unwrap();
    let status = pod::exited(&runtime, &itself).await.unwrap();
    assert_eq!(status.exit_code, 3, "{status:?}");

    for _ in 0..10 {
        vm::shell("systemctl daemon-reload").unwrap();
    }
    let before = count(&mut runtime.clone(), &user).await.unwrap();
    vm::shell("systemctl daemon-reload").unwrap();
    until(|| async {
        let now = count(&mut runtime.clone(), &user).await?;
        ensure!(now > before + 1, "it is still at {now}");
        Ok(())
    })
    .await
    .unwrap();
    refused(&mut runtime, &plain, "mknod /node c 10 229 && : < /node").await;
    assert_eq!(
        units,
        self::units(),
        "systemd has units of containers or execs"
    );
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
}

async fn open(runtime: &mut Runtime, container: &str, script: &str) {
    pod::output(runtime, container, script).await.unwrap();
}

async fn refused(runtime: &mut Runtime, container: &str, script: &str) {
    let done = pod::exec(runtime, container, script).await.unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.exit_code != 0 && error.contains("Operation not permitted"),
        "{script}: {} {error}",
        done.exit_code
    );
}

/// How often it has opened its device.
async fn count(runtime: &mut Runtime, container: &str) -> Result<u64> {
    Ok(pod::output(runtime, container, "wc -l < /count")
        .await?
        .trim()
        .parse()?)
}

/// The names of systemd's units that hold processes.
fn units() -> String {
    let list = "systemctl list-units --all --plain --no-legend --type service,scope,slice | cut -d ' ' -f 1";
    vm::shell(list).unwrap()
}
