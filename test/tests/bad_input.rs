//! Bad input: told by field or file, with the code that a kubelet acts on, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tonic::{Code, Status};

async fn node() -> Node {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    node
}

#[track_caller]
fn check(status: &Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(
            status.message().contains(word),
            "{word}: {}",
            status.message()
        );
    }
}

async fn refuse_pod(node: &Node, config: Option<cri::PodSandboxConfig>, words: &[&str]) {
    let request = cri::RunPodSandboxRequest {
        config,
        ..Default::default()
    };
    let mut runtime = node.runtime().await.unwrap();
    check(
        &runtime.run_pod_sandbox(request).await.unwrap_err(),
        Code::InvalidArgument,
        words,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pods_are_refused_by_field() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    refuse_pod(&node, None, &["config"]).await;
    let nameless = cri::PodSandboxConfig {
        metadata: None,
        ..pod::pod("x")
    };
    refuse_pod(&node, Some(nameless), &["config.metadata"]).await;
    // The first is the host's, and of the others the kernel alone knows: no such file, a directory, no such value.
    for (name, value) in [
        ("vm.swappiness", "1"),
        ("net.ipv4/x", "1"),
        ("net.core.nothing", "1"),
        ("net.ipv4", "1"),
        ("net.ipv4.ip_forward", "lots"),
        ("net.ipv4.conf.lo.rp_filter.x", "1"),
        ("kernel.shmmni", "-7"),
    ] {
        let mut sysctl = pod::pod("x");
        let linux = sysctl.linux.as_mut().unwrap();
        linux.sysctls.insert(name.into(), value.into());
        let field = format!("config.linux.sysctls[{name:?}]: ");
        refuse_pod(&node, Some(sysctl.clone()), &[&field]).await;
    }
    let long = cri::PodSandboxConfig {
        hostname: "h".repeat(65),
        ..pod::pod("x")
    };
    refuse_pod(&node, Some(long), &["config.hostname"]).await;
    let request = cri::RunPodSandboxRequest {
        config: Some(pod::pod("x")),
        runtime_handler: "kata".into(),
    };
    let mut runtime = node.runtime().await.unwrap();
    let refused = runtime.run_pod_sandbox(request).await.unwrap_err();
    check(
        &refused,
        Code::InvalidArgument,
        &["runtime_handler", "kata"],
    );
    Leftovers::settle(&node, &before).await.unwrap();
}

/// A change of a container's config, the code that it is refused with, and words of the error.
type Case = (fn(&mut cri::ContainerConfig), Code, &'static [&'static str]);

const CONTAINERS: &[Case] = &[
    (
        |config| config.metadata = None,
        Code::InvalidArgument,
        &["config.metadata"],
    ),
    (
        |config| config.image = None,
        Code::InvalidArgument,
        &["config.image"],
    ),
    (
        |config| config.image.as_mut().unwrap().image = "test.example/absent:1".into(),
        Code::NotFound,
        &["test.example/absent:1"],
    ),
    (
        |config| pod::security(config).run_as_username = "nobody-here".into(),
        Code::InvalidArgument,
        &["nobody-here", "/etc/passwd"],
    ),
    (
        |config| pod::security(config).run_as_group = Some(cri::Int64Value { value: 5 }),
        Code::InvalidArgument,
        &["run_as_group"],
    ),
    (
        |config| {
            let capabilities = vec!["NOT_ONE".into()];
            pod::security(config).capabilities = Some(cri::Capability {
                add_capabilities: capabilities,
                ..Default::default()
            });
        },
        Code::InvalidArgument,
        &["add_capabilities[0]", "NOT_ONE"],
    ),
    (
        |config| config.mounts = vec![pod::mount("/etc", "relative")],
        Code::InvalidArgument,
        &["config.mounts[0].container_path"],
    ),
    (
        |config| config.mounts = vec![pod::mount("/dev/null/below", "/data")],
        Code::InvalidArgument,
        &["/dev/null/below", "Not a directory"],
    ),
    (
        |config| {
            config.devices = vec![cri::Device {
                host_path: "/dev/absent".into(),
                container_path: "/dev/absent".into(),
                permissions: "rwm".into(),
            }];
        },
        Code::InvalidArgument,
        &["/dev/absent", "No such file"],
    ),
    (
        |config| {
            let profile = cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::Localhost.into(),
                localhost_ref: "/absent/profile.json".into(),
            };
            pod::security(config).seccomp = Some(profile);
        },
        Code::InvalidArgument,
        &["seccomp", "/absent/profile.json"],
    ),
    (
        |config| config.working_dir = "not/absolute".into(),
        Code::InvalidArgument,
        &["working_dir"],
    ),
    (
        |config| config.log_path = "../../escape.log".into(),
        Code::InvalidArgument,
        &["log_path"],
    ),
    (
        |config| config.command[0] = "nul\0byte".into(),
        Code::InvalidArgument,
        &["config.command", "NUL"],
    ),
    (
        |config| {
            config.envs = vec![cri::KeyValue {
                key: "a=b".into(),
                value: Vec::new(),
            }];
        },
        Code::InvalidArgument,
        &["config.envs[0]"],
    ),
    (
        |config| pod::resources(config).memory_limit_in_bytes = 4096,
        Code::InvalidArgument,
        &["memory_limit_in_bytes", "4096"],
    ),
    (
        |config| pod::resources(config).cpu_quota = 5,
        Code::InvalidArgument,
        &["cpu_quota", "5"],
    ),
    (
        |config| pod::resources(config).cpuset_cpus = "0-".into(),
        Code::InvalidArgument,
        &["cpuset_cpus", "0-"],
    ),
    // No machine has them.
    (
        |config| pod::resources(config).cpuset_cpus = "65000".into(),
        Code::InvalidArgument,
        &["config.linux.resources.cpuset_cpus", "65000"],
    ),
    (
        |config| pod::resources(config).cpuset_mems = "0,65000".into(),
        Code::InvalidArgument,
        &["config.linux.resources.cpuset_mems", "65000"],
    ),
    (
        |config| pod::resources(config).cpu_quota = i64::MAX,
        Code::InvalidArgument,
        &["config.linux.resources.cpu_quota"],
    ),
    (
        |config| pod::resources(config).oom_score_adj = 2000,
        Code::InvalidArgument,
        &["oom_score_adj", "2000"],
    ),
    (
        |config| config.mounts = vec![pod::mount("relative/source", "/data")],
        Code::InvalidArgument,
        &["config.mounts[0].host_path"],
    ),
    (
        |config| config.mounts = vec![pod::mount("/etc/passwd", "/etc")],
        Code::InvalidArgument,
        &["\"/etc\"", "the source /etc/passwd is a file"],
    ),
    (
        |config| pod::security(config).run_as_user = Some(cri::Int64Value { value: -5 }),
        Code::InvalidArgument,
        &["run_as_user", "-5"],
    ),
    (
        |config| pod::security(config).supplemental_groups = vec![1 << 40],
        Code::InvalidArgument,
        &["supplemental_groups"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn bad_containers_are_refused_and_leave_nothing() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::logged(&node, pod::pod("bad"));
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    for (change, code, words) in CONTAINERS {
        let mut config = pod::container("bad", "true");
        change(&mut config);
        let refused = pod::create(&mut runtime, &pod_id, &config).await;
        check(&refused.unwrap_err(), *code, words);
    }
    assert_eq!(pod::containers(&mut runtime).await.unwrap(), []);
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_are_not_found() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let id = "0123456789".to_owned();
    let mut errors = Vec::new();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: false,
    };
    errors.push(runtime.pod_sandbox_status(request).await.unwrap_err());
    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: false,
    };
    errors.push(runtime.container_status(request).await.unwrap_err());
    let request = cri::StartContainerRequest {
        container_id: id.clone(),
    };
    errors.push(runtime.start_container(request).await.unwrap_err());
    let request = cri::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    errors.push(runtime.reopen_container_log(request).await.unwrap_err());
    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        timeout: 1,
    };
    errors.push(runtime.exec_sync(request).await.unwrap_err());
    let created = pod::create(&mut runtime, &id, &pod::container("x", "true")).await;
    errors.push(created.unwrap_err());
    for error in errors {
        check(&error, Code::NotFound, &[&id]);
    }
}

/// A change of a container's config that is found out when its program is run, and words of the error.
type StartCase = (fn(&mut cri::ContainerConfig), &'static [&'static str]);

const STARTS: &[StartCase] = &[
    (
        |config| config.command = vec!["/bin/absent".into()],
        &["/bin/absent", "No such file"],
    ),
    (
        |config| config.command = vec!["absent".into()],
        &["\"absent\"", "no such program"],
    ),
    (
        |config| config.command = vec!["/etc/passwd".into()],
        &["/etc/passwd", "Permission denied"],
    ),
    (
        |config| config.command = vec!["/bin".into()],
        &["/bin", "Permission denied"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_told_at_the_start_and_leaves_nothing() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("bad")).await.unwrap();
    for (change, words) in STARTS {
        let mut config = pod::container("bad", "true");
        change(&mut config);
        let id = pod::create(&mut runtime, &pod_id, &config).await.unwrap();
        let request = cri::StartContainerRequest {
            container_id: id.clone(),
        };
        let refused = runtime.start_container(request.clone()).await.unwrap_err();
        for word in *words {
            assert!(refused.message().contains(word), "{word}: {refused}");
        }
        let status = pod::exited(&runtime, &id).await.unwrap();
        assert_eq!((status.exit_code, &*status.reason), (128, "StartError"));
        // It has failed for good.
        let again = runtime.start_container(request).await.unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
        let request = cri::RemoveContainerRequest { container_id: id };
        runtime.remove_container(request).await.unwrap();
    }
    pod::remove_pod(&mut runtime, &pod_id).await.unwrap();
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_seccomp_profile_is_refused_by_file() {
    let node = node().await;
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::pod("bad")).await.unwrap();
    let before = Leftovers::count(&node).unwrap();
    let file = node.dir().join("profile.json");
    for (profile, word) in [
        ("{", "line 1"),
        (
            r#"{"defaultAction": "SCMP_ACT_WHATEVER"}"#,
            "SCMP_ACT_WHATEVER",
        ),
        (r#"{"syscalls": []}"#, "defaultAction"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener.sock"}"#,
            "listenerPath",
        ),
    ] {
        fs::write(&file, profile).unwrap();
        let mut config = pod::container("bad", "true");
        pod::security(&mut config).seccomp = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost.into(),
            localhost_ref: file.display().to_string(),
        });
        let refused = pod::create(&mut runtime, &pod_id, &config).await;
        let refused = refused.unwrap_err();
        check(
            &refused,
            Code::InvalidArgument,
            &[
                "config.linux.security_context.seccomp",
                &file.display().to_string(),
                word,
            ],
        );
    }
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_is_refused_with_its_line() {
    let node = Node::without_daemon(&[]).await.unwrap();
    let file = node.dir().join("config.toml");
    let path = file.display().to_string();
    for (text, words) in [
        ("root = \"/a\"\nrooot = \"/b\"\n", &["line 2", "rooot"][..]),
        (
            "cgroup_driver = \"openrc\"\n",
            &["line 1", "openrc", "systemd"],
        ),
        (
            "[image]\nmax_concurrent_downloads = 0\n",
            &["max_concurrent_downloads"],
        ),
        (
            "[container]\nlog_line_max = 4096\nlog_rate_burst = 4095\n",
            &["container.log_rate_burst", "log_line_max"],
        ),
        (
            "[streaming]\nidle_timeout = 0\n",
            &["streaming.idle_timeout", "31536000"],
        ),
        (
            "[streaming]\ncreation_timeout = 9223372036854775807\n",
            &["streaming.creation_timeout", "3600"],
        ),
        (
            "[streaming]\nhangup_grace = 9223372036854775807\n",
            &["streaming.hangup_grace", "3600"],
        ),
        (
            "[streaming]\nmax_sessions = 0\n",
            &["streaming.max_sessions", "100000"],
        ),
        ("root = \n", &["line 1"]),
    ] {
        fs::write(&file, text).unwrap();
        for command in [
            &["config", "check", &path][..],
            &["serve", "--config", &path],
        ] {
            let refused = node.corten(command).unwrap_err().to_string();
            assert!(refused.contains("64"), "{refused}");
            for word in words {
                assert!(refused.contains(word), "{word}: {refused}");
            }
        }
    }
    for flags in [
        &["--absent", "x"][..],
        &["--cgroup-driver", "openrc"],
        &["--log-format", "xml"],
        &["--root", "relative"],
    ] {
        let refused = node
            .corten(&[&["serve"], flags].concat())
            .unwrap_err()
            .to_string();
        let value = flags[0].trim_start_matches('-').replace('-', "_");
        let named = refused.contains(flags[0]) || refused.contains(&value);
        assert!(named && refused.contains("64"), "{refused}");
    }
    fs::write(&file, node.corten(&["config", "default"]).unwrap()).unwrap();
    node.corten(&["config", "check", &path]).unwrap();
}

/// In a machine with both, `--test vm_systemd` uses it.
#[tokio::test(flavor = "multi_thread")]
async fn the_systemd_driver_is_refused_without_cgroup_v2_alone_and_systemd() {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return eprintln!("not run here: it needs a host with cgroup v1");
    }
    let node = Node::without_daemon(&[]).await.unwrap();
    let mut serve = node.serve_arguments();
    serve.extend(["--cgroup-driver", "systemd"].map(String::from));
    let serve: Vec<_> = serve.iter().map(String::as_str).collect();
    let refused = node.corten(&serve).unwrap_err().to_string();
    assert!(
        refused.contains("v2 alone") && refused.contains("cgroupfs"),
        "{refused}"
    );
}
