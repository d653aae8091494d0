//! What containers and pods use.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use corten_proto::cri;
use corten_test::{image, leftovers, node::Node, pod, wait::until};
use tonic::Code;

const MIB: u64 = 1 << 20;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

fn value(value: &Option<cri::UInt64Value>) -> u64 {
    value.as_ref().unwrap().value
}

async fn of_container(runtime: &mut pod::Runtime, id: &str) -> cri::ContainerStats {
    let request = cri::ContainerStatsRequest {
        container_id: id.into(),
    };
    let reply = runtime.container_stats(request).await.unwrap();
    reply.into_inner().stats.unwrap()
}

async fn of_pod(runtime: &mut pod::Runtime, id: &str) -> cri::LinuxPodSandboxStats {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.into(),
    };
    let reply = runtime.pod_sandbox_stats(request).await.unwrap();
    reply.into_inner().stats.unwrap().linux.unwrap()
}

fn ids(stats: &[cri::ContainerStats]) -> BTreeSet<String> {
    let ids = stats
        .iter()
        .map(|one| one.attributes.as_ref().unwrap().id.clone());
    ids.collect()
}

async fn list(runtime: &mut pod::Runtime, filter: cri::ContainerStatsFilter) -> BTreeSet<String> {
    let request = cri::ListContainerStatsRequest {
        filter: Some(filter),
    };
    ids(&runtime
        .list_container_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats)
}

/// The directory of the memory controller's cgroup, on either version.
fn memory_cgroup(path: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let v1 = root.join("memory");
    let root = if v1.exists() { v1 } else { root.into() };
    root.join(path.trim_start_matches('/'))
}

async fn cgroup_of(runtime: &mut pod::Runtime, id: &str) -> String {
    let request = cri::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let info = runtime
        .container_status(request)
        .await
        .unwrap()
        .into_inner()
        .info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    info["cgroup"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_is_there_from_the_first_moment() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("first"))
        .await
        .unwrap();
    let mut config = pod::container(
        "first",
        "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=20; sleep 1000",
    );
    config.labels = labels(&[("app", "web")]);
    pod::resources(&mut config).memory_limit_in_bytes = 64 << 20;
    pod::resources(&mut config).memory_swap_limit_in_bytes = 80 << 20;
    let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
    // One that is created and not started has a cgroup, and its init is in it.
    assert!(
        value(
            &of_container(&mut runtime, &id)
                .await
                .memory
                .unwrap()
                .usage_bytes
        ) > 0
    );
    pod::start(&mut runtime, &id).await.unwrap();

    let stats = of_container(&mut runtime, &id).await;
    let attributes = stats.attributes.unwrap();
    assert_eq!(
        (attributes.id, attributes.labels),
        (id.clone(), config.labels.clone())
    );
    assert_eq!(attributes.metadata, config.metadata);
    let (cpu, io, layer) = (
        stats.cpu.unwrap(),
        stats.io.unwrap(),
        stats.writable_layer.unwrap(),
    );
    for timestamp in [
        cpu.timestamp,
        io.timestamp,
        layer.timestamp,
        stats.memory.unwrap().timestamp,
    ] {
        assert!(timestamp > 1_700_000_000_000_000_000, "{timestamp}");
    }
    assert!(value(&cpu.usage_core_nano_seconds) > 0 && value(&cpu.usage_nano_cores) > 0);
    assert!(value(&layer.inodes_used) > 0);
    assert_eq!(
        layer.fs_id.unwrap().mountpoint,
        node.root().display().to_string()
    );

    let memory = until(|| async {
        let memory = of_container(&mut runtime.clone(), &id)
            .await
            .memory
            .unwrap();
        let used = value(&memory.usage_bytes);
        if used >= 20 * MIB {
            Ok(memory)
        } else {
            Err(used)
        }
    });
    let memory = memory.await.unwrap();
    let working_set = value(&memory.working_set_bytes);
    assert!(working_set >= 20 * MIB && working_set <= value(&memory.usage_bytes));
    assert_eq!(value(&memory.available_bytes), 64 * MIB - working_set);
    assert!(value(&memory.rss_bytes) > 0 && value(&memory.rss_bytes) < working_set);
    assert!(value(&memory.page_faults) > 0);
    assert!(memory.major_page_faults.is_some());
    if let Some(swap) = of_container(&mut runtime, &id).await.swap {
        let used = value(&swap.swap_usage_bytes);
        assert_eq!(value(&swap.swap_available_bytes), 16 * MIB - used);
    } else {
        println!("SKIP swap: this kernel does not count it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pressure_is_told_where_the_kernel_has_it() {
    if !Path::new("/proc/pressure/cpu").exists() {
        return println!("SKIP pressure: this kernel does not count it");
    }
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("psi")).await.unwrap();
    // More at once than there are CPUs, held back by a quota.
    let script = "for i in 1 2 3 4; do while :; do :; done & done; wait";
    let mut config = pod::container("psi", script);
    pod::resources(&mut config).cpu_quota = 20_000;
    pod::resources(&mut config).cpu_period = 100_000;
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let stalled = until(|| async {
        let stats = of_container(&mut runtime.clone(), &id).await;
        let psi = stats.cpu.unwrap().psi.ok_or("no cpu.psi".to_owned())?;
        let (memory, io) = (stats.memory.unwrap().psi, stats.io.unwrap().psi);
        assert!(
            memory.is_some_and(|psi| psi.full.is_some())
                && io.is_some_and(|psi| psi.some.is_some())
        );
        let some = psi.some.unwrap();
        if some.total > 100_000_000 {
            Ok(some)
        } else {
            Err(format!("{some:?}"))
        }
    });
    stalled.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_rate_is_that_of_the_last_window() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("cpu")).await.unwrap();
    let script = "while ! test -e /stop; do :; done; sleep 1000";
    let mut config = pod::container("busy", script);
    // A tenth of a CPU, whatever else the machine does.
    pod::resources(&mut config).cpu_quota = 10_000;
    pod::resources(&mut config).cpu_period = 100_000;
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let asked = runtime.clone();
    let rate_is = |from: u64, to: u64| {
        let (runtime, id) = (asked.clone(), id.clone());
        async move {
            until(|| async {
                let cpu = of_container(&mut runtime.clone(), &id).await.cpu.unwrap();
                let rate = value(&cpu.usage_nano_cores);
                if (from..to).contains(&rate) {
                    Ok(cpu)
                } else {
                    Err(rate)
                }
            })
            .await
        }
    };
    let busy = rate_is(20_000_000, 200_000_000).await.unwrap();
    let pod = of_pod(&mut runtime, &pod_id).await.cpu.unwrap();
    assert!(value(&pod.usage_core_nano_seconds) >= value(&busy.usage_core_nano_seconds));
    assert!(value(&pod.usage_nano_cores) > 0);
    pod::output(&mut runtime, &id, "touch /stop").await.unwrap();
    let idle = rate_is(0, 2_000_000).await.unwrap();
    assert!(value(&idle.usage_core_nano_seconds) >= value(&busy.usage_core_nano_seconds));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writable_layer_is_what_the_container_has_written() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("layer"))
        .await
        .unwrap();
    let id = pod::run(
        &mut runtime,
        &pod_id,
        &pod::container("layer", "sleep 1000"),
    )
    .await
    .unwrap();
    let before = of_container(&mut runtime, &id)
        .await
        .writable_layer
        .unwrap();
    let script = "mkdir /d && for i in $(seq 50); do echo > /d/$i; done; ln -s / /d/root; \
                  dd if=/dev/urandom of=/big bs=1M count=8; sync";
    pod::output(&mut runtime, &id, script).await.unwrap();
    let grown = until(|| async {
        let layer = of_container(&mut runtime.clone(), &id)
            .await
            .writable_layer
            .unwrap();
        if layer.timestamp > before.timestamp {
            Ok(layer)
        } else {
            Err(layer)
        }
    });
    let grown = grown.await.unwrap();
    assert_eq!(value(&grown.inodes_used) - value(&before.inodes_used), 53);
    let bytes = value(&grown.used_bytes) - value(&before.used_bytes);
    assert!((8 * MIB..9 * MIB).contains(&bytes), "{bytes}");
}

/// Two pods with two containers each: the pod's and the container's id.
async fn two_pods(runtime: &mut pod::Runtime) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (tier, names) in [("front", ["a", "b"]), ("back", ["c", "d"])] {
        let mut config = pod::pod(tier);
        config.labels = labels(&[("tier", tier)]);
        let pod_id = pod::run_pod(runtime, &config).await.unwrap();
        for name in names {
            let mut config = pod::container(name, "sleep 1000");
            config.labels = labels(&[("name", name), ("app", "x")]);
            let id = pod::run(runtime, &pod_id, &config).await.unwrap();
            all.push((pod_id.clone(), id));
        }
    }
    all
}

fn set(all: &[(String, String)], indices: &[usize]) -> BTreeSet<String> {
    indices.iter().map(|index| all[*index].1.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_filter_names_must_fit() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let all = two_pods(&mut runtime).await;
    let by = |id: &str, pod: &str, pairs: &[(&str, &str)]| cri::ContainerStatsFilter {
        id: id.into(),
        pod_sandbox_id: pod.into(),
        label_selector: labels(pairs),
    };
    let (first_pod, first) = (all[0].0.as_str(), all[0].1.as_str());
    for (filter, want) in [
        (by("", "", &[]), &[0, 1, 2, 3][..]),
        (by(first, "", &[]), &[0]),
        (by(&first[..13], first_pod, &[("app", "x")]), &[0]),
        (by("", first_pod, &[]), &[0, 1]),
        (by("", "", &[("name", "c"), ("app", "x")]), &[2]),
        (by("", first_pod, &[("name", "c")]), &[]),
        (by(first, "", &[("name", "b")]), &[]),
        (by("no-such", "", &[]), &[]),
    ] {
        let found = list(&mut runtime, filter.clone()).await;
        assert_eq!(found, set(&all, want), "{filter:?}");
    }
    let mut stream = runtime
        .stream_container_stats(cri::StreamContainerStatsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut streamed = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        assert!(!message.container_stats.is_empty());
        streamed.extend(message.container_stats);
    }
    assert_eq!(ids(&streamed), set(&all, &[0, 1, 2, 3]));
    assert_eq!(streamed.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_left_out_and_takes_no_other_along() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let all = two_pods(&mut runtime).await;
    let first = all[0].1.as_str();
    pod::stop(&mut runtime, first, 0).await.unwrap();
    let everything = cri::ContainerStatsFilter::default();
    let found = list(&mut runtime, everything.clone()).await;
    assert_eq!(found, set(&all, &[1, 2, 3]));
    for (id, code) in [
        (first, Code::FailedPrecondition),
        ("no-such", Code::NotFound),
    ] {
        let request = cri::ContainerStatsRequest {
            container_id: id.into(),
        };
        let error = runtime.container_stats(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }

    let cgroup = memory_cgroup(&cgroup_of(&mut runtime, &all[1].1).await);
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    for pid in procs.lines() {
        // Of v2's cgroups, only the root has both processes and children with controllers.
        fs::write(memory_cgroup("/cgroup.procs"), pid).unwrap();
    }
    fs::remove_dir(&cgroup).unwrap();
    assert_eq!(list(&mut runtime, everything).await, set(&all, &[2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_listed_with_their_containers_until_they_are_stopped() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let all = two_pods(&mut runtime).await;
    let by_labels = |pairs: &[(&str, &str)]| cri::ListPodSandboxStatsRequest {
        filter: Some(cri::PodSandboxStatsFilter {
            id: String::new(),
            label_selector: labels(pairs),
        }),
    };
    let request = by_labels(&[("tier", "back")]);
    let reply = runtime.list_pod_sandbox_stats(request).await.unwrap();
    let stats = reply.into_inner().stats;
    assert_eq!(stats.len(), 1);
    let linux = stats[0].linux.as_ref().unwrap();
    assert_eq!(stats[0].attributes.as_ref().unwrap().id, all[2].0);
    assert_eq!(ids(&linux.containers), set(&all, &[2, 3]));
    assert_eq!(value(&linux.process.as_ref().unwrap().process_count), 2);

    let stopped = all[0].0.as_str();
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: stopped.into(),
    };
    runtime.stop_pod_sandbox(request).await.unwrap();
    let mut stream = runtime
        .stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.pod_sandbox_stats.len(), 1);
    assert!(stream.message().await.unwrap().is_none());
    for (id, code) in [
        (stopped, Code::FailedPrecondition),
        ("no-such", Code::NotFound),
    ] {
        let request = cri::PodSandboxStatsRequest {
            pod_sandbox_id: id.into(),
        };
        let error = runtime.pod_sandbox_stats(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_network_is_counted_in_its_namespace() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("net")).await.unwrap();
    let host = pod::host_network_pod("host");
    let host_id = pod::run_pod(&mut runtime, &host).await.unwrap();
    let id = pod::run(&mut runtime, &pod_id, &pod::container("net", "sleep 1000"))
        .await
        .unwrap();
    node.shell("ip -n $(ls /run/netns) link add extra type bridge")
        .unwrap();
    let script = "ping -c 3 -i 0.2 -s 1000 $(ip route | awk '/default/{print $3}') >/dev/null; \
                  cat /sys/class/net/eth0/statistics/tx_bytes";
    let sent: u64 = pod::output(&mut runtime, &id, script)
        .await
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(sent > 3000, "{sent}");
    let network = of_pod(&mut runtime, &pod_id).await.network.unwrap();
    let eth0 = network.default_interface.unwrap();
    assert_eq!(eth0.name, "eth0");
    assert!(value(&eth0.tx_bytes) >= sent && value(&eth0.tx_bytes) < sent + 3000);
    assert!(value(&eth0.rx_bytes) > 3000);
    assert_eq!((value(&eth0.rx_errors), value(&eth0.tx_errors)), (0, 0));
    let others: Vec<_> = network
        .interfaces
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(others, ["extra"]);
    assert!(network.timestamp > 0);
    assert_eq!(of_pod(&mut runtime, &host_id).await.network, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_cgroup_of_its_own_has_that_ones_figures() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let base = format!("corten-test-stats-{}", std::process::id());
    let mut config = pod::pod("own");
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{base}/poduid-own");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let script = "i=0; while test $i -lt 200000; do i=$((i+1)); done";
    let ended = pod::run(&mut runtime, &pod_id, &pod::container("ended", script))
        .await
        .unwrap();
    pod::exited(&runtime, &ended).await.unwrap();
    // The shell becomes the second sleep.
    let script = "sleep 1000 & sleep 1000";
    let id = pod::run(&mut runtime, &pod_id, &pod::container("stays", script))
        .await
        .unwrap();
    let counted = until(|| async {
        let stats = of_pod(&mut runtime.clone(), &pod_id).await;
        let count = value(&stats.process.as_ref().unwrap().process_count);
        if count == 2 { Ok(stats) } else { Err(count) }
    });
    let stats = counted.await.unwrap();
    assert_eq!(ids(&stats.containers), BTreeSet::from([id]));
    // What the ended container has used is still the pod's.
    let own = value(
        &stats.containers[0]
            .cpu
            .as_ref()
            .unwrap()
            .usage_core_nano_seconds,
    );
    let pod = value(&stats.cpu.unwrap().usage_core_nano_seconds);
    assert!(pod > own + 20_000_000, "{pod} {own}");
    assert!(value(&stats.memory.unwrap().usage_bytes) > 0);
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    leftovers::remove_cgroups(&base);
}
