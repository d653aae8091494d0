//! A short churn with the seeds of always; `cargo xtask churn` has the long form.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, time::Duration};

use corten_test::churn::{Options, run};

fn options(seed: u64) -> Options {
    Options {
        seed,
        duration: Duration::from_secs(15),
        clients: 6,
        daemon_kills: 16,
        shim_kills: 0,
        plugin_kills: 0,
        output: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("churn-{seed}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_clients_race_while_the_daemon_is_killed_and_nothing_is_left() {
    run(&options(12)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_shims_and_plugins_leave_nothing_either() {
    let options = Options {
        shim_kills: 40,
        plugin_kills: 20,
        ..options(13)
    };
    run(&options).await.unwrap();
}
