//! Seccomp profiles of the node in Docker's form, whose rules depend on capabilities, architecture and kernel.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri::{self, security_profile::ProfileType};
use corten_test::{image, node::Node, pod};

const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    ],
    "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
    "syscalls": [
        {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 122, "args": null, "comment": "by capability",
            "includes": {}, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "errnoRet": 122, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["link", "linkat"], "action": "SCMP_ACT_ERRNO", "errno": "EMLINK",
            "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errno": "EROFS",
            "includes": {"arches": ["amd64", "arm64"], "minKernel": "4.8"}},
        {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["x86", "s390x"]}},
        {"names": ["rename", "renameat", "renameat2"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
        {"names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28,
            "args": [{"index": 2, "value": 61440, "valueTwo": 4096, "op": "SCMP_CMP_MASKED_EQ"}]}
    ]
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn rules_apply_by_capability_architecture_and_kernel() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod = pod::host_network_pod("docker-form");
    let pod = pod::run_pod(&mut runtime, &pod).await.unwrap();
    let file = node.dir().join("profile.json");
    fs::write(&file, PROFILE).unwrap();

    let mut containers = Vec::new();
    for (name, add) in [("plain", &[][..]), ("admin", &["SYS_ADMIN"])] {
        let mut config = pod::container(name, "sleep 1000");
        let security = pod::security(&mut config);
        security.seccomp = Some(cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: file.display().to_string(),
        });
        security.capabilities = Some(cri::Capability {
            add_capabilities: add.iter().map(|&name| name.into()).collect(),
            ..Default::default()
        });
        containers.push(pod::run(&mut runtime, &pod, &config).await.unwrap());
    }

    // What `plain` and `admin` say; nothing is done.
    for (script, want) in [
        ("mkdir /made", ["Quota exceeded", ""]),
        ("ln /etc/passwd /linked", ["", "Too many links"]),
        ("chmod 700 /tmp", ["Read-only file system"; 2]),
        ("ln -s target /symlinked", [""; 2]),
        ("touch /old && mv /old /new", [""; 2]),
        ("mknod /fifo p", ["No space left"; 2]),
        ("mknod /null c 1 3", [""; 2]),
    ] {
        for (container, want) in containers.iter().zip(want) {
            let done = pod::exec(&mut runtime, container, script).await.unwrap();
            let told = String::from_utf8(done.stderr).unwrap().to_lowercase();
            assert_eq!(done.exit_code == 0, want.is_empty(), "{script}: {told}");
            assert!(told.contains(&want.to_lowercase()), "{script}: {told}");
        }
    }
}
