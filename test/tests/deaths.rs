//! How containers die, and what is told of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri::{self, NamespaceMode, security_profile::ProfileType};
use corten_test::{image, leftovers, node::Node, pod, wait::until};
use tokio::task::JoinSet;
use tonic::Code;

const MIB: i64 = 1 << 20;
const EAT: &str = "dd if=/dev/zero of=/dev/null bs=256M count=1";

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

/// A pod whose containers' inits are not process 1, so that any signal ends them.
async fn pod_without_inits(runtime: &mut pod::Runtime, name: &str) -> String {
    let mut config = pod::pod(name);
    let context = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.namespace_options = Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    pod::run_pod(runtime, &config).await.unwrap()
}

fn without_init(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = pod::container(name, script);
    let options = pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod);
    pod::security(&mut config).namespace_options = Some(options);
    config
}

fn limited(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = without_init(name, script);
    pod::resources(&mut config).memory_limit_in_bytes = 16 * MIB;
    config
}

fn told(status: &cri::ContainerStatus) -> (i32, &str, &str) {
    (
        status.exit_code,
        status.reason.as_str(),
        status.message.as_str(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_that_killed_is_told_with_its_size() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod_without_inits(&mut runtime, "own").await;
    let id = pod::run(
        &mut runtime,
        &pod_id,
        &limited("own", &format!("exec {EAT}")),
    )
    .await
    .unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    let want = "killed by signal 9 (SIGKILL); out of memory: the kernel killed 1 process, since the container's memory \
                limit of 16777216 bytes was reached";
    assert_eq!(told(&status), (137, "OOMKilled", want));

    // By a shell that tells of its child's end.
    let id = pod::run(
        &mut runtime,
        &pod_id,
        &limited("shell", &format!("{EAT}; exit $?")),
    )
    .await
    .unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    assert!(
        status
            .message
            .starts_with("out of memory: the kernel killed 1 process"),
        "{}",
        status.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_above_the_containers_own_is_told_by_its_cgroup() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let base = format!("corten-test-deaths-{}", std::process::id());
    let mut config = pod::pod("above");
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{base}/poduid-above");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let config = pod::container(
        "above",
        &format!("until test -e /go; do sleep 0.1; done; exec {EAT}"),
    );
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    // As the kubelet does; UpdatePodSandboxResources does not limit a pod whose container has no limit.
    let set = format!(
        "for file in /sys/fs/cgroup/{{memory,}}/{base}/poduid-above/memory.{{limit_in_bytes,memsw.limit_in_bytes,max}}; do \
         if test -e $file; then echo 33554432 > $file; fi; done"
    );
    let done = std::process::Command::new("bash")
        .args(["-ec", &set])
        .status()
        .unwrap();
    assert!(done.success());
    pod::output(&mut runtime, &id, "touch /go").await.unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    let want =
        format!("the memory limit of cgroup /{base}/poduid-above, 33554432 bytes, was reached");
    assert!(status.message.contains(&want), "{}", status.message);
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    leftovers::remove_cgroups(&base);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_killed_does_not_make_the_end_one_for_want_of_memory() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod_without_inits(&mut runtime, "child").await;
    let killed =
        "the kernel killed 2 processes, since the container's memory limit of 16777216 bytes";
    let script = format!("{EAT}; {EAT}; touch /ready; exec sleep 1000");
    let id = pod::run(&mut runtime, &pod_id, &limited("term", &script))
        .await
        .unwrap();
    let ready = "until test -e /ready; do sleep 0.1; done";
    pod::output(&mut runtime, &id, ready).await.unwrap();
    pod::stop(&mut runtime, &id, 20).await.unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!((status.exit_code, &*status.reason), (143, "Error"));
    assert!(
        status
            .message
            .starts_with("killed by signal 15 (SIGTERM); "),
        "{}",
        status.message
    );
    assert!(status.message.contains(killed), "{}", status.message);

    // By our own SIGKILL, at once and after a grace.
    for (name, seconds) in [("now", 0), ("late", 1)] {
        let script = format!("trap '' TERM; {EAT}; {EAT}; touch /ready; exec sleep 1000");
        let id = pod::run(&mut runtime, &pod_id, &limited(name, &script))
            .await
            .unwrap();
        pod::output(&mut runtime, &id, ready).await.unwrap();
        pod::stop(&mut runtime, &id, seconds).await.unwrap();
        let status = pod::exited(&runtime, &id).await.unwrap();
        assert_eq!((status.exit_code, &*status.reason), (137, "Error"));
        let told = "killed by signal 9 (SIGKILL): its time to stop was over; ";
        assert!(status.message.starts_with(told), "{}", status.message);
        assert!(status.message.contains(killed), "{}", status.message);
    }

    for (name, code, reason) in [("good", 0, "Completed"), ("bad", 3, "Error")] {
        let script = format!("{EAT}; {EAT}; exit {code}");
        let id = pod::run(&mut runtime, &pod_id, &limited(name, &script))
            .await
            .unwrap();
        let status = pod::exited(&runtime, &id).await.unwrap();
        assert_eq!((status.exit_code, &*status.reason), (code, reason));
        assert!(status.message.contains(killed), "{}", status.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pods_that_run_out_of_memory_at_once_all_tell() {
    const ROUNDS: usize = 10;
    let node = node().await;
    let runtime = node.runtime().await.unwrap();
    let mut pods = JoinSet::new();
    for number in 0..8 {
        let mut runtime = runtime.clone();
        pods.spawn(async move {
            let name = format!("oom-{number}");
            let pod_id = pod::run_pod(&mut runtime, &pod::pod(&name)).await.unwrap();
            for round in 0..ROUNDS {
                let mut config = pod::container(&format!("c{round}"), &format!("exec {EAT}"));
                pod::resources(&mut config).memory_limit_in_bytes = 16 * MIB;
                let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
                let status = pod::exited(&runtime, &id).await.unwrap();
                assert_eq!(
                    (status.exit_code, &*status.reason),
                    (137, "OOMKilled"),
                    "{status:?}"
                );
            }
        });
    }
    pods.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_named_and_plain_ends_are_not_explained() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod_without_inits(&mut runtime, "signals").await;
    for (name, script, want) in [
        (
            "segv",
            "kill -SEGV $$",
            (139, "Error", "killed by signal 11 (SIGSEGV)"),
        ),
        (
            "kill",
            "kill -KILL $$",
            (137, "Error", "killed by signal 9 (SIGKILL)"),
        ),
        (
            "rt",
            "kill -36 $$",
            (164, "Error", "killed by signal 36 (SIGRTMIN+2)"),
        ),
        ("exit", "exit 137", (137, "Error", "")),
        ("none", "exit 0", (0, "Completed", "")),
        ("like", "exit 128", (128, "Error", "")),
    ] {
        let config = without_init(name, script);
        let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        assert_eq!(
            told(&pod::exited(&runtime, &id).await.unwrap()),
            want,
            "{name}"
        );
    }
    let script = "trap '' TERM; touch /ready; while :; do sleep 0.2; done";
    let id = pod::run(&mut runtime, &pod_id, &without_init("deaf", script))
        .await
        .unwrap();
    let ready = "until test -e /ready; do sleep 0.1; done";
    pod::output(&mut runtime, &id, ready).await.unwrap();
    pod::stop(&mut runtime, &id, 1).await.unwrap();
    let want = (
        137,
        "Error",
        "killed by signal 9 (SIGKILL): its time to stop was over",
    );
    assert_eq!(told(&pod::exited(&runtime, &id).await.unwrap()), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_by_seccomp_is_told() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("seccomp"))
        .await
        .unwrap();
    let profile = node.dir().join("no-mkdir.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    fs::write(&profile, rules).unwrap();
    let mut config = pod::container("seccomp", "exec mkdir /new");
    pod::security(&mut config).seccomp = Some(cri::SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: profile.display().to_string(),
    });
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    let want =
        "killed by signal 31 (SIGSYS): a system call that the seccomp profile does not allow";
    assert_eq!(told(&status), (159, "Error", want));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_outlives_the_daemon() {
    let mut node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod_without_inits(&mut runtime, "away").await;
    let script = format!("until test -e /go; do sleep 0.1; done; exec {EAT}");
    let id = pod::run(&mut runtime, &pod_id, &limited("away", &script))
        .await
        .unwrap();
    pod::output(
        &mut runtime,
        &id,
        "(sleep 0.5; touch /go) >/dev/null 2>&1 &",
    )
    .await
    .unwrap();
    node.end_daemon(nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = node.state().join("containers").join(&id).join("exit");
    node.shell_until(&format!("test -e {}", exit.display()))
        .await
        .unwrap();
    node.start_daemon().await.unwrap();
    let runtime = node.runtime().await.unwrap();
    let status = until(|| pod::exited(&runtime, &id)).await.unwrap();
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    assert!(
        status.message.contains("16777216 bytes"),
        "{}",
        status.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_cannot_be_given_are_refused_by_name() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("classes");
    let key = "blockio.resources.beta.kubernetes.io/container.slow";
    config.annotations.insert(key.into(), "lowprio".into());
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let refused = |runtime: &pod::Runtime, config: cri::ContainerConfig| {
        let (mut runtime, pod_id) = (runtime.clone(), pod_id.clone());
        async move {
            let created = pod::create(&mut runtime, &pod_id, &config).await;
            created.unwrap_err()
        }
    };
    let error = refused(&runtime, pod::container("slow", "true")).await;
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error.message().contains(key) && error.message().contains("lowprio"),
        "{error}"
    );
    let mut config = pod::container("other", "true");
    config
        .annotations
        .insert("io.kubernetes.cri.rdt-class".into(), "gold".into());
    let error = refused(&runtime, config).await;
    assert!(error.message().contains("RDT class \"gold\""), "{error}");
    // Another container of the pod has no class.
    pod::create(&mut runtime, &pod_id, &pod::container("third", "true"))
        .await
        .unwrap();
    assert_eq!(pod::containers(&mut runtime).await.unwrap().len(), 1);
}
