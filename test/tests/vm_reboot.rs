//! The machine is started again, by an orderly shut-down and by a power cut: what ran has ended, and nothing else is lost or
//! left.
#![allow(clippy::unwrap_used, reason = "tests")]

use corten_proto::cri::{ContainerState, ListPodSandboxRequest, PodSandboxState};
use corten_test::{
    image,
    pod::{self, Runtime},
    vm,
};

const TEST: &str = "pods_have_ended_and_images_are_whole";

/// Names what is left of pods, one a line.
const LEFT: &str = "
    ls -A /run/netns 2>/dev/null || true
    for dir in pods containers operations; do ls -A /var/lib/corten/$dir; done
    ls -A /var/lib/cni/networks/*/ 2>/dev/null | grep '^[0-9]' || true
    find /sys/fs/cgroup/corten -mindepth 2 -type d 2>/dev/null || true
    ip -o link | grep veth || true
    grep overlay /proc/self/mounts || true";

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_ended_and_images_are_whole() {
    match vm::boot() {
        None => vm::run_boots(TEST, 3).unwrap(),
        Some(1) => {
            let mut runtime = vm::start_corten(vm::NETWORK).await.unwrap();
            vm::load_busybox().unwrap();
            run_pods(&mut runtime).await;
        }
        Some(2) => {
            let mut runtime = vm::start_corten(vm::NETWORK).await.unwrap();
            check(&mut runtime).await;
            run_pods(&mut runtime).await;
            // Records are not synced (ARCHITECTURE.md): what a cut leaves of them is any part.
            vm::shell("sync").unwrap();
            vm::cut_power();
        }
        Some(_) => {
            let mut runtime = vm::start_corten(vm::NETWORK).await.unwrap();
            check(&mut runtime).await;
        }
    }
}

async fn run_pods(runtime: &mut Runtime) {
    for name in ["first", "second"] {
        let pod = pod::run_pod(runtime, &pod::pod(name)).await.unwrap();
        let container = pod::container(name, "echo kept > /kept; sleep 1000");
        pod::run(runtime, &pod, &container).await.unwrap();
    }
}

/// Looks at two pods of an earlier boot, and removes them.
async fn check(runtime: &mut Runtime) {
    let pods = runtime.list_pod_sandbox(ListPodSandboxRequest::default());
    let pods = pods.await.unwrap().into_inner().items;
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
    }
    let containers = pod::containers(runtime).await.unwrap();
    assert_eq!(containers.len(), 2);
    for container in &containers {
        assert_eq!(container.state(), ContainerState::ContainerExited);
        let status = pod::status(runtime, &container.id).await.unwrap();
        assert!(
            status.finished_at > 0 && status.exit_code != 0,
            "{status:?}"
        );
    }
    for pod in &pods {
        pod::remove_pod(runtime, &pod.id).await.unwrap();
    }
    assert_eq!(vm::shell(LEFT).unwrap(), "");
    let images = vm::shell("corten image verify && corten image ls").unwrap();
    assert!(
        images.contains(image::BUSYBOX.rsplit_once(':').unwrap().0),
        "{images}"
    );
}
