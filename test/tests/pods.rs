//! Pods: namespaces, files, sysctls, idempotence.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use corten_proto::cri::{self, NamespaceMode, PodSandboxState};
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tonic::Code;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

fn with_pid(mut config: cri::PodSandboxConfig, pid: NamespaceMode) -> cri::PodSandboxConfig {
    let context = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.namespace_options.as_mut().unwrap().pid = pid.into();
    config
}

fn container_with_pid(name: &str, pid: NamespaceMode, target: &str) -> cri::ContainerConfig {
    let mut config = pod::container(name, "sleep 1000");
    let context = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    let options = context.namespace_options.as_mut().unwrap();
    options.pid = pid.into();
    options.target_id = target.into();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_has_an_init_that_reaps() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let pod_id = pod::run_pod(
        &mut runtime,
        &with_pid(pod::pod("shared"), NamespaceMode::Pod),
    )
    .await
    .unwrap();
    let one = pod::run(
        &mut runtime,
        &pod_id,
        &container_with_pid("one", NamespaceMode::Pod, ""),
    )
    .await
    .unwrap();
    pod::run(
        &mut runtime,
        &pod_id,
        &container_with_pid("two", NamespaceMode::Pod, ""),
    )
    .await
    .unwrap();

    let sleeps = pod::output(&mut runtime, &one, "ps | grep -c '[s]leep 1000'")
        .await
        .unwrap();
    assert_eq!(sleeps.trim(), "2");
    // Process 1 tells nothing of the node.
    let told = "cat /proc/1/cmdline; ps -o pid,args | grep '^ *1 '";
    let told = pod::output(&mut runtime, &one, told).await.unwrap();
    let (line, listed) = told.split_once('\0').unwrap();
    assert_eq!((line, listed.trim()), ("corten-pod", "1 corten-pod"));
    // The orphan's parent is the pod's init, and nothing of it stays.
    pod::output(&mut runtime, &one, "(sleep 0.1 &) ; sleep 0.5")
        .await
        .unwrap();
    let zombies = pod::output(&mut runtime, &one, "ps -o stat | grep -c Z || true")
        .await
        .unwrap();
    assert_eq!(zombies.trim(), "0");
    pod::output(&mut runtime, &one, "kill -9 1 || true; kill 1 || true; ps")
        .await
        .unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_seen_by_the_one_that_joins_it() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("target"))
        .await
        .unwrap();
    let target = pod::run(
        &mut runtime,
        &pod_id,
        &pod::container("target", "exec sleep 1234"),
    )
    .await
    .unwrap();
    let debug = container_with_pid("debug", NamespaceMode::Target, &target);
    let debug = pod::run(&mut runtime, &pod_id, &debug).await.unwrap();
    assert!(
        pod::output(&mut runtime, &debug, "ps")
            .await
            .unwrap()
            .contains("sleep 1234")
    );
    // By the word of its shim alone, which knows its init by more than a number.
    let shims = format!("pgrep -f '^corten-shim container {target}'");
    let shim = node.shell(&shims).unwrap();
    let signal = |name| {
        node.shell(&format!("kill -{name} {}", shim.trim()))
            .unwrap()
    };
    signal("STOP");
    let late = container_with_pid("late", NamespaceMode::Target, &target);
    let error = pod::create(&mut runtime, &pod_id, &late).await.unwrap_err();
    assert!(error.message().contains("PID namespace"), "{error:#}");
    signal("CONT");
    let late = pod::run(&mut runtime, &pod_id, &late).await.unwrap();
    let seen = pod::output(&mut runtime, &late, "ps").await.unwrap();
    assert!(seen.contains("sleep 1234"), "{seen}");
    let pin = node.state().join("containers").join(&late);
    let pin = format!(
        "grep -c {}/target-pids /proc/self/mountinfo || true",
        pin.display()
    );
    assert_eq!(node.shell(&pin).unwrap(), "1\n");
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    assert_eq!(node.shell(&pin).unwrap(), "0\n");
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("other"))
        .await
        .unwrap();
    let wrong = container_with_pid("wrong", NamespaceMode::Target, "0000");
    let error = pod::create(&mut runtime, &pod_id, &wrong)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("target_id"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn host_namespaces_are_the_hosts() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let mut config = with_pid(pod::host_network_pod("host"), NamespaceMode::Node);
    let context = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.namespace_options.as_mut().unwrap().ipc = NamespaceMode::Node.into();
    config.hostname = String::new();
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let mut container = container_with_pid("host", NamespaceMode::Node, "");
    let options = container
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options
        .as_mut()
        .unwrap();
    options.network = NamespaceMode::Node.into();
    options.ipc = NamespaceMode::Node.into();
    let id = pod::run(&mut runtime, &pod_id, &container).await.unwrap();
    for name in ["net", "ipc", "uts", "pid"] {
        let path = format!("/proc/self/ns/{name}");
        let inside = pod::output(&mut runtime, &id, &format!("readlink {path}"))
            .await
            .unwrap();
        assert_eq!(inside, node.shell(&format!("readlink {path}")).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_brings_its_files_and_sysctls() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let mut config = pod::pod("files");
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.10.10.10".into()],
        searches: vec!["example.com".into()],
        options: vec!["ndots:8".into()],
    });
    config.linux.as_mut().unwrap().sysctls = BTreeMap::from([
        ("kernel.shm_rmid_forced".into(), "1".into()),
        ("fs.mqueue.msg_max".into(), "100".into()),
    ]);
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let id = pod::run(
        &mut runtime,
        &pod_id,
        &pod::container("files", "sleep 1000"),
    )
    .await
    .unwrap();

    let resolv = pod::output(&mut runtime, &id, "cat /etc/resolv.conf")
        .await
        .unwrap();
    let mut lines: Vec<_> = resolv.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "nameserver 10.10.10.10",
            "options ndots:8",
            "search example.com"
        ]
    );
    let hosts = pod::output(&mut runtime, &id, "cat /etc/hosts")
        .await
        .unwrap();
    assert!(
        hosts.contains("127.0.0.1") && hosts.contains("localhost") && hosts.contains("files"),
        "{hosts}"
    );
    assert_eq!(
        pod::output(&mut runtime, &id, "cat /etc/hostname")
            .await
            .unwrap(),
        "files\n"
    );
    let sysctls = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(
        pod::output(&mut runtime, &id, sysctls).await.unwrap(),
        "1\n100\n0\n"
    );
    let shm = pod::output(&mut runtime, &id, "grep ' /dev/shm ' /proc/mounts")
        .await
        .unwrap();
    assert!(shm.contains("tmpfs") && shm.contains("65536k"), "{shm}");
    let mounts = pod::output(&mut runtime, &id, "cat /proc/mounts")
        .await
        .unwrap();
    for path in [
        "/proc",
        "/sys",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys/fs/cgroup",
    ] {
        assert!(mounts.contains(&format!(" {path} ")), "{path}: {mounts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_read_only_when_asked_and_sources_are_made() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let data = node.dir().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "content").unwrap();
    std::os::unix::fs::symlink(&data, node.dir().join("link")).unwrap();
    let mount = |source: &str, target: &str, readonly| cri::Mount {
        host_path: node.dir().join(source).display().to_string(),
        container_path: target.into(),
        readonly,
        ..Default::default()
    };
    let mut config = pod::container("mounts", "sleep 1000");
    config.mounts = vec![
        mount("data", "/ro", true),
        mount("link", "/rw", false),
        mount("data/file", "/one/file", false),
        mount("missing/dir", "/made", false),
    ];
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("mounts"))
        .await
        .unwrap();
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    assert_eq!(
        pod::output(&mut runtime, &id, "cat /ro/file /rw/file /one/file")
            .await
            .unwrap(),
        "contentcontentcontent"
    );
    let refused = pod::exec(&mut runtime, &id, "touch /ro/new").await.unwrap();
    assert!(
        refused.exit_code != 0 && String::from_utf8_lossy(&refused.stderr).contains("Read-only")
    );
    pod::output(&mut runtime, &id, "touch /rw/new /made/new")
        .await
        .unwrap();
    assert!(data.join("new").exists() && node.dir().join("missing/dir/new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_remove_are_idempotent_and_ids_may_be_short() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("again"))
        .await
        .unwrap();
    let id = pod::run(
        &mut runtime,
        &pod_id,
        &pod::container("again", "sleep 1000"),
    )
    .await
    .unwrap();
    assert_eq!(pod::status(&mut runtime, &id[..13]).await.unwrap().id, id);
    for _ in 0..2 {
        pod::stop(&mut runtime, &id, 0).await.unwrap();
    }
    for _ in 0..2 {
        runtime
            .remove_container(cri::RemoveContainerRequest {
                container_id: id.clone(),
            })
            .await
            .unwrap();
    }
    for _ in 0..2 {
        runtime
            .stop_pod_sandbox(cri::StopPodSandboxRequest {
                pod_sandbox_id: pod_id.clone(),
            })
            .await
            .unwrap();
    }
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod_id.clone(),
        verbose: false,
    };
    let status = runtime
        .pod_sandbox_status(request.clone())
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    let refused = pod::create(&mut runtime, &pod_id, &pod::container("late", "true"))
        .await
        .unwrap_err();
    assert!(format!("{refused:#}").contains("not ready"), "{refused:#}");
    for _ in 0..2 {
        runtime
            .remove_pod_sandbox(cri::RemovePodSandboxRequest {
                pod_sandbox_id: pod_id.clone(),
            })
            .await
            .unwrap();
    }
    assert_eq!(
        runtime
            .pod_sandbox_status(request)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    for id in ["", "nothing"] {
        pod::stop(&mut runtime, id, 0).await.unwrap();
        pod::remove_pod(&mut runtime, id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_pod_takes_running_containers_with_it() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("with")).await.unwrap();
    pod::run(&mut runtime, &pod_id, &pod::container("runs", "sleep 1000"))
        .await
        .unwrap();
    pod::create(
        &mut runtime,
        &pod_id,
        &pod::container("created", "sleep 1000"),
    )
    .await
    .unwrap();
    runtime
        .remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod_id,
        })
        .await
        .unwrap();
    assert_eq!(pod::containers(&mut runtime).await.unwrap(), []);
    Leftovers::settle(&node, &before).await.unwrap();
}
