//! What a pod's other namespaces are in a user namespace, and what becomes of it when the daemon is killed.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use nix::sys::signal::Signal;

use crate::site::{Site, add_capabilities, options, told, with_users};

#[tokio::test(flavor = "multi_thread")]
async fn containers_may_share_a_pid_namespace() {
    let mut config = pod::pod("shared");
    options(&mut config).pid = NamespaceMode::Pod.into();
    let mut site = Site::of(config).await;
    let share = |config: &mut cri::ContainerConfig| {
        let options = pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod);
        pod::security(config).namespace_options = Some(options);
        add_capabilities(config, &["SYS_PTRACE", "SYS_ADMIN", "KILL"]);
    };
    let one = site.run("one", share).await;
    let two = site.run("two", share).await;
    assert_eq!(
        site.output(&one, "ps | grep -c '[s]leep 1000$'")
            .await
            .trim(),
        "2"
    );
    let init = site
        .output(&two, "grep -E '^(Name|Uid|CapEff|CapBnd)' /proc/1/status")
        .await;
    let none = "0".repeat(16);
    let want = format!("Name:\tcorten-pod\nUid:\t0\t0\t0\t0\nCapEff:\t{none}\nCapBnd:\t{none}\n");
    assert_eq!(init, want);
    // The init is the shim's binary: nothing of it, and nothing of the host through it, can be reached.
    for script in [
        "readlink /proc/1/exe",
        "cat /proc/1/exe > /dev/null",
        "ls /proc/1/fd/",
        "ls /proc/1/root/",
        "ls /proc/1/cwd/",
        "cat /proc/1/mem",
    ] {
        site.refused(&one, script).await;
    }
    let init = site.output(&one, "kill -9 1; cat /proc/1/comm").await;
    assert_eq!(init, "corten-pod\n");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_on_the_hosts_network() {
    let mut site = Site::of(pod::host_network_pod("host")).await;
    let id = site
        .run("host", |config| {
            add_capabilities(config, &["NET_ADMIN", "SYS_ADMIN"])
        })
        .await;
    let seen = site
        .output(&id, "ls /sys/class/net/ && ls /proc/self && cat /etc/hosts")
        .await;
    assert!(seen.contains("lo\n"), "{seen}");
    // Root there has no right over the host's network.
    site.refused(&id, "ip address add 10.99.99.99/32 dev lo")
        .await;
    site.refused(&id, "touch /sys/x").await;
    site.refused(&id, "mount -o remount,rw /sys").await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_are_those_of_the_pod() {
    let mut config = pod::pod("sysctls");
    let sysctls = [
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.msgmax", "4096"),
        ("fs.mqueue.msg_max", "20"),
        ("net.ipv4.tcp_keepalive_time", "77"),
        ("net.ipv4.ping_group_range", "0 100"),
    ];
    let sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    config.linux.as_mut().unwrap().sysctls = sysctls.into();
    let mut site = Site::of(config).await;
    let id = site.run("sysctls", |_| {}).await;
    let script = "cd /proc/sys; cat kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max net/ipv4/tcp_keepalive_time \
                  net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start; hostname";
    let seen = site.output(&id, script).await;
    let seen: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(seen, ["1", "4096", "20", "77", "0", "100", "0", "sysctls"]);

    let mut bad = with_users(pod::pod("bad"));
    let value = [("net.ipv4.ping_group_range".to_owned(), "0 70000".to_owned())];
    bad.linux.as_mut().unwrap().sysctls = value.into();
    let (_, text) = told(&pod::run_pod(&mut site.runtime, &bad).await.unwrap_err());
    assert!(
        text.contains("ping_group_range") && text.contains("0 70000"),
        "{text}"
    );
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_that_there_are_user_namespaces() {
    let node = Node::start().await.unwrap();
    let request = cri::StatusRequest { verbose: true };
    let status = node
        .runtime()
        .await
        .unwrap()
        .status(request)
        .await
        .unwrap()
        .into_inner();
    let default = status
        .runtime_handlers
        .iter()
        .find(|handler| handler.name.is_empty())
        .unwrap();
    assert!(default.features.unwrap().user_namespaces);
    assert!(status.features.unwrap().user_namespaces_host_network);
    let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(
        config["stateDir"].as_str().unwrap(),
        node.state().display().to_string()
    );
    assert!(!node.root().join("probe").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn such_pods_survive_a_killed_daemon() {
    let mut site = Site::new().await;
    let one = site.run("one", |_| {}).await;
    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    let map = "cat /proc/self/uid_map; id -u";
    let seen = site.output(&one, map).await;
    // A container that is made afterwards has the same ids.
    let two = site.run("two", |_| {}).await;
    assert_eq!(site.output(&two, map).await, seen);
    assert_eq!(
        site.output(&two, "readlink /proc/self/ns/user").await,
        site.output(&one, "readlink /proc/self/ns/user").await
    );
    pod::stop(&mut site.runtime, &one, 0).await.unwrap();
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_nothing() {
    let mut node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    for step in 0..12 {
        let mut runtime = node.runtime().await.unwrap();
        let flow = tokio::spawn(async move {
            let mut config = with_users(pod::pod("cut"));
            options(&mut config).pid = NamespaceMode::Pod.into();
            let pod_id = pod::run_pod(&mut runtime, &config).await?;
            pod::run(&mut runtime, &pod_id, &pod::container("cut", "sleep 1000")).await
        });
        tokio::time::sleep(Duration::from_micros(step * 1100)).await;
        node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = flow.await;
        node.start_daemon().await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let pods = runtime
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await
            .unwrap();
        for pod in pods.into_inner().items {
            pod::remove_pod(&mut runtime, &pod.id).await.unwrap();
        }
        Leftovers::settle(&node, &before).await.unwrap();
    }
}

/// As directories of mktemp are.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_root_alone_may_enter_is_enough() {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    fs::create_dir(node.root()).unwrap();
    fs::set_permissions(node.root(), fs::Permissions::from_mode(0o700)).unwrap();
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = with_users(pod::host_network_pod("closed"));
    let id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let container = pod::container("closed", "sleep 1000");
    let container = pod::run(&mut runtime, &id, &container).await.unwrap();
    let script = "touch /made && stat -c %u /made /bin/sh";
    let owners = pod::output(&mut runtime, &container, script).await;
    assert_eq!(owners.unwrap(), "0\n0\n");
    let mode = fs::metadata(node.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}
