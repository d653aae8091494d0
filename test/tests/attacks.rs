//! Attacks on whoever makes a container or comes into it, by class: races in set-up, odd files of users, hostile mount
//! namespaces, cgroups, devices, logs. What an image alone can do is in hostile_image.rs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use nix::{sys::stat::Mode, unistd::mkfifo};

/// Far above what a refusal takes, and below what reading gigabytes or waiting for a writer does.
const SOON: Duration = Duration::from_secs(15);

/// A node with a pod, and a directory of the host that nothing may reach.
struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
    outside: PathBuf,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let outside = node.dir().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("target"), "the host's\n").unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let mut config = pod::logged(&node, pod::host_network_pod("attack"));
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self {
            node,
            runtime,
            pod,
            outside,
        }
    }

    async fn run(
        &mut self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> pod::Reply<String> {
        let mut config = pod::container(name, script);
        change(&mut config);
        pod::run(&mut self.runtime, &self.pod, &config).await
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    /// Nothing came to the host's directory, and nothing is mounted there.
    fn check_outside(&self) {
        let names: Vec<_> = fs::read_dir(&self.outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["target"]);
        let target = fs::read_to_string(self.outside.join("target")).unwrap();
        assert_eq!(target, "the host's\n");
        let mounts = self.node.shell("cat /proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("outside"), "{mounts}");
    }
}

/// Makes `swap` a link out of the volume, nothing, a directory and nothing again, for as long as it runs.
const SWAP: &str = "cd /volume && while :; do busybox ln -s AIM swap; rm -rf swap; mkdir swap; rm -rf swap; done 2>/dev/null";

#[tokio::test(flavor = "multi_thread")]
async fn symlink_swaps_in_a_volume_during_set_up_lead_nowhere() {
    let mut site = Site::new().await;
    let volume = site.node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let outside = site.outside.display().to_string();
    // The same path in the container and on the host, absolute and by way of many parents.
    for (round, aim) in [outside.clone(), format!("{}{outside}", "../".repeat(20))]
        .iter()
        .enumerate()
    {
        let script = SWAP.replace("AIM", aim);
        let swapper = site
            .run(&format!("swapper-{round}"), &script, |config| {
                config.mounts = vec![pod::mount(&volume, "/volume")];
            })
            .await
            .unwrap();
        let mut made = 0;
        for attempt in 0..40 {
            let created = site
                .run(
                    &format!("victim-{round}-{attempt}"),
                    "sleep 1000",
                    |config| {
                        config.mounts = vec![
                            pod::mount(&volume, "/volume"),
                            pod::mount(&volume, "/volume/swap/deeper/inner"),
                            pod::mount(&volume, "/volume/swap/inner"),
                        ];
                        config.working_dir = "/volume/swap/work".into();
                        let security = pod::security(config);
                        security.masked_paths = vec!["/volume/swap/target".into()];
                        security.readonly_paths = vec!["/volume/swap".into()];
                    },
                )
                .await;
            // A path that is gone between two steps is an error, never another place.
            made += usize::from(created.is_ok());
            site.check_outside();
        }
        pod::stop(&mut site.runtime, &swapper, 0).await.unwrap();
        assert!(made > 0, "no container was made at all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_path_races_and_a_false_null_device_mask_nothing_else() {
    let mut site = Site::new().await;
    let dev = site.node.dir().join("dev");
    fs::create_dir(&dev).unwrap();
    // What a mask would be a copy of: the file behind the link, writable.
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let masked = |config: &mut cri::ContainerConfig| {
        pod::security(config).masked_paths = vec!["/etc/group".into()];
    };
    let refused = site
        .run("link", "sleep 1000", |config| {
            masked(config);
            config.mounts = vec![pod::mount(&dev, "/dev")];
        })
        .await
        .unwrap_err();
    assert!(format!("{refused:#}").contains("/dev/null"), "{refused:#}");

    // A masked path that is a link masks what it leads to in the container.
    let volume = site.node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    symlink("/etc/passwd", volume.join("link")).unwrap();
    symlink(site.outside.join("target"), volume.join("out")).unwrap();
    let id = site
        .run("masked", "sleep 1000", |config| {
            config.mounts = vec![pod::mount(&volume, "/volume")];
            pod::security(config).masked_paths = vec!["/volume/link".into(), "/volume/out".into()];
        })
        .await
        .unwrap();
    assert_eq!(site.output(&id, "cat /etc/passwd /volume/link").await, "");
    site.check_outside();
}

#[tokio::test(flavor = "multi_thread")]
async fn malicious_passwd_and_group_files_are_bounded() {
    let mut site = Site::new().await;
    let dir = site.node.dir().join("users");
    fs::create_dir(&dir).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let huge = file("huge", b"root:x:0:0:root:/root:/bin/sh\n");
    fs::File::options()
        .write(true)
        .open(&huge)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let line = file("line", &[&b"app:x:"[..], &[b'7'; 3 << 20]].concat());
    let fields = file("fields", format!("app{}\n", ":".repeat(1 << 20)).as_bytes());
    let below_root = file(
        "below-root",
        b"app:x:-1:0::/:\napp:x:4294967296:0::/:\napp:x:4294967295:0::/:\n",
    );
    let fifo = dir.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    for (name, source) in [
        ("huge", huge.as_path()),
        ("line", &line),
        ("fields", &fields),
        ("below-root", &below_root),
        ("fifo", &fifo),
        ("device", Path::new("/dev/zero")),
        ("directory", dir.as_path()),
    ] {
        let before = Leftovers::count(&site.node).unwrap();
        let began = Instant::now();
        let refused = site
            .run(name, "sleep 1000", |config| {
                config.mounts = vec![pod::mount(source, "/etc/passwd")];
                pod::security(config).run_as_username = "app".into();
            })
            .await;
        assert!(refused.is_err(), "{name}: it runs");
        assert!(began.elapsed() < SOON, "{name}: {:?}", began.elapsed());
        Leftovers::settle(&site.node, &before).await.unwrap();
    }
    let groups = |count: u32| -> String {
        (0..count)
            .map(|number| format!("g{number}:x:{}:app\n", number + 10_000))
            .collect()
    };
    for (name, count, fits) in [("some", 16_000, true), ("many", 20_000, false)] {
        let source = file(name, groups(count).as_bytes());
        let began = Instant::now();
        let made = site
            .run(&format!("groups-{name}"), "sleep 1000", |config| {
                config.mounts = vec![pod::mount(&source, "/etc/group")];
                pod::security(config).run_as_username = "app".into();
            })
            .await;
        assert_eq!(made.is_ok(), fits, "{name}: {made:?}");
        assert!(began.elapsed() < SOON, "{name}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_into_a_hostile_mount_namespace_does_not_wait_and_keeps_its_bounds() {
    let mut site = Site::new().await;
    let all = |config: &mut cri::ContainerConfig| {
        let security = pod::security(config);
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Default::default()
        });
    };
    for (name, script) in [
        ("null", "rm /dev/null && busybox mkfifo /dev/null"),
        (
            "false-null",
            "rm /dev/null && busybox ln -s /tmp/x /dev/null && busybox mkfifo /tmp/x",
        ),
        ("passwd", "rm /etc/passwd && busybox mkfifo /etc/passwd"),
        ("shell", "rm /bin/true && busybox mkfifo /bin/true"),
        (
            "proc",
            "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/self/fd && busybox mkfifo /proc/self/attr/exec",
        ),
        ("dev", "mount -t tmpfs none /dev"),
        (
            "root",
            "mkdir /new && mount -t tmpfs none /new && mount --bind /new /",
        ),
        ("cgroup", "mount -t tmpfs none /sys/fs/cgroup"),
        ("fork", "busybox mkfifo /tmp/x; mount -t tmpfs none /tmp"),
    ] {
        let id = site
            .run(
                name,
                &format!("{script}; echo done > /ready; sleep 1000"),
                all,
            )
            .await
            .unwrap();
        let began = Instant::now();
        let request = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            timeout: 5,
        };
        // Whatever the container has made of itself: an answer, not a wait.
        let answer = site.runtime.exec_sync(request).await;
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{name}: {answer:?} after {:?}",
            began.elapsed()
        );
        pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    }
    // What covers /proc hides nothing from the kernel: an exec has the bounds of the container.
    let id = site
        .run(
            "covered",
            "mount -t tmpfs none /proc; touch /ready; sleep 1000",
            |config| {
                all(config);
                pod::security(config).no_new_privs = true;
            },
        )
        .await
        .unwrap();
    let seen = "until [ -e /ready ]; do sleep 0.1; done; mkdir -p /p && mount -t proc none /p; grep -E 'NoNewPrivs|CapBnd' /p/self/status";
    let seen = site.output(&id, seen).await;
    assert!(
        seen.contains("NoNewPrivs:\t1") && seen.contains("00000000a82425fb"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cgroup_namespace_escapes_find_the_own_cgroup_only() {
    let mut site = Site::new().await;
    // As under systemd.
    site.node.shell("mount --make-rshared /").unwrap();
    let weak = site.run("weak", "sleep 1000", |_| {}).await.unwrap();
    let tries = "for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name release_agent -o -name devices.allow \
        -o -name notify_on_release); do echo 0 2>/dev/null >$f && echo wrote $f; done; \
        unshare -C true 2>/dev/null && echo unshared; mkdir /m; \
        for o in memory devices none,name=systemd; do mount -t cgroup -o $o cgroup /m 2>/dev/null && echo mounted $o; done; \
        mount -t cgroup2 cgroup2 /m 2>/dev/null && echo mounted v2; true";
    assert_eq!(site.output(&weak, tries).await, "");
    // What a privileged one mounts there is its own.
    let strong = site
        .run("strong", "sleep 1000", |config| {
            pod::security(config).privileged = true
        })
        .await
        .unwrap();
    let place = "d=$(find /sys/fs/cgroup -name cgroup.procs | head -1); d=${d%/*}; mkdir $d/inside && mount -t tmpfs escaped $d/inside && grep -c escaped /proc/self/mountinfo";
    assert_eq!(site.output(&strong, place).await, "1\n");
    let of_the_host = site
        .node
        .shell("grep -c escaped /proc/self/mountinfo || true")
        .unwrap();
    assert_eq!(of_the_host, "0\n", "a container's mount is on the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn device_nodes_of_ones_own_making_do_not_open() {
    let mut site = Site::new().await;
    let id = site.run("maker", "sleep 1000", |_| {}).await.unwrap();
    // The host's console, memory, kernel log, ports, loop control, a disk, a terminal.
    let tries = "for d in 'c 5 1' 'c 1 1' 'c 1 11' 'c 1 4' 'c 10 237' 'c 10 200' 'b 7 0' 'b 254 0' 'b 8 0' 'c 4 0'; do \
        mknod /dev/made $d || exit 1; for w in '<' '>'; do (eval \": $w /dev/made\") 2>/dev/null && echo opened $d; done; \
        rm /dev/made; done; true";
    assert_eq!(site.output(&id, tries).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_paths_that_are_links_are_not_followed() {
    let mut site = Site::new().await;
    let logs = site.node.dir().join("logs");
    symlink(site.outside.join("target"), logs.join("link.log")).unwrap();
    mkfifo(&logs.join("fifo.log"), Mode::S_IRWXU).unwrap();
    for name in ["link", "fifo"] {
        let began = Instant::now();
        let refused = site.run(name, "echo written; sleep 1000", |_| {}).await;
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains(&format!("{name}.log")), "{refused}");
        assert!(began.elapsed() < SOON, "{name}: {:?}", began.elapsed());
        site.check_outside();
    }
    // Swapped while the container runs: the next file is not opened either.
    let id = site.run("later", "sleep 1000", |_| {}).await.unwrap();
    fs::remove_file(logs.join("later.log")).unwrap();
    symlink(site.outside.join("target"), logs.join("later.log")).unwrap();
    let request = cri::ReopenContainerLogRequest { container_id: id };
    let refused = site.runtime.reopen_container_log(request).await;
    assert!(refused.is_err(), "a link was opened");
    site.check_outside();
}
