//! What containers write to outside of their own layers and volumes: the pod's files in /etc, and its shared memory.

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{leftovers::Leftovers, pod};
use nix::sys::signal::Signal;

use super::site::{Site, options};

/// Of every such file: as much as goes in, and as many extended attributes as it takes.
const FILL: &str = "for f in hostname hosts resolv.conf; do dd if=/dev/zero of=/etc/$f bs=64k count=1024; \
    perl -e 'for (1..200) { syscall(188, $ARGV[0], \"user.$_\", \"x\" x 60000, 60000, 0) }' /etc/$f; \
    stat -c '%b' /etc/$f; done 2>/dev/null";
/// Makes the file system that they are on as small as it can be, or read-only: one's own, if any.
const REMOUNT: &str =
    "for o in size=4k nr_inodes=1 ro; do mount -o remount,$o /etc/hosts 2>/dev/null; done; true";

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_files_take_no_more_than_their_own_room() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let mut pods = Vec::new();
    for (name, users, uid, capabilities) in [
        ("root", false, 0, &[][..]),
        ("admin", false, 0, &["SYS_ADMIN", "DAC_READ_SEARCH"]),
        ("user", false, 1000, &[]),
        ("userns", true, 0, &["SYS_ADMIN"]),
    ] {
        let options = options(NamespaceMode::Container, users);
        let pod = site.run_pod(name, &options).await;
        let mut config = site.attacker(name, &options, capabilities);
        pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: uid });
        let id = site.run(&pod, &config).await;
        let mut runtime = site.runtime.clone();
        // Root may write to them, as ever.
        if uid == 0 {
            let add = "echo '10.1.2.3 added' >>/etc/hosts && tail -1 /etc/hosts";
            assert_eq!(
                pod::output(&mut runtime, &id, add).await.unwrap(),
                "10.1.2.3 added\n"
            );
        }
        let state = format!("stat -f -c '%b %f %c %d' {}", site.node.state().display());
        let free = site.node.shell(&state).unwrap();
        let blocks = pod::output(&mut runtime, &id, FILL).await.unwrap();
        let taken: u64 = blocks
            .lines()
            .map(|line| line.parse::<u64>().unwrap())
            .sum();
        assert!(taken * 512 <= 2 << 20, "{name}: {taken} blocks");
        assert_eq!(site.node.shell(&state).unwrap(), free, "{name}");
        pod::output(&mut runtime, &id, REMOUNT).await.unwrap();
        assert_eq!(site.node.shell(&state).unwrap(), free, "{name}");
        pods.push(pod);
        site.others_live().await;
    }
    // They are the pods' still, after a restart, and go with them.
    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    let mut runtime = site.runtime.clone();
    for pod in pods {
        site.soon(pod::remove_pod(&mut runtime, &pod)).await;
    }
    Leftovers::settle(&site.node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_and_devices_are_charged_to_who_fills_them() {
    let site = Site::new().await;
    let options = options(NamespaceMode::Container, false);
    let pod = site.run_pod("small", &options).await;
    for place in ["/dev/shm", "/dev"] {
        let mut config = site.attacker(&place.replace('/', "-")[1..], &options, &[]);
        pod::resources(&mut config).memory_limit_in_bytes = 24 << 20;
        let id = site.run(&pod, &config).await;
        // A million files without a byte: each takes kernel memory.
        let fill = format!(
            "perl -e 'mkdir \"{place}/d\"; for (1..1000000) {{ open F, \">\", \"{place}/d/$_\" or last }}'"
        );
        let mut runtime = site.runtime.clone();
        let filled = site.soon(pod::exec(&mut runtime, &id, &fill)).await;
        assert_eq!(filled.exit_code, 137, "it was killed for its memory");
        // In the full cgroup nothing could count.
        let mut resources = pod::resources(&mut config).clone();
        resources.memory_limit_in_bytes = 128 << 20;
        let update = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources),
            ..Default::default()
        };
        site.soon(runtime.update_container_resources(update)).await;
        let count = format!("df -i {place} | awk 'END {{ print $3 }}'");
        let made = pod::output(&mut runtime, &id, &count).await.unwrap();
        let made: u64 = made.trim().parse().unwrap();
        assert!(
            (1000..80_000).contains(&made),
            "{place}: {made} files in 24 MiB"
        );
    }
}
