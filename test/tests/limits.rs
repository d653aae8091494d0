//! Limits that a container is created with.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path};

use corten_proto::cri::{self, LinuxContainerResources as Resources};
use corten_test::{image, node::Node, pod};
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
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.clone(),
            config: Some(limited("bad", resources)),
            sandbox_config: None,
        };
        let error = runtime.create_container(request).await.unwrap_err();
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
    let config = limited("v2", unified("memory.high", "67108864"));
    if !is_v2() {
        let error = pod::create(&mut runtime, &pod_id, &config)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("cgroup v2"), "{error:#}");
        return println!("SKIP unified files: this host has v1, too");
    }
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    assert_eq!(read(&mut runtime, &id, "memory.high").await, "67108864");
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
    assert_eq!(status.resources.unwrap().linux.unwrap(), both);
}
