//! The cgroup driver systemd: one delegated scope a pod, whatever happens to daemon, systemd and containers.
//!
//! It needs systemd as process 1 and cgroup v2 alone: the tests run in a virtual machine, on the packaged service.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::{collections::BTreeSet, fs, os::unix::net::UnixListener, path::Path};

use anyhow::ensure;
use corten_proto::cri;
use corten_test::{pod, vm, wait::until};
use tonic::Code;

const CONFIG: &str = "cgroup_driver = \"systemd\"\n";
const PRIVATE: &str = "/run/systemd/private";
const CGROUPS: &str = "/sys/fs/cgroup";

#[test]
fn the_driver_works_in_a_machine_with_systemd() {
    vm::run(&[]).unwrap();
}

/// The host's own daemon.
struct Service {
    runtime: pod::Runtime,
}

impl Service {
    /// A fresh start, with the busybox image.
    async fn start() -> Self {
        let runtime = vm::start_corten(CONFIG).await.unwrap();
        vm::load_busybox().unwrap();
        Self { runtime }
    }

    async fn pod(&mut self, name: &str, parent: &str) -> pod::Reply<String> {
        let mut config = pod::host_network_pod(name);
        config.linux.get_or_insert_default().cgroup_parent = parent.into();
        pod::run_pod(&mut self.runtime, &config).await
    }

    async fn container(&mut self, pod: &str, name: &str) -> pod::Reply<String> {
        let config = pod::container(name, "sleep 100000");
        pod::run(&mut self.runtime, pod, &config).await
    }

    async fn remove(&mut self, pod: &str) {
        pod::remove_pod(&mut self.runtime, pod).await.unwrap();
        let scope = scope(pod);
        until(|| async {
            ensure!(!units().contains(&scope), "{scope} is still there");
            Ok(())
        })
        .await
        .unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = vm::shell("journalctl -u corten -n 60");
            eprintln!("{}", log.unwrap_or_default());
        }
        // What a failed test leaves must not fail the next one.
        let _ = vm::shell("systemctl stop corten");
    }
}

/// The units that systemd has loaded, without what comes and goes by itself.
fn units() -> BTreeSet<String> {
    let list = vm::shell("systemctl list-units --all --plain --no-legend").unwrap();
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| name.ends_with(".scope") || name.ends_with(".slice"))
        .map(Into::into)
        .collect()
}

fn scope(pod: &str) -> String {
    format!("corten-{pod}.scope")
}

/// A process's cgroup.
fn cgroup_of(pid: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.trim().strip_prefix("0::").unwrap().to_owned()
}

fn procs(cgroup: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("{CGROUPS}{cgroup}/cgroup.procs")).unwrap();
    text.lines().map(Into::into).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_one_scope_and_nothing_in_it_has_a_unit() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    let told = service
        .runtime
        .runtime_config(cri::RuntimeConfigRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        told.linux.unwrap().cgroup_driver(),
        cri::CgroupDriver::Systemd
    );

    let parent = "/vmtest.slice/vmtest-burstable.slice/vmtest-burstable-podx.slice";
    let id = service.pod("web", parent).await.unwrap();
    let mut config = pod::container("a", "sleep 100000");
    pod::resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let a = pod::run(&mut service.runtime, &id, &config).await.unwrap();
    let before = units();
    assert!(before.contains(&scope(&id)), "{before:?}");
    let b = service.container(&id, "b").await.unwrap();
    for container in [&a, &b] {
        pod::output(&mut service.runtime, container, "true")
            .await
            .unwrap();
    }
    assert_eq!(units(), before);

    let scope_cgroup = format!("{parent}/{}", scope(&id));
    for container in [&a, &b] {
        let procs = procs(&format!("{scope_cgroup}/{container}"));
        assert_eq!(procs.len(), 1, "{procs:?}");
    }
    assert_eq!(procs(&format!("{scope_cgroup}/shim")).len(), 2);
    assert_eq!(procs(&scope_cgroup), [""; 0]);
    let limit = fs::read_to_string(format!("{CGROUPS}{scope_cgroup}/{a}/memory.max")).unwrap();
    assert_eq!(limit.trim(), (64 << 20).to_string());
    let names = "--property=Delegate,DevicePolicy,TasksMax,Description";
    let properties = vm::shell(&format!("systemctl show {} {names}", scope(&id))).unwrap();
    for line in [
        "Delegate=yes",
        "DevicePolicy=auto",
        "TasksMax=infinity",
        "Description=Pod test/web",
    ] {
        assert!(
            properties.lines().any(|found| found == line),
            "{properties}"
        );
    }
    service.remove(&id).await;
    assert!(!Path::new(CGROUPS).join(&scope_cgroup[1..]).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_is_a_slice_or_a_place_of_ours() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    for parent in ["/kubepods/burstable/podx", "vmtest", "/a.slice/b-c.slice"] {
        let error = service.pod("bad", parent).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(
            error.message().contains("config.linux.cgroup_parent"),
            "{error}"
        );
    }
    let id = service.pod("own", "").await.unwrap();
    let container = service.container(&id, "c").await.unwrap();
    let pid = init_pid(&mut service.runtime, &container).await;
    let instance = fs::read_to_string("/var/lib/corten/instance").unwrap();
    let slice = format!("corten-{}.slice", instance.trim());
    assert_eq!(
        cgroup_of(&pid),
        format!("/corten.slice/{slice}/{}/{container}", scope(&id))
    );
    service.remove(&id).await;
    drop(service);
    assert!(!units().contains(&slice), "{:?}", units());
    let log = vm::shell("journalctl -u corten").unwrap();
    assert!(!log.contains("the slice stays"), "{log}");
}

/// By the shim's own word, in verbose status.
async fn init_pid(runtime: &mut pod::Runtime, container: &str) -> String {
    let done = pod::output(runtime, container, "true").await;
    done.unwrap();
    let file = vm::shell(&format!(
        "find {CGROUPS} -path '*/{container}/cgroup.procs'"
    ))
    .unwrap();
    fs::read_to_string(file.trim()).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_scope_is_gone_gets_a_new_one() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    let id = service.pod("again", "/vmtest.slice").await.unwrap();
    for name in ["first", "second", "third"] {
        let container = service.container(&id, name).await.unwrap();
        let cgroup = format!("/vmtest.slice/{}/{container}", scope(&id));
        assert_eq!(procs(&cgroup).len(), 1);
        // At once, or when systemd has dropped the scope: both have to work.
        pod::stop(&mut service.runtime, &container, 0)
            .await
            .unwrap();
        if name == "second" {
            let scope = scope(&id);
            until(|| async {
                ensure!(!units().contains(&scope), "{scope} is still there");
                Ok(())
            })
            .await
            .unwrap();
        }
    }
    service.remove(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_is_in_the_scope_too() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    let mut config = pod::host_network_pod("shared");
    let linux = config.linux.get_or_insert_default();
    linux.cgroup_parent = "/vmtest.slice".into();
    linux
        .security_context
        .get_or_insert_default()
        .namespace_options = Some(pod::namespaces(
        cri::NamespaceMode::Node,
        cri::NamespaceMode::Pod,
    ));
    let id = pod::run_pod(&mut service.runtime, &config).await.unwrap();
    let shims = format!("/vmtest.slice/{}/shim", scope(&id));
    assert_eq!(procs(&shims).len(), 1);
    service.remove(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_no_scope_without_a_pod() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    let kept = service.pod("kept", "/vmtest.slice").await.unwrap();
    let container = service.container(&kept, "kept").await.unwrap();
    for round in 0..3_u32 {
        let name = format!("round-{round}");
        let pod = service.pod(&name, "/vmtest.slice").await.unwrap();
        let config = pod::container("killed", "sleep 100000");
        let mut runtime = service.runtime.clone();
        let creation =
            tokio::spawn(async move { pod::create(&mut runtime, &pod, &config).await.is_ok() });
        // At another step each time.
        tokio::time::sleep(std::time::Duration::from_millis(40 * u64::from(round))).await;
        vm::shell("systemctl kill --kill-whom=main --signal=KILL corten").unwrap();
        let _ = creation.await;
        vm::shell("systemctl reset-failed corten; systemctl start corten").unwrap();
        service.runtime = vm::runtime().await.unwrap();
    }
    let pods = service
        .runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner();
    // The container has lived through it, and runs commands.
    pod::output(&mut service.runtime, &container, "true")
        .await
        .unwrap();
    for pod in pods.items {
        service.remove(&pod.id).await;
    }
    let left: Vec<_> = units()
        .into_iter()
        .filter(|unit| unit.starts_with("corten-") && unit.ends_with(".scope"))
        .collect();
    assert_eq!(left, [""; 0]);
}

/// A socket of systemd's that is out of the way while this lives.
struct Hidden;

impl Hidden {
    fn new() -> Self {
        fs::rename(PRIVATE, "/run/systemd/private.away").unwrap();
        Self
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        fs::rename("/run/systemd/private.away", PRIVATE).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_that_does_not_answer_is_told_and_holds_up_nobody_else() {
    if !vm::is_here() {
        return;
    }
    let mut service = Service::start().await;
    let there = service.pod("there", "/vmtest.slice").await.unwrap();
    service.container(&there, "a").await.unwrap();
    let waits = service.pod("waits", "/vmtest.slice").await.unwrap();

    // The bus that everybody else uses is not ours.
    vm::shell("systemctl stop dbus.socket dbus.service").unwrap();
    service.container(&there, "b").await.unwrap();

    {
        let _hidden = Hidden::new();
        let error = service.container(&waits, "c").await.unwrap_err();
        for word in [&*scope(&waits), PRIVATE] {
            assert!(error.message().contains(word), "{error}");
        }

        let silent = UnixListener::bind(PRIVATE).unwrap();
        let mut runtime = service.runtime.clone();
        let (pod, config) = (waits.clone(), pod::container("d", "sleep 1000"));
        let waiting = tokio::spawn(async move { pod::create(&mut runtime, &pod, &config).await });
        // Meanwhile others are served, also by a container that a pod adds to its scope.
        let other = service.container(&there, "e").await.unwrap();
        pod::output(&mut service.runtime, &other, "true")
            .await
            .unwrap();
        assert!(!waiting.is_finished());
        let error = waiting.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("has not answered"), "{error}");
        // And a pod can go.
        pod::remove_pod(&mut service.runtime, &there).await.unwrap();
        drop(silent);
        fs::remove_file(PRIVATE).unwrap();
    }
    service.container(&waits, "c").await.unwrap();
    service.remove(&waits).await;
    assert!(!units().contains(&scope(&there)));
}
