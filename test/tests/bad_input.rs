//! Bad input: told by field or file, with the code that a kubelet acts on, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use serde_json::json;
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
    let mut sysctl = pod::pod("x");
    sysctl
        .linux
        .as_mut()
        .unwrap()
        .sysctls
        .insert("vm.swappiness".into(), "1".into());
    refuse_pod(
        &node,
        Some(sysctl),
        &["config.linux.sysctls", "vm.swappiness"],
    )
    .await;
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
        |config| security(config).run_as_username = "nobody-here".into(),
        Code::InvalidArgument,
        &["nobody-here", "/etc/passwd"],
    ),
    (
        |config| security(config).run_as_group = Some(cri::Int64Value { value: 5 }),
        Code::InvalidArgument,
        &["run_as_group"],
    ),
    (
        |config| {
            let capabilities = vec!["NOT_ONE".into()];
            security(config).capabilities = Some(cri::Capability {
                add_capabilities: capabilities,
                ..Default::default()
            });
        },
        Code::InvalidArgument,
        &["add_capabilities[0]", "NOT_ONE"],
    ),
    (
        |config| config.mounts = vec![mount("/etc", "relative")],
        Code::InvalidArgument,
        &["config.mounts[0].container_path"],
    ),
    (
        |config| config.mounts = vec![mount("/dev/null/below", "/data")],
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
            security(config).seccomp = Some(profile);
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
];

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

fn mount(source: &str, target: &str) -> cri::Mount {
    cri::Mount {
        host_path: source.into(),
        container_path: target.into(),
        ..Default::default()
    }
}

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
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.clone(),
            config: Some(config),
            sandbox_config: None,
        };
        check(
            &runtime.create_container(request).await.unwrap_err(),
            *code,
            words,
        );
    }
    let list = cri::ListContainersRequest::default();
    assert!(
        runtime
            .list_containers(list)
            .await
            .unwrap()
            .into_inner()
            .containers
            .is_empty()
    );
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
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(pod::container("x", "true")),
        sandbox_config: None,
    };
    errors.push(runtime.create_container(request).await.unwrap_err());
    for error in errors {
        check(&error, Code::NotFound, &[&id]);
    }
}

async fn refuse_pull(node: &Node, reference: &str, code: Code, words: &[&str]) {
    let image = cri::ImageSpec {
        image: reference.into(),
        ..Default::default()
    };
    let request = cri::PullImageRequest {
        image: Some(image),
        ..Default::default()
    };
    let mut images = node.images().await.unwrap();
    check(&images.pull_image(request).await.unwrap_err(), code, words);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_are_refused_and_leave_no_blob() {
    let node = node().await;
    let before = Leftovers::count(&node).unwrap();
    // A registry as files, which busybox serves.
    let www = node.dir().join("www/v2/test");
    let (manifests, blobs) = (www.join("manifests"), www.join("blobs"));
    for dir in [&manifests, &blobs] {
        fs::create_dir_all(dir).unwrap();
    }
    let files = node.dir().join("files");
    fs::create_dir(&files).unwrap();
    let tar = hostile(|tar| file(tar, "fine", b"fine"));
    let descriptor = image::write_image(&files, &tar, &json!({})).unwrap();
    for entry in fs::read_dir(&files).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        fs::copy(files.join(&name), blobs.join(format!("sha256:{name}"))).unwrap();
    }
    let digest = descriptor["digest"].as_str().unwrap();
    let manifest = fs::read_to_string(blobs.join(digest)).unwrap();
    fs::write(manifests.join("broken"), &manifest[..manifest.len() / 2]).unwrap();
    fs::write(manifests.join("good"), &manifest).unwrap();
    let layer: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let layer = layer["layers"][0]["digest"].as_str().unwrap();
    fs::write(blobs.join(layer), vec![0; tar.len()]).unwrap();
    let root = node.dir().join("www").display().to_string();
    node.shell(&format!("busybox httpd -p 127.0.0.1:5005 -h {root}"))
        .unwrap();

    refuse_pull(
        &node,
        "127.0.0.1:5005/test:absent",
        Code::NotFound,
        &["test:absent"],
    )
    .await;
    refuse_pull(
        &node,
        "127.0.0.1:5005/test:broken",
        Code::FailedPrecondition,
        &["manifest"],
    )
    .await;
    refuse_pull(
        &node,
        "127.0.0.1:5005/test:good",
        Code::FailedPrecondition,
        &[layer],
    )
    .await;
    refuse_pull(
        &node,
        "127.0.0.1:1/test:down",
        Code::Unknown,
        &["RegistryUnavailable", "127.0.0.1:1"],
    )
    .await;
    refuse_pull(&node, "UPPER/case", Code::InvalidArgument, &["UPPER/case"]).await;
    Leftovers::settle(&node, &before).await.unwrap();
}

fn hostile(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    tar.into_inner().unwrap()
}

fn header(kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size.try_into().unwrap());
    header
}

/// The name as it is, also one that the crate would not write.
fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = header(tar::EntryType::Regular, content.len());
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, target: &str) {
    let mut header = header(kind, 0);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    tar.append(&header, &[][..]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_escape() {
    let node = node().await;
    let outside = node.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let before = Leftovers::count(&node).unwrap();
    let path = outside.display().to_string();
    let up = format!("{}{}/made", "../".repeat(12), path.trim_start_matches('/'));
    let layers = [
        hostile(|tar| file(tar, &up, b"x")),
        hostile(|tar| {
            link(tar, tar::EntryType::Symlink, "way", &path);
            file(tar, "way/made", b"x");
        }),
        hostile(|tar| {
            link(
                tar,
                tar::EntryType::Link,
                "stolen",
                &format!("{path}/secret"),
            )
        }),
    ];
    let socket = node.socket().display().to_string();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("test.example/hostile:{number}");
        let archive = image::archive_of_layer(node.dir(), layer, &json!({}), &name).unwrap();
        let archive = archive.display().to_string();
        let refused = node
            .corten(&["image", "--socket", &socket, "load", &archive])
            .unwrap_err();
        assert!(refused.to_string().contains("layer"), "{refused}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    Leftovers::settle(&node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_is_refused_with_its_line() {
    let node = Node::without_daemon(&[]).await.unwrap();
    let file = node.dir().join("config.toml");
    let path = file.display().to_string();
    for (text, words) in [
        ("root = \"/a\"\nrooot = \"/b\"\n", &["line 2", "rooot"][..]),
        ("cgroup_driver = \"systemd\"\n", &["not built yet"]),
        (
            "[image]\nmax_concurrent_downloads = 0\n",
            &["max_concurrent_downloads"],
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
    let refused = node
        .corten(&["serve", "--cgroup-driver", "systemd"])
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("not built yet") && refused.contains("64"),
        "{refused}"
    );
    fs::write(&file, node.corten(&["config", "default"]).unwrap()).unwrap();
    node.corten(&["config", "check", &path]).unwrap();
}
