//! On cgroup v2 with systemd: a container opens the devices that it was given and no others, whatever systemd does, with
//! either cgroup driver; and containers and execs are no units of systemd's.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::ensure;
use corten_proto::cri;
use corten_test::{
    pod::{self, Runtime},
    vm,
    wait::until,
};

/// Opens its device until it cannot, and counts.
const USER: &str = "n=0; while for try in 1 2 3 4 5 6 7 8; do : < /dev/fuse || exit 1; done; do
    n=$((n + 1)); echo $n > /count; done";
/// Times that systemd reads its units anew and goes through all of their cgroups. Each would take a device away.
const RELOADS: u32 = 5;

#[test]
fn devices_hold_in_a_machine_with_systemd() {
    vm::run(&[]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_systemd_takes_no_device_away_with_cgroupfs() {
    if vm::is_here() {
        check("cgroupfs", "", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_systemd_takes_no_device_away_with_systemd() {
    if vm::is_here() {
        check("systemd", "/vmtest.slice", &["scope", "slice"]).await;
    }
}

/// With this cgroup driver, for which the first pod in this parent adds one unit of each of these kinds.
async fn check(driver: &str, parent: &str, kinds: &[&str]) {
    vm::shell("modprobe fuse").unwrap();
    let config = format!("cgroup_driver = \"{driver}\"\n");
    let mut runtime = vm::start_corten(&config).await.unwrap();
    vm::load_busybox().unwrap();
    let without = units();
    let mut config = pod::host_network_pod("devices");
    config.linux.get_or_insert_default().cgroup_parent = parent.into();
    let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
    let plain = pod::run(&mut runtime, &pod, &pod::container("plain", "sleep 1000"))
        .await
        .unwrap();
    let with_pod = units();
    let mut config = pod::container("user", USER);
    config.devices = vec![cri::Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: "r".into(),
    }];
    let user = pod::run(&mut runtime, &pod, &config).await.unwrap();

    rules_hold(&mut runtime, &pod, &plain, &user).await;
    for _ in 0..RELOADS {
        let before = count(&runtime, &user, 0).await;
        vm::shell("systemctl daemon-reload").unwrap();
        // Not the round that the reload fell into.
        count(&runtime, &user, before + 2).await;
    }
    refused(&mut runtime, &plain, "mknod /node c 10 229 && : < /node").await;

    assert_eq!(units(), with_pod, "containers or execs are units");
    let added = with_pod.lines().filter(|unit| !without.contains(unit));
    let mut added: Vec<_> = added.filter_map(|unit| unit.rsplit('.').next()).collect();
    added.sort_unstable();
    assert_eq!(added, kinds, "{with_pod}");
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
    vm::shell("systemctl stop corten").unwrap();
}

async fn rules_hold(runtime: &mut Runtime, pod: &str, plain: &str, user: &str) {
    open(runtime, user, ": < /dev/fuse").await;
    open(runtime, plain, ": < /dev/zero").await;
    refused(runtime, user, ": > /dev/fuse").await;
    for (container, node) in [(plain, "c 10 229"), (user, "c 1 1"), (user, "b 254 0")] {
        let script = format!("mknod /node {node} && : < /node");
        refused(runtime, container, &script).await;
        open(runtime, container, "rm /node").await;
    }
    // The program itself is under the rules, too, not only what joins it.
    let itself = "mknod /node c 1 1 && { true < /node || exit 3; }";
    let itself = pod::run(runtime, pod, &pod::container("itself", itself))
        .await
        .unwrap();
    let status = pod::exited(runtime, &itself).await.unwrap();
    assert_eq!(status.exit_code, 3, "{status:?}");
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

/// How many rounds it has opened its device for, when they are so many.
async fn count(runtime: &Runtime, container: &str, enough: u64) -> u64 {
    until(|| async {
        let text = pod::output(&mut runtime.clone(), container, "cat /count").await?;
        let count = text.trim().parse()?;
        ensure!(count >= enough, "it is still at {count}");
        anyhow::Ok(count)
    })
    .await
    .unwrap()
}

/// The names of systemd's units that hold processes.
fn units() -> String {
    let list = "systemctl list-units --all --plain --no-legend --type service,scope,slice | cut -d ' ' -f 1";
    vm::shell(list).unwrap()
}
