//! A container's life: what it sees, what it logs, how it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri::{self, ContainerState};
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tokio::task::JoinSet;
use tonic::Code;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_leaves_nothing() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();

    let pod_id = pod::run_pod(&mut runtime, &pod::pod("life")).await.unwrap();
    let id = pod::create(&mut runtime, &pod_id, &pod::container("one", "sleep 1000"))
        .await
        .unwrap();
    assert_eq!(
        pod::status(&mut runtime, &id).await.unwrap().state(),
        ContainerState::ContainerCreated
    );
    pod::start(&mut runtime, &id).await.unwrap();
    let running = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at && running.created_at > 0);
    pod::stop(&mut runtime, &id, 0).await.unwrap();
    let ended = pod::status(&mut runtime, &id).await.unwrap();
    assert_eq!(
        (ended.state(), ended.exit_code),
        (ContainerState::ContainerExited, 137)
    );
    assert!(ended.finished_at >= ended.started_at);
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();

    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_exact_and_whole_when_the_exit_is_seen() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::logged(&node, pod::pod("logs")))
        .await
        .unwrap();
    let config = pod::container("talker", "echo one; echo two >&2; printf three; exit 7");
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let ended = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"));

    let log = fs::read_to_string(node.dir().join("logs/talker.log")).unwrap();
    let mut lines: Vec<_> = log
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    for (time, _) in &lines {
        assert!(
            time.len() >= 30 && &time[10..11] == "T" && &time[19..20] == ".",
            "{time}"
        );
    }
    lines.sort_by_key(|(_, rest)| *rest);
    let texts: Vec<_> = lines.iter().map(|(_, rest)| *rest).collect();
    assert_eq!(texts, ["stderr F two", "stdout F one", "stdout P three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_split_without_an_empty_end() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::logged(&node, pod::pod("long")))
        .await
        .unwrap();
    let script =
        "head -c 16384 /dev/zero | tr '\\0' a; echo; head -c 16385 /dev/zero | tr '\\0' b; echo";
    let id = pod::run(&mut runtime, &pod_id, &pod::container("long", script))
        .await
        .unwrap();
    pod::exited(&runtime, &id).await.unwrap();

    let log = fs::read_to_string(node.dir().join("logs/long.log")).unwrap();
    let parts: Vec<_> = log
        .lines()
        .map(|line| line.split_once("stdout ").unwrap().1)
        .map(|part| (&part[..1], part.len() - 2))
        .collect();
    assert_eq!(parts, [("F", 16384), ("P", 16384), ("F", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_named_at_start() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("missing"))
        .await
        .unwrap();
    let config = cri::ContainerConfig {
        command: vec!["/bin/nothing".into()],
        ..pod::container("missing", "")
    };
    let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
    let error = runtime
        .start_container(cri::StartContainerRequest {
            container_id: id.clone(),
        })
        .await
        .unwrap_err();
    assert!(
        error.message().contains("/bin/nothing") && error.message().contains("No such file"),
        "{error}"
    );

    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (128, "StartError")
    );
    assert!(
        status.message.contains("/bin/nothing"),
        "{}",
        status.message
    );
    // The name is free again after a removal.
    runtime
        .remove_container(cri::RemoveContainerRequest { container_id: id })
        .await
        .unwrap();
    pod::create(&mut runtime, &pod_id, &config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn image_and_request_are_merged() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("merged"))
        .await
        .unwrap();
    let mut config = pod::container("merged", "sleep 1000");
    config.working_dir = "/made/here".into();
    config.envs = vec![cri::KeyValue {
        key: "FROM_POD".into(),
        value: b"also".to_vec(),
    }];
    let context = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.run_as_username = "app".into();
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();

    let seen = pod::output(
        &mut runtime,
        &id,
        "echo $FROM_IMAGE $FROM_POD $HOME $HOSTNAME; pwd; id; hostname",
    )
    .await
    .unwrap();
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[0], "yes also /home/app merged");
    assert_eq!(lines[1], "/made/here");
    assert!(
        lines[2].starts_with("uid=1000(app) gid=1001(app)") && lines[2].contains("2000(extra)"),
        "{}",
        lines[2]
    );
    assert_eq!(lines[3], "merged");
    let user = pod::status(&mut runtime, &id)
        .await
        .unwrap()
        .user
        .unwrap()
        .linux
        .unwrap();
    assert_eq!((user.uid, user.gid), (1000, 1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_tells_output_code_and_timeout() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("exec")).await.unwrap();
    let id = pod::run(&mut runtime, &pod_id, &pod::container("exec", "sleep 1000"))
        .await
        .unwrap();

    let done = pod::exec(&mut runtime, &id, "echo out; echo err >&2; exit 3")
        .await
        .unwrap();
    assert_eq!(
        (&*done.stdout, &*done.stderr, done.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 3)
    );

    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into(), "998".into()],
        timeout: 1,
    };
    let error = runtime.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let left = pod::output(&mut runtime, &id, "ps | grep -c 'sleep [9]98' || true")
        .await
        .unwrap();
    assert_eq!(left.trim(), "0");

    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["/no/such".into()],
        timeout: 5,
    };
    let error = runtime.exec_sync(request).await.unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");

    pod::stop(&mut runtime, &id, 0).await.unwrap();
    let request = cri::ExecSyncRequest {
        container_id: id,
        cmd: vec!["true".into()],
        timeout: 5,
    };
    assert_eq!(
        runtime.exec_sync(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_into_a_container_that_ends_is_run_or_told_of_the_end() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("ends"))
        .await
        .unwrap();
    for number in 0..20 {
        let config = pod::container(&format!("c{number}"), "sleep 1000");
        let id = pod::run(&mut runtime, &pod, &config).await.unwrap();
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (mut runtime, id) = (runtime.clone(), id.clone());
            // As a probe that comes again and again: the last one finds the end.
            callers.spawn(async move {
                loop {
                    let request = cri::ExecSyncRequest {
                        container_id: id.clone(),
                        cmd: vec!["true".into()],
                        timeout: 20,
                    };
                    if let Err(status) = runtime.exec_sync(request).await {
                        break status;
                    }
                }
            });
        }
        pod::stop(&mut runtime, &id, 0).await.unwrap();
        while let Some(status) = callers.join_next().await {
            let status = status.unwrap();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_out_of_memory_kill_is_told() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("oom")).await.unwrap();
    let mut config = pod::container("oom", "exec dd if=/dev/zero of=/dev/null bs=256M count=1");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled"),
        "{}",
        status.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_at_once_has_all_its_times() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("short"))
        .await
        .unwrap();
    let mut crowd = JoinSet::new();
    for number in 0..120 {
        let (mut runtime, pod_id) = (runtime.clone(), pod_id.clone());
        crowd.spawn(async move {
            let mut config = pod::container(&format!("short-{number}"), "");
            config.command = vec!["/bin/true".into()];
            let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
            let status = pod::exited(&runtime, &id).await.unwrap();
            assert_eq!((status.exit_code, &*status.reason), (0, "Completed"));
            let times = [status.created_at, status.started_at, status.finished_at];
            assert!(times[0] > 0 && times.is_sorted(), "{number}: {times:?}");
        });
    }
    crowd.join_all().await;
}
