//! Limits that a container is created with.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path};

use corten_proto::cri::{self, LinuxContainerResources as Resources};
use corten_test::{image, leftovers, node::Node, pod, vm, wait::until};
use tonic::Code;

const MIB: i64 = 1 << 20;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

fn limited(name: &str, resources: Resources) -> cri::ContainerConfig {
    let mut config = pod::container(name, "sleep 1000");
    *pod::resources(&mut config) = resources;
    config
}

fn unified(file: &str, value: &str) -> Resources {
    Resources {
        unified: BTreeMap::from([(file.into(), value.into())]),
        ..Default::default()
    }
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of the container's cgroup, on a host that has v2 alone.
async fn read(runtime: &mut pod::Runtime, id: &str, file: &str) -> String {
    let request = cri::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let reply = runtime.container_status(request).await.unwrap();
    let info = reply.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let cgroup = info["cgroup"].as_str().unwrap();
    let path = format!("/sys/fs/cgroup{cgroup}/{file}");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_parent_is_taken_from_the_root() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let base = format!("corten-test-relative-{}", std::process::id());
    let mut config = pod::pod("relative");
    config.linux.as_mut().unwrap().cgroup_parent = format!("{base}/poduid-relative");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let id = pod::run(&mut runtime, &pod_id, &pod::container("c", "sleep 1000"))
        .await
        .unwrap();
    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let reply = runtime.container_status(request).await.unwrap();
    let info: serde_json::Value = serde_json::from_str(&reply.into_inner().info["info"]).unwrap();
    let want = format!("/{base}/poduid-relative/{id}");
    assert_eq!(info["cgroup"], want.as_str());
    // As the kernel has it, in every hierarchy.
    let seen = node
        .shell(&format!("cat /proc/{}/cgroup", info["pid"]))
        .unwrap();
    assert!(seen.lines().any(|line| line.ends_with(&want)), "{seen}");
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    config.linux.as_mut().unwrap().cgroup_parent = "kubepods.slice".into();
    let refused = pod::run_pod(&mut runtime, &config).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("cgroup driver"), "{refused}");
    leftovers::remove_cgroups(&base);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_cannot_be_are_refused_by_field() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("bad")).await.unwrap();
    let memory = |limit, swap| Resources {
        memory_limit_in_bytes: limit,
        memory_swap_limit_in_bytes: swap,
        ..Default::default()
    };
    let field = "config.linux.resources";
    for (resources, words) in [
        (
            unified("../memory.high", "1"),
            ["unified[\"../memory.high\"]", "not a file of a controller"],
        ),
        (
            unified("memory/high", "1"),
            ["unified[\"memory/high\"]", "not a file of a controller"],
        ),
        (
            unified("memory..high", "1"),
            ["unified[\"memory..high\"]", "not a file of a controller"],
        ),
        (
            unified("cgroup.procs", "1"),
            ["unified[\"cgroup.procs\"]", "not a file of a controller"],
        ),
        (
            memory(64 * MIB, 32 * MIB),
            ["memory_swap_limit_in_bytes", "less than the memory limit"],
        ),
        (
            memory(100_000, 0),
            [
                "memory_limit_in_bytes",
                "too few for any process: want 524288 or more",
            ],
        ),
    ] {
        let created = pod::create(&mut runtime, &pod_id, &limited("bad", resources)).await;
        let error = created.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let want = format!("{field}.{}", words[0]);
        assert!(error.message().starts_with(&want), "{error}");
        assert!(error.message().contains(words[1]), "{error}");
    }
    assert!(pod::containers(&mut runtime).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unified_files_are_written_and_changed_on_v2() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("v2")).await.unwrap();
    let mut asked = unified("memory.high", "67108864");
    asked.unified.insert("pids.max".into(), "20".into());
    let config = limited("v2", asked);
    if !is_v2() {
        let error = pod::create(&mut runtime, &pod_id, &config)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("cgroup v2"), "{error:#}");
        return println!("SKIP unified files: this host has v1, too");
    }
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    assert_eq!(read(&mut runtime, &id, "memory.high").await, "67108864");
    assert_eq!(read(&mut runtime, &id, "pids.max").await, "20");
    let asked = runtime.clone();
    let update = |linux: Resources| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            ..Default::default()
        };
        let mut runtime = asked.clone();
        async move { runtime.update_container_resources(request).await.map(drop) }
    };
    let both = Resources {
        cpu_shares: 512,
        ..unified("memory.high", "33554432")
    };
    update(both.clone()).await.unwrap();
    assert_eq!(read(&mut runtime, &id, "memory.high").await, "33554432");
    assert_eq!(read(&mut runtime, &id, "cpu.weight").await, "59");

    let cpus = read(&mut runtime, &id, "cpuset.cpus.effective").await;
    // The last to be written fails, and all before it are set back.
    let bad = Resources {
        cpu_quota: 20_000,
        cpu_shares: 1024,
        cpuset_cpus: "0".into(),
        memory_limit_in_bytes: 64 * MIB,
        ..unified("memory.low", "much")
    };
    let error = update(bad).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("unified[\"memory.low\"]: write \"much\""),
        "{error}"
    );
    for (file, want) in [
        ("memory.high", "33554432"),
        ("memory.max", "max"),
        ("cpu.weight", "59"),
        ("cpu.max", "max 100000"),
        ("cpuset.cpus.effective", &cpus),
    ] {
        assert_eq!(read(&mut runtime, &id, file).await, want, "{file}");
    }
    let status = pod::status(&mut runtime, &id).await.unwrap();
    // What is not named stays.
    let mut want = both;
    want.unified.insert("pids.max".into(), "20".into());
    assert_eq!(status.resources.unwrap().linux.unwrap(), want);
}

/// A swap file of the machine's, in use while this lives.
struct Swap;

impl Swap {
    fn on() -> Self {
        vm::shell("fallocate -l 256M /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap")
            .unwrap();
        Self
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        vm::shell("swapoff /swap && rm /swap").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_swaps_as_far_as_it_may() {
    if !vm::is_here() {
        return;
    }
    let _swap = Swap::on();
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("swap")).await.unwrap();
    let memory = Resources {
        memory_limit_in_bytes: 32 * MIB,
        ..Default::default()
    };
    let by_field = Resources {
        memory_swap_limit_in_bytes: 96 * MIB,
        ..memory.clone()
    };
    let by_file = Resources {
        memory_limit_in_bytes: 32 * MIB,
        ..unified("memory.swap.max", "67108864")
    };
    let fill = "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=60";
    for (name, resources) in [("field", by_field), ("file", by_file)] {
        let mut config = limited(name, resources);
        config.command[2] = format!("{fill} && touch /whole; sleep 1000");
        let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
        let whole = || async { pod::output(&mut runtime.clone(), &id, "test -e /whole").await };
        until(whole).await.unwrap();
        let max = read(&mut runtime, &id, "memory.swap.max").await;
        assert_eq!(max, (64 * MIB).to_string(), "{name}");
        let request = cri::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let reply = runtime.container_stats(request).await.unwrap();
        let swap = reply.into_inner().stats.unwrap().swap.unwrap();
        let used = swap.swap_usage_bytes.unwrap().value;
        let left = swap.swap_available_bytes.unwrap().value;
        assert!(used >= 28 << 20, "{name}: {used}");
        assert_eq!(used + left, 64 << 20, "{name}");
        // It takes the swap file's room.
        pod::stop(&mut runtime, &id, 0).await.unwrap();
    }

    // Who asks for no swap gets none, whatever the host has.
    let mut config = limited("none", memory);
    config.command[2] = format!("exec {fill}");
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let status = pod::exited(&runtime, &id).await.unwrap();
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    let resources = status.resources.unwrap().linux.unwrap();
    assert_eq!(resources.memory_swap_limit_in_bytes, 32 * MIB);
}
