//! Stops of what cannot hear them, commands in it, and logs whose place is gone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use corten_proto::cri::{self, ContainerState};
use corten_test::{leftovers::Leftovers, pod, wait::until};
use tonic::Code;

use crate::site::{Site, container};

/// The file that freezes the processes of a cgroup, and what is written to it.
struct Freezer {
    file: PathBuf,
    words: [&'static str; 2],
}

impl Freezer {
    /// Of `below` in the container's cgroup.
    async fn of(site: &mut Site, id: &str, below: &str) -> Self {
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let reply = site.runtime.container_status(request).await.unwrap();
        let info = reply.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let cgroup = info["cgroup"].as_str().unwrap().trim_start_matches('/');
        let v1 = Path::new("/sys/fs/cgroup/freezer");
        let (top, file, words) = if v1.exists() {
            (v1, "freezer.state", ["FROZEN", "THAWED"])
        } else {
            (Path::new("/sys/fs/cgroup"), "cgroup.freeze", ["1", "0"])
        };
        let file = top.join(cgroup).join(below).join(file);
        Self { file, words }
    }

    fn freeze(&self) {
        fs::write(&self.file, self.words[0]).unwrap();
    }

    fn thaw(&self) {
        fs::write(&self.file, self.words[1]).unwrap();
    }
}

async fn has_been_killed(site: &mut Site, id: &str) {
    let status = pod::status(&mut site.runtime, id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 137);
}

/// In the first freezer there is, a cgroup with a frozen process; further ones in every hierarchy.
const NESTING: &str = "cd /sys/fs/cgroup; for each in . *; do mkdir -p $each/inner/deep; done 2>/dev/null; \
                       sleep 1000 & if [ -d freezer ]; then cd freezer/inner/deep; state=freezer.state; word=FROZEN; \
                       else cd inner/deep; state=cgroup.freeze; word=1; fi; \
                       echo $! >cgroup.procs && echo $word >$state && echo ready; while :; do sleep 1; done";

/// runc 2105, moby 35643: a container that has frozen processes of its own, as a paused container in Docker in Docker is,
/// could not be killed. moby 12985: cgroups that a container had made in its own were left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_frozen_cgroups_of_its_own_is_stopped_and_removed() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let mut config = container("nesting", NESTING);
    pod::security(&mut config).privileged = true;
    let id = site.run(&config).await;
    site.ready(&config).await;
    let inner = Freezer::of(&mut site, &id, "inner/deep").await;
    let stopped = pod::stop(&mut site.runtime, &id, 0).await;
    if stopped.is_err() {
        // The node could not end, either.
        inner.thaw();
    }
    stopped.unwrap();
    has_been_killed(&mut site, &id).await;
    site.remove(&id).await.unwrap();
    Leftovers::settle(&site.node, &before).await.unwrap();
}

/// runc 3134: a container whose own cgroup is frozen could not be killed on cgroup v1. runc 2753: an exec that was begun in a
/// frozen cgroup hung, and what waited for it.
///
/// Rule: the command's time is over when it is, and what is left of it never runs; no other call waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_frozen_container_times_out_and_the_container_can_be_stopped() {
    let mut site = Site::new().await;
    let id = site.run(&container("frozen", "sleep 1000")).await;
    let freezer = Freezer::of(&mut site, &id, "").await;
    freezer.freeze();
    let late = site.exec(&id, &["touch", "/late"], 1).await.unwrap_err();
    let status = pod::status(&mut site.runtime, &id).await;
    // The node of a test that fails could not end before.
    freezer.thaw();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("took longer than 1s"), "{late}");
    assert_eq!(status.unwrap().state(), ContainerState::ContainerRunning);
    assert_eq!(
        site.output(&id, "ls /late 2>&1 || true").await,
        "ls: /late: No such file or directory\n"
    );
    freezer.freeze();
    let stopped = pod::stop(&mut site.runtime, &id, 0).await;
    if stopped.is_err() {
        freezer.thaw();
    }
    stopped.unwrap();
    has_been_killed(&mut site, &id).await;
    site.remove(&id).await.unwrap();
}

/// kubernetes 84298: a grace of more than 292 years became negative, and was none, or never ended. An exec's time likewise.
#[tokio::test(flavor = "multi_thread")]
async fn a_grace_may_be_as_long_as_the_field_allows() {
    let mut site = Site::new().await;
    let script = "trap 'sleep 0.3; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    for (number, grace) in [i64::MAX, i64::MAX / 1_000_000_000 + 1]
        .into_iter()
        .enumerate()
    {
        let config = container(&format!("grace-{number}"), script);
        let id = site.run(&config).await;
        site.ready(&config).await;
        let done = site.exec(&id, &["sh", "-c", "sleep 0.3; echo done"], grace);
        assert_eq!(done.await.unwrap().stdout, b"done\n");
        pod::stop(&mut site.runtime, &id, grace).await.unwrap();
        let status = pod::status(&mut site.runtime, &id).await.unwrap();
        assert_eq!(status.exit_code, 7, "{status:?}");
    }
}

/// containerd 6477: the stop of a container that was not started was ignored, and it ran when it was started later.
/// cri-o 453 and 2273: what a start of a stopped container answers.
///
/// Rule: it is exited then, and its start, command, attachment and log are refused by its state.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_stopped_before_its_start_never_runs() {
    let mut site = Site::new().await;
    let volume = site.node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut config = container("early", "touch /volume/it-ran");
    config.mounts = vec![pod::mount(&volume, "/volume")];
    let id = site.create(&config).await.unwrap();
    for (state, stops) in [("created", true), ("exited", false)] {
        let mut refused = vec![site.exec(&id, &["true"], 10).await.unwrap_err()];
        let container_id = id.clone();
        let request = cri::AttachRequest {
            container_id: id.clone(),
            stdout: true,
            ..Default::default()
        };
        refused.push(site.runtime.attach(request).await.unwrap_err());
        let request = cri::ReopenContainerLogRequest { container_id };
        refused.push(
            site.runtime
                .reopen_container_log(request)
                .await
                .unwrap_err(),
        );
        if stops {
            pod::stop(&mut site.runtime, &id, 1000).await.unwrap();
        } else {
            refused.push(pod::start(&mut site.runtime, &id).await.unwrap_err());
        }
        for refused in refused {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(
                refused.message().contains(&format!("is {state}: ")),
                "{refused}"
            );
        }
    }
    has_been_killed(&mut site, &id).await;
    assert!(!volume.join("it-ran").exists());
}

/// containerd 4863, cri-o 3062 and 9470: a log whose directory is missing failed the start, or stopped the container's output.
///
/// Rule: the directory is made, at the creation and when a log goes on in a new file.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_a_log_is_made_whenever_it_is_missing() {
    let mut site = Site::new().await;
    let mut config = container("log", "while :; do echo line; sleep 0.05; done");
    config.log_path = "missing/too/0.log".into();
    let id = site.run(&config).await;
    let top = site.node.dir().join("logs/missing");
    let file = top.join("too/0.log");
    let has_lines = || async {
        let text = fs::read_to_string(&file)?;
        anyhow::ensure!(text.contains("stdout F line\n"), "{text}");
        Ok(())
    };
    until(has_lines).await.unwrap();
    fs::remove_dir_all(&top).unwrap();
    let request = cri::ReopenContainerLogRequest { container_id: id };
    site.runtime.reopen_container_log(request).await.unwrap();
    until(has_lines).await.unwrap();
}
