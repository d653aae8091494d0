//! A container of an external runtime is as one of Corten's own executor, as far as it can see and as far as the CRI tells.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt};

use corten_proto::cri::{self, MountPropagation, NamespaceMode, security_profile::ProfileType};
use corten_test::{handler, node::Node, pod};
use tempfile::TempDir;

/// A node with a pod on each handler.
struct Site {
    node: Node,
    runtime: pod::Runtime,
    own: String,
    external: String,
    /// Files of the Container Device Interface.
    cdi: TempDir,
}

impl Site {
    async fn new() -> Self {
        Self::with(pod::host_network_pod).await
    }

    async fn with(config: impl Fn(&str) -> cri::PodSandboxConfig) -> Self {
        let cdi = TempDir::new().unwrap();
        let table = handler::oci_table().unwrap();
        let table = format!("cdi_dirs = [{:?}]\n{table}", cdi.path());
        let node = handler::node(&table).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let mut pods = Vec::new();
        for name in ["", handler::OCI] {
            let config = pod::logged(&node, config(&format!("pod-{name}")));
            pods.push(handler::run_pod(&mut runtime, &config, name).await.unwrap());
        }
        let external = pods.pop().unwrap();
        let own = pods.pop().unwrap();
        Self {
            node,
            runtime,
            own,
            external,
            cdi,
        }
    }

    /// Runs a sleeping container in both pods.
    async fn run(&mut self, config: &cri::ContainerConfig) -> [String; 2] {
        let own = pod::run(&mut self.runtime, &self.own, config)
            .await
            .unwrap();
        let external = pod::run(&mut self.runtime, &self.external, config)
            .await
            .unwrap();
        [own, external]
    }

    async fn on_external(&mut self, config: &cri::ContainerConfig) -> String {
        pod::run(&mut self.runtime, &self.external, config)
            .await
            .unwrap()
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    async fn fails(&mut self, id: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime, id, script).await.unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
        String::from_utf8(done.stderr).unwrap()
    }

    /// Init and an exec see the same under both.
    async fn alike(&mut self, mut config: cri::ContainerConfig) {
        config.command = vec![
            "sh".into(),
            "-c".into(),
            format!("({SEES}) >/tmp/init; echo done >/tmp/done; sleep 1000"),
        ];
        let mut seen = Vec::new();
        for pod in [self.own.clone(), self.external.clone()] {
            // Whoever the process is, it can write there.
            let dir = self.node.dir().join("seen");
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
            config.mounts = vec![pod::mount(&dir, "/tmp")];
            let id = pod::run(&mut self.runtime, &pod, &config).await.unwrap();
            let wait = "until [ -e /tmp/done ]; do sleep 0.01; done; cat /tmp/init";
            let init = self.output(&id, wait).await;
            let exec = self.output(&id, SEES).await;
            let status = pod::status(&mut self.runtime, &id).await.unwrap();
            fs::remove_dir_all(&dir).unwrap();
            seen.push((init, exec, status.user));
        }
        for (what, own, external) in [
            ("init", &seen[0].0, &seen[1].0),
            ("exec", &seen[0].1, &seen[1].1),
        ] {
            let lines = |text: &str| -> Vec<String> {
                let lines = text.lines().filter(|line| {
                    // crun's exec knows neither the container's groups nor its limits.
                    let unknown = ["Groups:", "Max open files"];
                    what == "init"
                        || !handler::is_crun()
                        || !unknown.iter().any(|name| line.starts_with(name))
                });
                lines.map(Into::into).collect()
            };
            assert_eq!(lines(own), lines(external), "{what}");
        }
        assert_eq!(seen[0].2, seen[1].2);
    }
}

/// What a process can see of what was given to it. Where v1's hierarchies are mounted, runc leaves the directory of mount
/// points writable; nothing of the host is in it. What it masks a file with has other flags.
const SEES: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status | sed 's/ *$//'; \
    grep 'open files' /proc/self/limits; cat /proc/self/oom_score_adj; pwd; env | sort; hostname; umask; \
    ls -l /dev | awk '{ print $1, $3, $4, $5, $6, $NF }' | grep -v ' pts$' | sort; \
    awk '{ print $5, $6 }' /proc/self/mountinfo | sed 's/,relatime//; s/relatime,//' | grep -vE '^(/sys/fs/cgroup|/proc/timer_list|/proc/kcore) ' | sort -u; \
    for p in /proc/sys /proc/kcore /proc/timer_list; do [ -w $p ] && echo writes $p; head -c 1 $p 2>&1 | wc -c; done; true";

fn context(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    pod::security(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_see_the_same() {
    let mut site = Site::new().await;
    site.alike(pod::container("usual", "")).await;

    let mut user = pod::container("user", "");
    context(&mut user).run_as_username = "app".into();
    context(&mut user).supplemental_groups = vec![7, 1234];
    user.working_dir = "/usr".into();
    user.envs = vec![cri::KeyValue {
        key: "KEY".into(),
        value: "a b".into(),
    }];
    site.alike(user).await;

    let mut confined = pod::container("confined", "");
    let security = context(&mut confined);
    security.capabilities = Some(cri::Capability {
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["CHOWN".into()],
        add_ambient_capabilities: vec!["KILL".into()],
    });
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.masked_paths = vec!["/proc/kcore".into(), "/proc/timer_list".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    security.seccomp = Some(cri::SecurityProfile::default());
    pod::resources(&mut confined).oom_score_adj = 500;
    site.alike(confined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdi_node_without_an_owner_belongs_to_the_user() {
    let mut site = Site::new().await;
    let file = r#"{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{"name": "x", "containerEdits": {"deviceNodes": [
        {"path": "/dev/user", "hostPath": "/dev/zero", "fileMode": 384},
        {"path": "/dev/told", "hostPath": "/dev/zero", "uid": 0, "gid": 7}]}}]}"#;
    fs::write(site.cdi.path().join("a.json"), file).unwrap();
    let mut config = pod::container("cdi", "sleep 1000");
    config.cdi_devices = vec![cri::CdiDevice {
        name: "v.com/c=x".into(),
    }];
    context(&mut config).run_as_username = "app".into();
    for id in site.run(&config).await {
        let owners = site.output(&id, "cd /dev && stat -c %u:%g user told").await;
        assert_eq!(owners, "1000:1001\n0:7\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seccomp_profiles_are_in_force() {
    let mut site = Site::new().await;
    let mut config = pod::container("default", "sleep 1000");
    context(&mut config).seccomp = Some(cri::SecurityProfile::default());
    let id = site.on_external(&config).await;
    assert!(
        site.output(&id, "grep Seccomp: /proc/1/status")
            .await
            .contains('2')
    );
    let refused = site.fails(&id, "unshare -U true").await;
    assert!(refused.contains("not permitted"), "{refused}");

    let profile = site.node.dir().join("profile.json");
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    fs::write(&profile, json).unwrap();
    let mut config = pod::container("localhost", "sleep 1000");
    context(&mut config).seccomp = Some(cri::SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: profile.display().to_string(),
    });
    let id = site.on_external(&config).await;
    let refused = site.fails(&id, "mkdir /made").await;
    assert!(refused.contains("No space"), "{refused}");
    site.output(&id, "ln -s target /linked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_propagate_and_are_read_only_as_asked() {
    let mut site = Site::with(|name| {
        let mut config = pod::host_network_pod(name);
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        config
    })
    .await;
    let shared = site.node.dir().join("shared");
    let path = shared.display().to_string();
    site.node
        .shell(&format!("mkdir {path} && mount -t tmpfs none {path} && mount --make-shared {path} && mkdir {path}/late {path}/back {path}/sub && mount -t tmpfs none {path}/sub"))
        .unwrap();
    let mut mounts = Vec::new();
    for (propagation, place) in [
        (MountPropagation::PropagationPrivate, "/private"),
        (MountPropagation::PropagationHostToContainer, "/slave"),
        (MountPropagation::PropagationBidirectional, "/shared"),
    ] {
        mounts.push(cri::Mount {
            host_path: path.clone(),
            container_path: place.into(),
            propagation: propagation.into(),
            ..Default::default()
        });
    }
    mounts.push(cri::Mount {
        host_path: path.clone(),
        container_path: "/readonly".into(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    });
    mounts.push(cri::Mount {
        host_path: format!("{path}/not/there"),
        container_path: "/made".into(),
        ..Default::default()
    });
    let mut config = pod::container("volumes", "sleep 1000");
    config.mounts = mounts;
    context(&mut config).privileged = true;
    let id = site.on_external(&config).await;
    site.node
        .shell(&format!(
            "mount -t tmpfs none {path}/late && touch {path}/late/x"
        ))
        .unwrap();
    site.output(
        &id,
        "test -e /slave/late/x && test -e /shared/late/x && test ! -e /private/late/x",
    )
    .await;
    site.output(
        &id,
        "mount -t tmpfs none /shared/back && touch /shared/back/y",
    )
    .await;
    site.node.shell(&format!("test -e {path}/back/y")).unwrap();
    for place in ["/readonly/x", "/readonly/sub/x"] {
        let refused = site.fails(&id, &format!("touch {place}")).await;
        assert!(refused.contains("Read-only"), "{refused}");
    }
    site.output(&id, "touch /made/here").await;
    site.node
        .shell(&format!("test -e {path}/not/there/here"))
        .unwrap();
    // Nothing of the bundle is mounted where the host sees it.
    let state = site.node.state().display().to_string();
    let left = format!("grep {state}/containers /proc/self/mountinfo || true");
    assert_eq!(site.node.shell(&left).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_and_pid_modes_are_as_asked() {
    let mut site = Site::with(|name| {
        let mut config = pod::host_network_pod(name);
        let context = config.linux.as_mut().unwrap().security_context.as_mut();
        context.unwrap().namespace_options =
            Some(pod::namespaces(NamespaceMode::Node, NamespaceMode::Pod));
        config
    })
    .await;
    let mut terminal = pod::container("tty", "test -t 0 && test -t 1 && stty size; exit 9");
    terminal.command[2] = "test -t 0 && test -t 1 && test -c /dev/console && echo terminal".into();
    terminal.tty = true;
    let id = site.on_external(&terminal).await;
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 0);
    let log = fs::read_to_string(site.node.dir().join("logs/tty.log")).unwrap();
    assert!(log.contains("terminal"), "{log}");

    for mode in [
        NamespaceMode::Pod,
        NamespaceMode::Container,
        NamespaceMode::Node,
    ] {
        let mut config = pod::container(&format!("{mode:?}"), "sleep 1000");
        context(&mut config).namespace_options = Some(pod::namespaces(NamespaceMode::Node, mode));
        let [own, external] = site.run(&config).await;
        let script = "tr '\\0' ' ' </proc/1/cmdline";
        let (own, external) = (
            site.output(&own, script).await,
            site.output(&external, script).await,
        );
        let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        assert_eq!(name(&own), name(&external), "{mode:?}");
    }
    let mut target = pod::container("target", "sleep 1000");
    let alone = pod::container("alone", "sleep 999");
    let alone = site.on_external(&alone).await;
    let mut options = pod::namespaces(NamespaceMode::Node, NamespaceMode::Target);
    options.target_id = alone;
    context(&mut target).namespace_options = Some(options);
    let id = site.on_external(&target).await;
    assert!(site.output(&id, "ps").await.contains("sleep 999"));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_and_limits_can_be_changed() {
    let mut site = Site::new().await;
    let mut config = pod::container("limits", "sleep 1000");
    pod::resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let id = site.on_external(&config).await;
    let request = cri::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let reply = site.runtime.container_stats(request).await.unwrap();
    let stats = reply.into_inner().stats.unwrap();
    let memory = stats.memory.unwrap().working_set_bytes.unwrap().value;
    assert!(memory > 0 && memory < 64 << 20, "{memory}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);

    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true";
    assert_eq!(site.output(&id, limit).await.trim(), (64 << 20).to_string());
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    site.runtime
        .update_container_resources(request)
        .await
        .unwrap();
    assert_eq!(site.output(&id, limit).await.trim(), (96 << 20).to_string());
}
