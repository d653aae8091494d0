//! SELinux: labels of processes and files, categories of each pod's own, and volumes that are relabelled.
//!
//! They need a kernel that enforces a policy, and one with types for containers: most tests run in a virtual machine, whose
//! policy is hack/machine/container.cil beside Debian's.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::{fs, path::Path, process::Command};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{image, node::Node, pod, vm};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

const PROCESS: &str = "system_u:system_r:container_t:";
const FILE: &str = "system_u:object_r:container_file_t:";

#[test]
fn selinux_holds_in_a_machine_that_enforces_it() {
    vm::run(&["--lsm", "selinux"]).unwrap();
}

/// A node with two pods, whose containers may be privileged, and one with a user namespace.
struct Site {
    node: Node,
    runtime: pod::Runtime,
    pods: Vec<String>,
}

const ONE: usize = 0;
const TWO: usize = 1;
const MAPPED: usize = 2;

impl Site {
    async fn new(options: &[&str]) -> Self {
        let node = Node::start_with(options).await.unwrap();
        let declare = |_: &Path, config: &mut serde_json::Value| {
            config["Volumes"] = json!({ "/declared": {} });
            Ok(())
        };
        image::load_changed(&node, image::BUSYBOX, declare)
            .await
            .unwrap();
        let runtime = node.runtime().await.unwrap();
        let mut site = Self {
            node,
            runtime,
            pods: Vec::new(),
        };
        site.add_pod("one", NamespaceMode::Container, None).await;
        // Its containers share a PID namespace, whose init has the pod's label.
        site.add_pod("two", NamespaceMode::Pod, None).await;
        site
    }

    async fn add_pod(&mut self, name: &str, pid: NamespaceMode, users: Option<cri::UserNamespace>) {
        let mut config = pod::logged(&self.node, pod::host_network_pod(name));
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.privileged = users.is_none();
        let namespaces = pod::namespaces(NamespaceMode::Node, pid);
        security.namespace_options = Some(cri::NamespaceOption {
            userns_options: users,
            ..namespaces
        });
        let id = pod::run_pod(&mut self.runtime, &config).await.unwrap();
        self.pods.push(id);
    }

    async fn create(
        &mut self,
        pod: usize,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> pod::Reply<String> {
        let mut config = pod::container(name, "sleep 100000");
        let pid = match pod {
            ONE => NamespaceMode::Container,
            _ => NamespaceMode::Pod,
        };
        pod::security(&mut config).namespace_options =
            Some(pod::namespaces(NamespaceMode::Node, pid));
        change(&mut config);
        pod::create(&mut self.runtime, &self.pods[pod], &config).await
    }

    async fn run(
        &mut self,
        pod: usize,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> String {
        let id = self.create(pod, name, change).await.unwrap();
        pod::start(&mut self.runtime, &id).await.unwrap();
        id
    }

    async fn output(&mut self, container: &str, script: &str) -> String {
        let text = pod::output(&mut self.runtime, container, script).await;
        text.unwrap().trim_end_matches(['\0', '\n']).to_owned()
    }

    /// The label of process 1, the container's own or its pod's, which one that exec starts has too.
    async fn label(&mut self, container: &str) -> String {
        let script = "cat /proc/1/attr/current; echo; cat /proc/self/attr/current";
        let labels = self.output(container, script).await;
        let (init, exec) = labels.split_once('\n').unwrap();
        let init = init.trim_end_matches('\0');
        assert_eq!(exec, init);
        init.to_owned()
    }

    /// The categories of a confined container, "s0:c1,c2".
    async fn level(&mut self, container: &str) -> String {
        let label = self.label(container).await;
        let level = label.strip_prefix(PROCESS);
        level.unwrap_or_else(|| panic!("{label}")).to_owned()
    }

    async fn refused(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> tonic::Status {
        self.create(ONE, name, change).await.unwrap_err()
    }

    async fn reads(&mut self, container: &str, file: &str) -> bool {
        let script = format!("cat {file}");
        let done = pod::exec(&mut self.runtime, container, &script).await;
        done.unwrap().exit_code == 0
    }
}

fn options(user: &str, kind: &str, level: &str) -> Option<cri::SeLinuxOption> {
    Some(cri::SeLinuxOption {
        user: user.into(),
        role: String::new(),
        r#type: kind.into(),
        level: level.into(),
    })
}

fn volume(source: &Path, relabel: bool) -> Vec<cri::Mount> {
    vec![cri::Mount {
        host_path: source.display().to_string(),
        container_path: "/volume".into(),
        selinux_relabel: relabel,
        ..Default::default()
    }]
}

fn image_volume() -> Vec<cri::Mount> {
    let spec = cri::ImageSpec {
        image: image::BUSYBOX.into(),
        ..Default::default()
    };
    vec![cri::Mount {
        image: Some(spec),
        container_path: "/image".into(),
        readonly: true,
        ..Default::default()
    }]
}

fn users() -> cri::UserNamespace {
    let ids = vec![cri::IdMapping {
        host_id: 200_000,
        container_id: 0,
        length: 65_536,
    }];
    cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    }
}

fn file_label(path: &Path) -> String {
    let done = Command::new("stat").args(["-c", "%C"]).arg(path).output();
    let text = String::from_utf8(done.unwrap().stdout).unwrap();
    text.trim().to_owned()
}

/// What the kernel has denied containers and those that serve them.
fn denials() -> Vec<String> {
    let log = vm::shell("dmesg").unwrap();
    let theirs = |line: &&str| {
        let words = ["container_t:", "spc_t:", "comm=\"corten"];
        line.contains("avc:  denied") && words.iter().any(|word| line.contains(word))
    };
    log.lines().filter(theirs).map(str::to_owned).collect()
}

/// What is a container's, it may use.
const WORKS: &str = "set -e
for dir in /tmp /dev/shm /declared; do echo x >$dir/file; done
touch /dev/mqueue/queue && cat /dev/mqueue/queue >/dev/null && rm /dev/mqueue/queue
cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null
ls /proc/self/fd /sys/fs/cgroup /dev/pts >/dev/null
echo x >/dev/null";

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_containers_share_categories_that_no_other_pod_has_and_keep_them() {
    if !vm::is_here() {
        return;
    }
    let before = denials();
    let mut site = Site::new(&[]).await;
    site.add_pod("mapped", NamespaceMode::Pod, Some(users()))
        .await;
    let a = site
        .run(ONE, "a", |config| config.mounts = image_volume())
        .await;
    let b = site
        .run(ONE, "b", |config| {
            let security = pod::security(config);
            security.no_new_privs = true;
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
            security.seccomp = Some(cri::SecurityProfile::default());
        })
        .await;
    let other = site.run(TWO, "other", |_| {}).await;
    let mapped = site.run(MAPPED, "mapped", |_| {}).await;
    let level = site.level(&a).await;
    assert!(level.starts_with("s0:c") && level.contains(",c"), "{level}");
    assert_eq!(site.level(&b).await, level);
    for stranger in [&other, &mapped] {
        assert_ne!(site.level(stranger).await, level);
    }

    let context = format!("context=\"{FILE}{level}\"");
    let mounts = site.output(&a, "cat /proc/1/mountinfo").await;
    for place in [" / / ", " /dev ", " /dev/pts ", " /dev/shm ", " /image "] {
        let line = mounts.lines().find(|line| line.contains(place)).unwrap();
        assert!(line.contains(&context), "{line}");
    }
    for container in [&a, &other, &mapped] {
        site.output(container, WORKS).await;
    }
    site.output(&a, "/image/bin/busybox true && ls /image")
        .await;
    // The pod's memory is shared, and its files are of nobody else's level.
    assert_eq!(site.output(&b, "cat /dev/shm/file").await, "x");
    let pods = site.node.state().join("pods");
    let script = format!("stat -c %C {}/{}/etc/hosts", pods.display(), site.pods[ONE]);
    let label = site.node.shell(&script).unwrap();
    assert_eq!(label.trim(), format!("{FILE}{level}"));

    let privileged = site
        .run(ONE, "privileged", |config| {
            pod::security(config).privileged = true;
        })
        .await;
    assert_eq!(site.label(&privileged).await, "system_u:system_r:spc_t:s0");
    site.output(&privileged, WORKS).await;
    assert_eq!(denials(), before);

    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    let after = site.run(ONE, "after", |_| {}).await;
    assert_eq!(site.level(&after).await, level);
    assert_eq!(site.level(&a).await, level);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_change_labels_and_bad_ones_are_refused_by_field() {
    if !vm::is_here() {
        return;
    }
    let before = denials();
    let mut site = Site::new(&[]).await;
    let plain = site.run(ONE, "plain", |_| {}).await;
    let level = site
        .run(ONE, "level", |config| {
            pod::security(config).selinux_options = options("", "", "s0:c4,c5");
        })
        .await;
    assert_eq!(site.level(&level).await, "s0:c4,c5");
    let full = site
        .run(ONE, "full", |config| {
            pod::security(config).selinux_options = options("system_u", "spc_t", "s0");
        })
        .await;
    assert_eq!(site.label(&full).await, "system_u:system_r:spc_t:s0");
    // None takes anything from another of its pod, whatever its level.
    for container in [&level, &plain] {
        site.output(container, WORKS).await;
    }
    assert_eq!(denials(), before);

    let bad_level = site
        .refused("bad-level", |config| {
            pod::security(config).selinux_options = options("", "", "s0,c4,c5");
        })
        .await;
    let bad_type = site
        .refused("bad-type", |config| {
            pod::security(config).selinux_options = options("", "no_such_t", "s0");
        })
        .await;
    for (error, word) in [(bad_level, "s0,c4,c5"), (bad_type, "no_such_t")] {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for word in [word, "config.linux.security_context.selinux_options"] {
            assert!(error.message().contains(word), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_read_once_it_is_relabelled_and_by_its_pod_alone() {
    if !vm::is_here() {
        return;
    }
    let mut site = Site::new(&[]).await;
    let volume_dir = site.node.dir().join("volume");
    fs::create_dir_all(volume_dir.join("deep/er")).unwrap();
    let file = volume_dir.join("deep/er/file");
    fs::write(&file, "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", volume_dir.join("deep/link")).unwrap();
    let passwd = file_label(Path::new("/etc/passwd"));
    let before = file_label(&file);

    let plain = site
        .run(ONE, "plain", |config| {
            config.mounts = volume(&volume_dir, false);
        })
        .await;
    assert!(!site.reads(&plain, "/volume/deep/er/file").await);
    site.run(ONE, "spc", |config| {
        pod::security(config).privileged = true;
        config.mounts = volume(&volume_dir, true);
    })
    .await;
    assert_eq!(file_label(&file), before, "spc_t needs no labels");

    let owner = site
        .run(ONE, "owner", |config| {
            config.mounts = volume(&volume_dir, true);
        })
        .await;
    let own = format!("{FILE}{}", site.level(&owner).await);
    for path in ["deep/er/file", "deep/er", "deep/link", ""] {
        assert_eq!(file_label(&volume_dir.join(path)), own, "{path}");
    }
    assert_eq!(file_label(Path::new("/etc/passwd")), passwd);
    assert!(site.reads(&owner, "/volume/deep/er/file").await);
    let stranger = site
        .run(TWO, "stranger", |config| {
            config.mounts = volume(&volume_dir, false);
        })
        .await;
    assert!(!site.reads(&stranger, "/volume/deep/er/file").await);

    // The root says that all is done.
    let late = volume_dir.join("late");
    fs::write(&late, "").unwrap();
    vm::shell(&format!("chcon -t tmp_t {}", late.display())).unwrap();
    let label = file_label(&late);
    site.run(ONE, "again", |config| {
        config.mounts = volume(&volume_dir, true);
    })
    .await;
    assert_eq!(file_label(&late), label);

    let etc = file_label(Path::new("/etc"));
    let error = site
        .refused("etc", |config| {
            config.mounts = volume(Path::new("/usr/../etc"), true);
        })
        .await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    for word in ["/usr/../etc", "/etc is the host's"] {
        assert!(error.message().contains(word), "{error}");
    }
    assert_eq!(file_label(Path::new("/etc")), etc);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_can_be_turned_off() {
    if !vm::is_here() {
        return;
    }
    ignores(&["--selinux", "false"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_selinux_options_and_relabelling_are_of_no_effect() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return eprintln!("not run: this kernel has SELinux");
    }
    ignores(&[]).await;
}

/// What pods ask for with these options of the daemon has no effect, as under every runtime: they say it whatever the host is.
async fn ignores(daemon: &[&str]) {
    let mut site = Site::new(daemon).await;
    let dir = site.node.dir().join("volume");
    fs::create_dir(&dir).unwrap();
    let before = file_label(&dir);
    let id = site
        .run(ONE, "any", |config| {
            pod::security(config).selinux_options = options("any_u", "any_t", "s0:c1,c2");
            config.mounts = volume(&dir, true);
        })
        .await;
    site.output(&id, "ls /volume").await;
    assert_eq!(file_label(&dir), before);
    let mounts = site.output(&id, "cat /proc/1/mountinfo").await;
    assert!(!mounts.contains("context="), "{mounts}");
    assert!(site.node.log().contains("SELinux options are of no effect"));
}
