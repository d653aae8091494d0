//! A daemon whose umask leaves others nothing makes for containers what one with the usual umask makes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use corten_proto::cri;
use corten_test::{image, node::Node, pod};
use serde_json::{Value, json};

const IMAGE: &str = "test.example/volume:1";
/// Modes of what the daemon and the shim make, and what a user may do with it.
const LOOKS: &str = "stat -c '%a %n' / /dev /dev/shm /dev/pts /etc/hostname /etc/hosts /etc/resolv.conf /proc/1/root \
    /volume /volume/declared /made /deep /deep/er; \
    cat /etc/hostname /etc/hosts /etc/resolv.conf >/dev/null && echo x >/dev/shm/x && echo all is read; umask; id -u";

/// What a user sees in pods of a daemon with this umask, without and with a user namespace.
async fn looks(daemon_umask: &'static str) -> Vec<String> {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    node.set_prelude(&format!("umask {daemon_umask}"));
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let change = |_: &Path, config: &mut Value| {
        config["Volumes"] = json!({ "/volume/declared": {} });
        Ok(())
    };
    image::load_changed(&node, IMAGE, change).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut seen = Vec::new();
    for in_user_namespace in [false, true] {
        let mut config = pod::pod(if in_user_namespace { "mapped" } else { "plain" });
        config.log_directory = node.dir().join(&config.hostname).display().to_string();
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            ..Default::default()
        });
        let made = node.dir().join("made").join(&config.hostname);
        let mut container = pod::container("user", "sleep 1000");
        container.image.as_mut().unwrap().image = IMAGE.into();
        container.mounts = vec![pod::mount(&made, "/made")];
        container.mounts.push(cri::Mount {
            container_path: "/deep/er".into(),
            ..container.mounts[0].clone()
        });
        if in_user_namespace {
            map_users(&mut config);
        }
        pod::security(&mut container).run_as_user = Some(cri::Int64Value { value: 1000 });
        let id = pod::run_pod(&mut runtime, &config).await.unwrap();
        let container = pod::run(&mut runtime, &id, &container).await.unwrap();
        seen.push(pod::output(&mut runtime, &container, LOOKS).await.unwrap());
        for path in [made, config.log_directory.into()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            seen.push(format!("{mode:o}"));
        }
        pod::remove_pod(&mut runtime, &id).await.unwrap();
    }
    seen
}

fn map_users(config: &mut cri::PodSandboxConfig) {
    let ids = vec![cri::IdMapping {
        host_id: 200_000,
        container_id: 0,
        length: 65_536,
    }];
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    let options = context.namespace_options.get_or_insert_default();
    options.userns_options = Some(cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_do_not_depend_on_the_daemons_umask() {
    let usual = looks("022").await;
    assert!(
        usual[0].contains("all is read") && usual[0].contains("644 /etc/resolv.conf"),
        "{usual:?}"
    );
    assert_eq!(looks("077").await, usual);
}
