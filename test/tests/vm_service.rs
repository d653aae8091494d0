//! The packaged unit: `systemctl restart corten` leaves containers alone, and so does the end of the daemon by a signal.
#![allow(clippy::unwrap_used, reason = "tests")]

use corten_test::{
    pod::{self, Runtime},
    vm,
};

#[test]
fn the_unit_works_in_a_machine_with_a_new_kernel() {
    vm::run(&["--kernel", "backports"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_a_restart_of_the_unit() {
    if !vm::is_here() {
        return;
    }
    let mut runtime = vm::start_corten(vm::NETWORK).await.unwrap();
    vm::load_busybox().unwrap();
    let pod = pod::run_pod(&mut runtime, &pod::pod("service"))
        .await
        .unwrap();
    let container = pod::container("sleeper", "sleep 1000 & echo $! > /pid; wait");
    let container = pod::run(&mut runtime, &pod, &container).await.unwrap();
    let before = life(&mut runtime, &container).await;
    let daemon = daemon();

    vm::shell("systemctl restart corten").unwrap();
    assert_ne!(self::daemon(), daemon, "the daemon did not restart");
    let mut runtime = vm::runtime().await.unwrap();
    assert_eq!(life(&mut runtime, &container).await, before);

    // systemd starts it again.
    vm::shell("systemctl kill --signal KILL --kill-who main corten").unwrap();
    let mut runtime = vm::runtime().await.unwrap();
    assert_eq!(life(&mut runtime, &container).await, before);
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
}

/// When the container was started, and that its process is there.
async fn life(runtime: &mut Runtime, container: &str) -> (i64, i64, String) {
    let status = pod::status(runtime, container).await.unwrap();
    let alive = pod::output(runtime, container, "kill -0 $(cat /pid) && cat /pid").await;
    (status.started_at, status.finished_at, alive.unwrap())
}

fn daemon() -> String {
    vm::shell("systemctl show --property MainPID corten").unwrap()
}
