//! A container that may look into every process of its PID namespace (CAP_SYS_PTRACE), while others are set up in there:
//! by ExecSync, in a shared PID namespace, and to debug it. None of them may lead to the host, nor be more than what runs
//! in a container; nor share anything with a process of the host that could be written to, or that names one.
#![allow(clippy::unwrap_used, reason = "tests")]

mod tracing;
mod writing;

use std::{
    collections::{BTreeSet, HashSet},
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{image, node::Node, pod, wait::until};

/// Tells the program below that it is in a container, and where the host has a file that the container has not.
const MARKER: &str = "CORTEN_SPY_MARKER";
/// The host's namespaces that nobody in the pod may be in, as /proc tells them: "mnt:[1] net:[2]".
const HOST: &str = "CORTEN_SPY_HOST";
/// Has it write, too: the number of a process of the host, for a shim to take for one of its children.
const DECOY: &str = "CORTEN_SPY_DECOY";
/// Shared with the test: `ready`, `stop`, `ended`, `seen` (how many processes) and `found`, a line each.
const SHARED: &str = "/spy-shared";
/// Of /proc/<pid>/status (proc_pid_status(5)).
const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// The container's program, which is this one. On the host it has nothing to do.
#[test]
fn spy() {
    let (Some(marker), Some(host)) = (env::var_os(MARKER), env::var_os(HOST)) else {
        return;
    };
    let host = host.into_string().unwrap();
    let marker = Path::new(&marker).strip_prefix("/").unwrap();
    let decoy = env::var(DECOY).ok().map(|pid| pid.parse().unwrap());
    let shared = Path::new(SHARED);
    let mut found = fs::File::create(shared.join("found")).unwrap();
    let mut own = capabilities("self").unwrap();
    if !rustix::process::geteuid().is_root() {
        // Execve takes what another than root may not keep. Before it, there is what a program with the set-uid bit has.
        let bounding = own[3];
        own.iter_mut().take(3).for_each(|set| *set |= bounding);
    }
    let (mut told, mut seen) = (BTreeSet::new(), HashSet::new());
    let (mut traced, mut acts) = (tracing::Traced::default(), 0);
    fs::write(shared.join("ready"), "").unwrap();
    while !shared.join("stop").exists() {
        let names = fs::read_dir("/proc").unwrap();
        let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        for pid in names.filter(|name| name.parse() != Ok(std::process::id())) {
            if pid.parse::<u32>().is_err() {
                continue;
            }
            if let Some(decoy) = decoy {
                writing::write_to(&pid, decoy);
                let lines = tracing::take(&pid, &mut traced);
                told.extend(
                    lines
                        .iter()
                        .map(|line| format!("{pid}: {line}"))
                        .inspect(|line| {
                            let _ = writeln!(found, "{line}");
                        }),
                );
            }
            for line in look(&pid, marker, &host, &own) {
                if told.insert(line.clone()) {
                    writeln!(found, "{line}").unwrap();
                }
            }
            if seen.insert(pid) {
                fs::write(shared.join("seen"), format!("{}\n", seen.len())).unwrap();
            }
            if traced.acts > acts {
                acts = traced.acts;
                fs::write(shared.join("acts"), format!("{acts}\n")).unwrap();
            }
        }
    }
    fs::write(shared.join("ended"), "").unwrap();
}

/// What of the process is not as it has to be. One that ends meanwhile is no finding.
fn look(pid: &str, marker: &Path, host: &str, own: &[u64]) -> Vec<String> {
    let dir = PathBuf::from("/proc").join(pid);
    let mut found = Vec::new();
    for way in ["root", "cwd"] {
        if dir.join(way).join(marker).symlink_metadata().is_ok() {
            found.push(format!("{way} is the host's"));
        }
    }
    let mut open = descriptors(&dir);
    let shared = shared_memory(&dir).into_iter();
    open.extend(shared.map(|(line, _)| format!("it shares memory: {line}")));
    // Later than they: a program of the container may have open what it likes.
    if is_ours(&dir) {
        found.extend(open);
    }
    for host in host.split_whitespace() {
        let kind = host.split(':').next().unwrap_or_default();
        // Containers have none of their own where v1 has controllers.
        let own = fs::read_link(format!("/proc/self/ns/{kind}"));
        if kind == "cgroup" && own.is_ok_and(|own| own == Path::new(host)) {
            continue;
        }
        if fs::read_link(dir.join("ns").join(kind)).is_ok_and(|own| own == Path::new(host)) {
            found.push(format!(
                "{}: it is in the host's {kind} namespace",
                name(&dir)
            ));
        }
    }
    // Those in a user namespace of its own say nothing here.
    let users = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    if users(pid) != users("self") {
        return found;
    }
    for ((name, set), own) in CAPABILITIES
        .iter()
        .zip(capabilities(pid).unwrap_or_default())
        .zip(own)
    {
        if set & !own != 0 {
            found.push(format!("{name} is {set:x}, and not {own:x}"));
        }
    }
    found
}

/// The process's name, for those that stay.
fn name(dir: &Path) -> String {
    let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// Whether it is process 1 of a PID namespace that a pod's containers share.
pub(crate) fn is_pods(dir: &Path) -> bool {
    name(dir) == "corten-pod"
}

/// Whether it is a shim that has not run its program yet. The link exe says nothing: the binary is the root of its mount.
pub(crate) fn is_ours(dir: &Path) -> bool {
    fs::read(dir.join("cmdline")).is_ok_and(|line| line.starts_with(b"corten-shim\0"))
}

/// Writable mappings that the process shares with others: the line of /proc/<pid>/maps, and where it begins.
fn shared_memory(dir: &Path) -> Vec<(String, u64)> {
    let maps = fs::read_to_string(dir.join("maps")).unwrap_or_default();
    let all = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let begin = u64::from_str_radix(range.split('-').next()?, 16).ok()?;
        (rights == "rw-s").then(|| (line.to_owned(), begin))
    });
    all.collect()
}

/// What the process has open besides its streams and its way to tell why execve has failed. That is a pipe: a socket could
/// bring descriptors, and names the process that has made it (SO_PEERPIDFD).
fn descriptors(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        let is_stream = number < 3 && (target.starts_with("pipe:") || target == "/dev/null");
        let is_report = target.starts_with("pipe:");
        (!is_stream && !is_report).then(|| format!("fd {number} is {target}"))
    });
    all.collect()
}

fn capabilities(pid: &str) -> Option<Vec<u64>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let set = |name: &&str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        u64::from_str_radix(line.split_whitespace().last()?, 16).ok()
    };
    CAPABILITIES.iter().map(set).collect()
}

/// So many places where there is no program, before the one where it is, that what looks for it there is seen.
pub(crate) fn long_path() -> String {
    format!("{}/bin", "/x:".repeat(200))
}

/// Rounds of commands; a spy that sees a few of each hundred has seen enough by then.
const MOST: usize = 1000;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
    shared: PathBuf,
    /// The kinds of namespaces that nobody in the pod has from the host.
    own: &'static str,
    /// The pod's user namespace, if it has one.
    users: Option<cri::UserNamespace>,
}

impl Site {
    async fn new(config: cri::PodSandboxConfig) -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, config);
        let linux = config.linux.as_ref().unwrap();
        let options = linux.security_context.as_ref().unwrap();
        let options = options.namespace_options.clone().unwrap();
        let own = match options.network() {
            NamespaceMode::Node => "mnt ipc cgroup",
            _ => "mnt net ipc uts cgroup",
        };
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        let shared = node.dir().join("shared");
        Self {
            node,
            runtime,
            pod,
            shared,
            own,
            users: options.userns_options,
        }
    }

    /// Starts the spy.
    async fn spy(&mut self, change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let marker = self.node.dir().join("marker");
        fs::write(&marker, "").unwrap();
        let _ = fs::remove_dir_all(&self.shared);
        fs::create_dir(&self.shared).unwrap();
        fs::set_permissions(&self.shared, fs::Permissions::from_mode(0o777)).unwrap();
        let kinds = format!("cd /proc/self/ns && readlink {}", self.own);
        let host = self.node.shell(&kinds).unwrap();
        let mut config = pod::container("spy", "");
        config.command = ["/spy", "--exact", "spy"].map(Into::into).into();
        let env = [
            (MARKER, marker.to_str().unwrap()),
            (HOST, host.trim()),
            ("PATH", &*long_path()),
        ];
        config.envs = env
            .map(|(key, value)| cri::KeyValue {
                key: key.into(),
                value: value.into(),
            })
            .into();
        config.mounts = pod::own_program("/spy").unwrap().into();
        config.mounts.push(pod::mount(&self.shared, SHARED));
        pod::unconfine(&mut config);
        let security = pod::security(&mut config);
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["SYS_PTRACE".into()],
            ..Default::default()
        });
        change(&mut config);
        let id = pod::run(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap();
        self.wait_for("ready").await;
        id
    }

    async fn wait_for(&self, name: &str) -> String {
        let read = || async { anyhow::Ok(fs::read_to_string(self.shared.join(name))?) };
        until(read).await.unwrap()
    }

    /// Ends the spy, which has to have seen so many processes and nothing that it should not.
    async fn check(&mut self, spy: &str, case: &str, least: usize) {
        fs::write(self.shared.join("stop"), "").unwrap();
        self.wait_for("ended").await;
        let (seen, found) = (self.seen(), self.wait_for("found").await);
        assert_eq!(found, "", "{case}: of {seen} processes");
        assert!(seen >= least, "{case}: it has seen {seen} processes only");
        let id = spy.to_owned();
        self.runtime
            .remove_container(cri::RemoveContainerRequest { container_id: id })
            .await
            .unwrap();
    }

    /// How many processes the spy has looked at.
    fn seen(&self) -> usize {
        self.number("seen")
    }

    fn number(&self, name: &str) -> usize {
        let number = fs::read_to_string(self.shared.join(name)).unwrap_or_default();
        number.trim().parse().unwrap_or_default()
    }

    /// Runs commands in the container, four at a time, until the spy has seen so many.
    async fn exec(&self, container: &str, least: usize) {
        let one = |_| {
            let mut runtime = self.runtime.clone();
            let request = cri::ExecSyncRequest {
                container_id: container.into(),
                cmd: vec!["true".into()],
                timeout: 20,
            };
            tokio::spawn(async move { runtime.exec_sync(request).await })
        };
        for _ in 0..MOST {
            if self.seen() >= least {
                break;
            }
            for done in [(); 4].map(one) {
                assert_eq!(done.await.unwrap().unwrap().into_inner().exit_code, 0);
            }
        }
    }

    /// Starts and ends containers with this PID mode, one after the other.
    async fn start_others(&mut self, mode: NamespaceMode, target: &str, count: usize) {
        for number in 0..count {
            let mut config = pod::container(&format!("other-{number}"), "sleep 1000");
            config.mounts = vec![pod::mount(&self.shared, "/volume")];
            config.envs.push(cri::KeyValue {
                key: "PATH".into(),
                value: long_path().into(),
            });
            let security = pod::security(&mut config);
            let mut namespaces = pod::namespaces(NamespaceMode::Pod, mode);
            namespaces.target_id = target.into();
            security.namespace_options = Some(namespaces);
            if number % 2 == 0 {
                security.seccomp = Some(runtime_default());
            }
            security.no_new_privs = number % 3 == 0;
            let id = pod::run(&mut self.runtime, &self.pod, &config)
                .await
                .unwrap();
            let seen = pod::output(&mut self.runtime, &id, "cat /proc/1/comm").await;
            assert!(["spy\n", "corten-pod\n"].contains(&&*seen.unwrap()));
            pod::stop(&mut self.runtime, &id, 0).await.unwrap();
            self.runtime
                .remove_container(cri::RemoveContainerRequest { container_id: id })
                .await
                .unwrap();
        }
    }
}

fn runtime_default() -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sets_up_an_exec_leads_nowhere_and_may_no_more_than_the_container() {
    let mut site = Site::new(pod::host_network_pod("exec")).await;
    let no_new_privs = |config: &mut cri::ContainerConfig| {
        pod::security(config).no_new_privs = true;
    };
    let seccomp = |config: &mut cri::ContainerConfig| {
        pod::security(config).seccomp = Some(runtime_default());
    };
    type Change<'a> = &'a dyn Fn(&mut cri::ContainerConfig);
    let cases: [(&str, &[Change<'_>]); 4] = [
        ("plain", &[]),
        ("seccomp", &[&seccomp]),
        ("no_new_privs", &[&no_new_privs]),
        ("both", &[&seccomp, &no_new_privs]),
    ];
    for (case, changes) in cases {
        let spy = site
            .spy(|config| changes.iter().for_each(|change| change(config)))
            .await;
        site.exec(&spy, 100).await;
        site.check(&spy, case, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sets_up_a_container_in_a_shared_pid_namespace_leads_nowhere() {
    let mut config = pod::pod("shared");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options =
        Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    let mut site = Site::new(config).await;
    let shared = |config: &mut cri::ContainerConfig| {
        pod::security(config).namespace_options =
            Some(pod::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    };
    let spy = site.spy(shared).await;
    site.start_others(NamespaceMode::Pod, "", 24).await;
    site.check(&spy, "shared", 24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sets_up_a_container_to_debug_another_leads_nowhere() {
    let mut site = Site::new(pod::pod("target")).await;
    let spy = site.spy(|_| {}).await;
    site.start_others(NamespaceMode::Target, &spy, 24).await;
    site.check(&spy, "target", 24).await;
}
