//! What a process may do: capabilities, filters, paths, devices, limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use corten_proto::cri::{self, security_profile::ProfileType};
use corten_test::{image, node::Node, pod};

/// What Docker chose and Kubernetes documents: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const DEFAULT: u64 = 0xa804_25fb;
const SYS_ADMIN: u64 = 1 << 21;
const CHOWN: u64 = 1;

/// A node with a pod.
struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(options: &[&str]) -> Self {
        let node = Node::start_with(options).await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, pod::host_network_pod("site"));
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    /// Runs a sleeping container as `change` makes it.
    async fn run(&mut self, name: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut config = pod::container(name, "sleep 1000");
        change(&mut config);
        pod::run(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap()
    }

    async fn output(&mut self, container: &str, script: &str) -> String {
        pod::output(&mut self.runtime, container, script)
            .await
            .unwrap()
    }

    /// The script fails; what it writes to standard error.
    async fn refused(&mut self, container: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime, container, script)
            .await
            .unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
        String::from_utf8(done.stderr).unwrap()
    }

    /// A line of `/proc/<pid>/status` for process 1 of the container, and for one that exec starts.
    async fn status(&mut self, container: &str, name: &str) -> [String; 2] {
        let mut seen = Vec::new();
        for process in ["1", "self"] {
            let script = format!("grep ^{name}: /proc/{process}/status");
            let line = self.output(container, &script).await;
            seen.push(
                line.split_whitespace()
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        seen.try_into().unwrap()
    }

    #[track_caller]
    fn same(seen: [String; 2], want: u64) {
        for (text, process) in seen.iter().zip(["init", "exec"]) {
            let value = u64::from_str_radix(text, 16).unwrap();
            assert_eq!(value, want, "{process}: {value:#x}, want {want:#x}");
        }
    }

    async fn capabilities(&mut self, container: &str, set: &str, want: u64) {
        Self::same(self.status(container, set).await, want);
    }
}

fn user(uid: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value: uid })
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_the_default_ones_and_those_asked_for() {
    let mut site = Site::new().await;
    let root = site.run("root", |_| {}).await;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        site.capabilities(&root, set, DEFAULT).await;
    }
    for set in ["CapInh", "CapAmb"] {
        site.capabilities(&root, set, 0).await;
    }

    let app = site
        .run("app", |config| {
            pod::security(config).run_as_user = user(1000)
        })
        .await;
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        site.capabilities(&app, set, 0).await;
    }
    site.capabilities(&app, "CapBnd", DEFAULT).await;

    let asked = |add: &[&str], drop: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some(cri::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        })
    };
    let add = asked(&["SYS_ADMIN"], &["CAP_CHOWN"]);
    let changed = site
        .run("changed", |config| pod::security(config).capabilities = add)
        .await;
    site.capabilities(&changed, "CapEff", DEFAULT & !CHOWN | SYS_ADMIN)
        .await;
    let none = asked(&[], &["ALL"]);
    let none = site
        .run("none", |config| pod::security(config).capabilities = none)
        .await;
    for set in ["CapEff", "CapBnd"] {
        site.capabilities(&none, set, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_has_what_the_daemon_has() {
    let mut site = Site::new().await;
    let config = {
        let mut config = pod::host_network_pod("privileged");
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        config
    };
    site.pod = pod::run_pod(&mut site.runtime, &config).await.unwrap();
    let strong = site
        .run("strong", |config| pod::security(config).privileged = true)
        .await;
    let weak = site.run("weak", |_| {}).await;
    let own = site.node.shell("grep ^CapEff: /proc/self/status").unwrap();
    let own = u64::from_str_radix(own.split_whitespace().nth(1).unwrap(), 16).unwrap();
    site.capabilities(&strong, "CapEff", own).await;

    let mount = "mkdir -p /m && mount -t tmpfs none /m && touch /m/x";
    site.output(&strong, mount).await;
    // By AppArmor, where there is one, before capabilities are looked at.
    let refused = site.refused(&weak, mount).await.to_lowercase();
    assert!(refused.contains("permission denied"), "{refused}");
    site.output(&strong, "test -c /dev/kmsg").await;
    site.refused(&weak, "test -e /dev/kmsg").await;
    let cgroup = "cd /sys/fs/cgroup; [ ! -d pids ] || cd pids; mkdir inner && rmdir inner";
    site.output(&strong, cgroup).await;
    assert!(site.refused(&weak, cgroup).await.contains("Read-only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_new_privs_is_set_when_asked_for() {
    let mut site = Site::new().await;
    let (off, on) = (
        site.run("off", |_| {}).await,
        site.run("on", |config| pod::security(config).no_new_privs = true)
            .await,
    );
    assert_eq!(site.status(&off, "NoNewPrivs").await, ["0", "0"]);
    assert_eq!(site.status(&on, "NoNewPrivs").await, ["1", "1"]);
}

fn seccomp(kind: ProfileType, file: &Path) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: file.display().to_string(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn seccomp_profiles_hold_for_init_and_exec() {
    let mut site = Site::new().await;
    let none = Path::new("");
    let unconfined = seccomp(ProfileType::Unconfined, none);
    let free = site
        .run("free", |config| pod::security(config).seccomp = unconfined)
        .await;
    assert_eq!(site.status(&free, "Seccomp").await, ["0", "0"]);
    site.output(&free, "unshare -U true").await;

    for (name, uid, no_new_privs) in [
        ("root", 0, false),
        ("app", 1000, false),
        ("sealed", 1000, true),
    ] {
        let default = seccomp(ProfileType::RuntimeDefault, none);
        let id = site
            .run(name, |config| {
                let security = pod::security(config);
                (security.seccomp, security.run_as_user) = (default, user(uid));
                security.no_new_privs = no_new_privs;
            })
            .await;
        assert_eq!(site.status(&id, "Seccomp").await, ["2", "2"], "{name}");
        let refused = site.refused(&id, "unshare -U true").await;
        assert!(refused.contains("Operation not permitted"), "{refused}");
    }

    let file = site.node.dir().join("profile.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]}"#;
    fs::write(&file, profile).unwrap();
    let own = seccomp(ProfileType::Localhost, &file);
    let own = site
        .run("own", |config| pod::security(config).seccomp = own)
        .await;
    let refused = site.refused(&own, "mkdir /made").await;
    assert!(refused.contains("quota exceeded"), "{refused}");
    site.output(&own, "touch /made").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_paths_are_empty_and_read_only_ones_are_not_written() {
    let mut site = Site::new().await;
    let closed = site
        .run("closed", |config| {
            let security = pod::security(config);
            security.masked_paths = ["/proc/keys", "/home", "/etc/group", "/absent"]
                .map(Into::into)
                .to_vec();
            security.readonly_paths = ["/proc/sys", "/tmp", "/absent"].map(Into::into).to_vec();
        })
        .await;
    let seen = "cat /proc/keys /etc/group; ls -A /home";
    assert_eq!(site.output(&closed, seen).await, "");
    for script in [
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "touch /tmp/x",
        "touch /home/x",
    ] {
        let refused = site.refused(&closed, script).await;
        assert!(
            refused.contains("Read-only file system"),
            "{script}: {refused}"
        );
    }
    site.refused(&closed, "umount /proc/keys").await;
}

/// /proc/keys shows what its reader may view: of session keyrings, that which it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_keyring_is_the_containers_own() {
    let mut site = Site::new().await;
    let show = "awk '/ _ses/ { print $1, $9 }' /proc/keys";
    for uid in [0, 1000] {
        let file = format!("/dev/shm/{uid}");
        let script = format!("{show} >{file}.new; mv {file}.new {file}; sleep 1000");
        let mut config = pod::container(&format!("user-{uid}"), &script);
        pod::security(&mut config).run_as_user = user(uid);
        let id = pod::run(&mut site.runtime, &site.pod, &config)
            .await
            .unwrap();
        let both = format!("until cat {file} 2>/dev/null; do sleep 0.01; done; {show}");
        let seen = site.output(&id, &both).await;
        let (init, exec) = seen.trim_end().split_once('\n').unwrap();
        assert_eq!(init, exec);
        assert!(init.contains(&format!(" _ses.{id}")), "{init}, want {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_keeps_its_writable_mounts() {
    let mut site = Site::new().await;
    let volume = site.node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let id = site
        .run("fixed", |config| {
            pod::security(config).readonly_rootfs = true;
            config.mounts = vec![pod::mount(&volume, "/volume")];
        })
        .await;
    for path in ["/x", "/etc/x", "/tmp/x", "/etc/passwd"] {
        let refused = site.refused(&id, &format!("echo > {path}")).await;
        assert!(
            refused.contains("Read-only file system"),
            "{path}: {refused}"
        );
    }
    site.output(&id, "touch /volume/x /dev/shm/x; echo > /dev/null")
        .await;
    site.refused(&id, "mount -o remount,rw /").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn supplemental_groups_follow_the_policy() {
    let mut site = Site::new().await;
    for (policy, want) in [
        (cri::SupplementalGroupsPolicy::Merge, vec![1001, 2000, 3000]),
        (cri::SupplementalGroupsPolicy::Strict, vec![1001, 3000]),
    ] {
        let id = site
            .run(&format!("{policy:?}").to_lowercase(), |config| {
                let security = pod::security(config);
                security.run_as_username = "app".into();
                security.supplemental_groups = vec![3000];
                security.supplemental_groups_policy = policy.into();
            })
            .await;
        let seen = site.output(&id, "id -G").await;
        let mut seen: Vec<i64> = seen
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, want, "{policy:?}");
        let status = pod::status(&mut site.runtime, &id).await.unwrap();
        let user = status.user.unwrap().linux.unwrap();
        let mut told = user.supplemental_groups;
        told.sort_unstable();
        told.dedup();
        assert_eq!((user.uid, user.gid), (1000, 1001));
        assert!(told == want || told == want[1..], "{policy:?}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_open_only_when_asked_for() {
    let mut site = Site::new().await;
    let plain = site.run("plain", |_| {}).await;
    site.output(&plain, "head -c 1 /dev/zero /dev/urandom /dev/random >/dev/null; echo x >/dev/null; ls /dev/pts /dev/ptmx")
        .await;
    assert!(
        site.refused(&plain, "echo x > /dev/full")
            .await
            .contains("No space left")
    );
    // Making a node is allowed, using it is not.
    let tun = "mknod /tun c 10 200 && : < /tun";
    assert!(
        site.refused(&plain, tun)
            .await
            .contains("Operation not permitted")
    );

    let (asked, read) = (
        site.run("asked", |config| {
            config.devices = vec![cri::Device {
                host_path: "/dev/net/tun".into(),
                container_path: "/dev/net/tun".into(),
                permissions: "rwm".into(),
            }];
        })
        .await,
        site.run("read", |config| {
            config.devices = vec![cri::Device {
                host_path: "/dev/loop0".into(),
                container_path: "/dev/mine".into(),
                permissions: "r".into(),
            }];
        })
        .await,
    );
    site.output(&asked, ": <> /dev/net/tun").await;
    site.output(&read, ": < /dev/mine").await;
    assert!(
        site.refused(&read, ": > /dev/mine")
            .await
            .contains("Operation not permitted")
    );
}

/// What a controller of the container's cgroup says, by its file of v1 or of v2.
fn limit(cgroup: &str, v1: &str, v2: &str) -> String {
    let top = Path::new("/sys/fs/cgroup");
    let cgroup = cgroup.trim_start_matches('/');
    let (controller, file) = v1.split_once('/').unwrap();
    let text = fs::read_to_string(top.join(controller).join(cgroup).join(file))
        .or_else(|_| fs::read_to_string(top.join(cgroup).join(v2)));
    text.unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_cgroup_and_hold() {
    let mut site = Site::with(&["--pids-limit", "30"]).await;
    let id = site
        .run("limited", |config| {
            let limits = pod::resources(config);
            limits.memory_limit_in_bytes = 64 << 20;
            (limits.cpu_period, limits.cpu_quota) = (50_000, 25_000);
            limits.cpu_shares = 512;
            limits.cpuset_cpus = "0".into();
            limits.oom_score_adj = 900;
        })
        .await;
    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let reply = site
        .runtime
        .container_status(request)
        .await
        .unwrap()
        .into_inner();
    let info: serde_json::Value = serde_json::from_str(&reply.info["info"]).unwrap();
    let cgroup = info["cgroup"].as_str().unwrap();
    assert_eq!(
        limit(cgroup, "memory/memory.limit_in_bytes", "memory.max"),
        "67108864"
    );
    assert_eq!(limit(cgroup, "pids/pids.max", "pids.max"), "30");
    assert_eq!(limit(cgroup, "cpuset/cpuset.cpus", "cpuset.cpus"), "0");
    let quota = limit(cgroup, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(["25000", "25000 50000"].contains(&&*quota), "{quota}");
    let shares = limit(cgroup, "cpu/cpu.shares", "cpu.weight");
    assert!(["512", "59"].contains(&&*shares), "{shares}");
    assert_eq!(site.output(&id, "cat /proc/1/oom_score_adj").await, "900\n");
    let limits = reply.status.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!(
        (limits.memory_limit_in_bytes, limits.cpu_quota),
        (64 << 20, 25_000)
    );

    let bomb = "for i in $(seq 60); do sleep 30 & done; wait";
    let refused = site.refused(&id, bomb).await;
    assert!(refused.contains("can't fork"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_its_own_files_and_descriptors_only() {
    let mut site = Site::new().await;
    let id = site.run("seen", |_| {}).await;
    let fds = site.output(&id, "ls /proc/1/fd").await;
    assert_eq!(fds.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    // `ls` has the directory open.
    let fds = site.output(&id, "ls /proc/self/fd").await;
    assert_eq!(
        fds.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    let mounts = site.output(&id, "cat /proc/self/mountinfo").await;
    let dir = site
        .node
        .dir()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    for line in mounts.lines() {
        let point = line.split_whitespace().nth(4).unwrap();
        assert!(!point.contains(&dir) && !point.contains(".."), "{line}");
    }
    // Other processes of the node have no place in it.
    let processes = site.output(&id, "ls /proc | grep -c '^[0-9]'").await;
    assert!(processes.trim().parse::<u32>().unwrap() <= 6, "{processes}");
}
