//! New limits for containers and pods that are there already.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use corten_proto::cri::{self, LinuxContainerResources as Resources};
use corten_test::{image, leftovers, node::Node, pod};
use nix::sys::signal::Signal;
use tonic::Code;

const MIB: i64 = 1 << 20;

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

async fn update(
    runtime: &mut pod::Runtime,
    id: &str,
    linux: &Resources,
) -> Result<(), tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux.clone()),
        ..Default::default()
    };
    runtime.update_container_resources(request).await.map(drop)
}

async fn limits(runtime: &mut pod::Runtime, id: &str) -> Resources {
    let status = pod::status(runtime, id).await.unwrap();
    status.resources.unwrap().linux.unwrap()
}

/// Where a container's cgroup is, and how to read it on either version.
struct Cgroup(String);

impl Cgroup {
    async fn of(runtime: &mut pod::Runtime, id: &str) -> Self {
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let reply = runtime.container_status(request).await.unwrap();
        let info = reply.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        Self(info["cgroup"].as_str().unwrap().to_owned())
    }

    fn is_v2() -> bool {
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    fn path(&self, controller: &str, file: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let root = match controller {
            _ if Self::is_v2() => root.into(),
            // Of the controllers that a host with both versions may have in v2.
            "hugetlb" if !root.join(controller).exists() => root.join("unified"),
            _ => root.join(controller),
        };
        root.join(self.0.trim_start_matches('/')).join(file)
    }

    /// `files` are those of v1 and of v2.
    fn read(&self, controller: &str, files: [&str; 2]) -> String {
        let path = self.path(controller, files[usize::from(Self::is_v2())]);
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// Period and quota.
    fn bandwidth(&self) -> (String, String) {
        if Self::is_v2() {
            let max = self.read("cpu", ["", "cpu.max"]);
            let (quota, period) = max.split_once(' ').unwrap();
            return (period.into(), quota.into());
        }
        let read = |file| self.read("cpu", [file, ""]);
        (read("cpu.cfs_period_us"), read("cpu.cfs_quota_us"))
    }

    fn shares(&self) -> String {
        self.read("cpu", ["cpu.shares", "cpu.weight"])
    }

    fn memory(&self) -> String {
        self.read("memory", ["memory.limit_in_bytes", "memory.max"])
    }

    /// Of memory and swap together; `None` where the kernel does not count it.
    fn swap(&self) -> Option<i64> {
        let files = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
        if !self
            .path("memory", files[usize::from(Self::is_v2())])
            .exists()
        {
            return None;
        }
        let limit: i64 = self.read("memory", files).parse().unwrap();
        let memory: i64 = self.memory().parse().unwrap();
        Some(if Self::is_v2() { limit + memory } else { limit })
    }
}

fn everything() -> Resources {
    Resources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 2048,
        memory_limit_in_bytes: 96 * MIB,
        memory_swap_limit_in_bytes: 128 * MIB,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: "2MB".into(),
            limit: 4 << 20,
        }],
        oom_score_adj: 321,
        ..Default::default()
    }
}

#[expect(clippy::print_stdout, reason = "a test that cannot run says so")]
/// Whether the cgroup has all of [`everything`].
fn check_everything(cgroup: &Cgroup) {
    assert_eq!(cgroup.bandwidth(), ("50000".into(), "20000".into()));
    let shares = if Cgroup::is_v2() { "174" } else { "2048" };
    assert_eq!(cgroup.shares(), shares);
    assert_eq!(cgroup.memory(), (96 * MIB).to_string());
    match cgroup.swap() {
        Some(both) => assert_eq!(both, 128 * MIB),
        None => println!("SKIP swap: the kernel does not count it"),
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        assert_eq!(cgroup.read("cpuset", [file; 2]), "0");
    }
    for kind in ["", "rsvd."] {
        let files = [
            format!("hugetlb.2MB.{kind}limit_in_bytes"),
            format!("hugetlb.2MB.{kind}max"),
        ];
        let paths = files.map(|file| cgroup.path("hugetlb", &file));
        match paths.iter().find(|path| path.exists()) {
            Some(path) => assert_eq!(fs::read_to_string(path).unwrap().trim(), "4194304"),
            None if Cgroup::is_v2() => panic!("{} is not there", paths[1].display()),
            None => println!("SKIP huge pages: {} is not there", paths[0].display()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_resized_and_read_back_from_the_cgroup() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("all")).await.unwrap();
    let mut config = pod::container("all", "sleep 1000 & wait");
    *pod::resources(&mut config) = Resources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let cgroup = Cgroup::of(&mut runtime, &id).await;
    assert_eq!(
        limits(&mut runtime, &id).await.memory_swap_limit_in_bytes,
        64 * MIB
    );

    update(&mut runtime, &id, &everything()).await.unwrap();
    check_everything(&cgroup);
    assert_eq!(limits(&mut runtime, &id).await, everything());
    // Of the processes that are there, and of one to come.
    let script = "cat /proc/[0-9]*/oom_score_adj | grep -vx 321 || cat /proc/self/oom_score_adj";
    assert_eq!(
        pod::output(&mut runtime, &id, script).await.unwrap(),
        "321\n"
    );

    // What is not named stays.
    let one = Resources {
        cpu_shares: 1024,
        ..Default::default()
    };
    update(&mut runtime, &id, &one).await.unwrap();
    let shares = if Cgroup::is_v2() { "100" } else { "1024" };
    assert_eq!(cgroup.shares(), shares);
    let want = Resources {
        cpu_shares: 1024,
        ..everything()
    };
    assert_eq!(limits(&mut runtime, &id).await, want);
    update(&mut runtime, &id, &everything()).await.unwrap();
    check_everything(&cgroup);

    // A host that does not allow less than 0 says so in the log, and no more.
    let protected = Resources {
        oom_score_adj: -500,
        ..Default::default()
    };
    update(&mut runtime, &id, &protected).await.unwrap();
    let script = "cat /proc/1/oom_score_adj";
    let score = pod::output(&mut runtime, &id, script).await.unwrap();
    let clamped = node.log().contains("oom_score_adj -500 is not allowed");
    assert_eq!(score.trim() != "-500", clamped, "{score}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_grows_and_shrinks_in_an_order_that_the_kernel_takes() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("mem")).await.unwrap();
    let script = "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=20; touch /ready; sleep 1000";
    let mut config = pod::container("mem", script);
    pod::resources(&mut config).memory_limit_in_bytes = 64 * MIB;
    let id = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    let cgroup = Cgroup::of(&mut runtime, &id).await;
    let ready = "until test -e /ready; do sleep 0.1; done";
    pod::output(&mut runtime, &id, ready).await.unwrap();
    for size in [256, 48, 128] {
        let asked = Resources {
            memory_limit_in_bytes: size * MIB,
            ..Default::default()
        };
        update(&mut runtime, &id, &asked).await.unwrap();
        assert_eq!(cgroup.memory(), (size * MIB).to_string());
        // It may not swap, before as after.
        assert!(cgroup.swap().is_none_or(|both| both == size * MIB));
        assert_eq!(
            limits(&mut runtime, &id).await.memory_swap_limit_in_bytes,
            size * MIB
        );
    }
    let asked = Resources {
        memory_limit_in_bytes: 8 * MIB,
        ..Default::default()
    };
    let error = update(&mut runtime, &id, &asked).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("memory_limit_in_bytes"), "{error}");
    assert!(error.message().contains("in use"), "{error}");
    assert_eq!(cgroup.memory(), (128 * MIB).to_string());
    pod::output(&mut runtime, &id, "test -e /dev/shm/ballast")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_fails_leaves_all_as_they_were() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("undo")).await.unwrap();
    let id = pod::run(&mut runtime, &pod_id, &pod::container("undo", "sleep 1000"))
        .await
        .unwrap();
    let cgroup = Cgroup::of(&mut runtime, &id).await;
    update(&mut runtime, &id, &everything()).await.unwrap();
    let asked = Resources {
        cpu_period: 100_000,
        cpu_quota: 10_000,
        cpu_shares: 64,
        memory_limit_in_bytes: 32 * MIB,
        // No machine has it.
        cpuset_cpus: "65000".into(),
        ..Default::default()
    };
    let error = update(&mut runtime, &id, &asked).await.unwrap_err();
    assert!(
        error.message().contains("cpuset_cpus: write \"65000\""),
        "{error}"
    );
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("/cpuset.cpus"), "{error}");
    check_everything(&cgroup);
    assert_eq!(limits(&mut runtime, &id).await, everything());

    let bad = Resources {
        cpu_period: 1,
        cpu_shares: 64,
        ..Default::default()
    };
    let error = update(&mut runtime, &id, &bad).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("linux.cpu_period: "), "{error}");
    check_everything(&cgroup);
    let error = update(&mut runtime, "no-such", &bad).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_limits_outlive_the_daemon() {
    let mut node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("keep")).await.unwrap();
    let id = pod::run(&mut runtime, &pod_id, &pod::container("keep", "sleep 1000"))
        .await
        .unwrap();
    let cgroup = Cgroup::of(&mut runtime, &id).await;
    update(&mut runtime, &id, &everything()).await.unwrap();
    node.end_daemon(Signal::SIGKILL).unwrap();
    check_everything(&cgroup);
    node.start_daemon().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    check_everything(&cgroup);
    assert_eq!(limits(&mut runtime, &id).await, everything());
    let asked = Resources {
        cpu_quota: 30_000,
        ..Default::default()
    };
    update(&mut runtime, &id, &asked).await.unwrap();
    assert_eq!(cgroup.bandwidth(), ("50000".into(), "30000".into()));

    // One that has ended needs none, and is none the worse for it.
    pod::stop(&mut runtime, &id, 0).await.unwrap();
    let before = limits(&mut runtime, &id).await;
    update(&mut runtime, &id, &everything()).await.unwrap();
    assert_eq!(limits(&mut runtime, &id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_starts_with_its_new_limits() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("early"))
        .await
        .unwrap();
    let config = pod::container("early", "cat /proc/self/oom_score_adj; sleep 1000");
    let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
    update(&mut runtime, &id, &everything()).await.unwrap();
    pod::start(&mut runtime, &id).await.unwrap();
    check_everything(&Cgroup::of(&mut runtime, &id).await);
    let score = pod::output(&mut runtime, &id, "cat /proc/1/oom_score_adj")
        .await
        .unwrap();
    assert_eq!(score, "321\n");
    assert_eq!(limits(&mut runtime, &id).await, everything());
}

async fn update_pod(
    runtime: &mut pod::Runtime,
    id: &str,
    resources: Resources,
) -> Result<(), tonic::Status> {
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        overhead: Some(Resources {
            memory_limit_in_bytes: 4 * MIB,
            ..Default::default()
        }),
        resources: Some(resources),
    };
    runtime
        .update_pod_sandbox_resources(request)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_cgroup_gets_the_sums_and_another_none() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let base = format!("corten-test-update-{}", std::process::id());
    let mut config = pod::pod("own");
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{base}/poduid-own");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let sums = Resources {
        cpu_period: 100_000,
        cpu_quota: 40_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    let mut limited = pod::container("limited", "sleep 1000");
    *pod::resources(&mut limited) = sums.clone();
    pod::run(&mut runtime, &pod_id, &limited).await.unwrap();
    update_pod(&mut runtime, &pod_id, sums.clone())
        .await
        .unwrap();
    let cgroup = Cgroup(format!("/{base}/poduid-own"));
    assert_eq!(cgroup.bandwidth(), ("100000".into(), "40000".into()));
    assert_eq!(
        cgroup.shares(),
        if Cgroup::is_v2() { "100" } else { "1024" }
    );
    assert_eq!(cgroup.memory(), (68 * MIB).to_string());

    // A sum in which one container's limit is missing must not limit that one.
    let free = pod::container("free", "sleep 1000");
    pod::run(&mut runtime, &pod_id, &free).await.unwrap();
    let smaller = Resources {
        memory_limit_in_bytes: 32 * MIB,
        cpu_shares: 512,
        ..sums.clone()
    };
    update_pod(&mut runtime, &pod_id, smaller).await.unwrap();
    assert_eq!(cgroup.memory(), (68 * MIB).to_string());
    assert_eq!(cgroup.shares(), if Cgroup::is_v2() { "59" } else { "512" });

    let other = pod::run_pod(&mut runtime, &pod::pod("shared"))
        .await
        .unwrap();
    let error = update_pod(&mut runtime, &other, sums).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("cgroup_parent"), "{error}");
    update_pod(&mut runtime, &other, Resources::default())
        .await
        .unwrap();
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    leftovers::remove_cgroups(&base);
}
