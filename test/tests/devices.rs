//! Devices: directories of them, symlinks to them, and the same one twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use corten_proto::cri;
use corten_test::{image, node::Node, pod};

fn device(host: &str, container: &str, permissions: &str) -> cri::Device {
    cri::Device {
        host_path: host.into(),
        container_path: container.into(),
        permissions: permissions.into(),
    }
}

struct Site {
    /// Its directory has `devices/`, with a node below another directory.
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start_with(&[]).await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let dir = node.dir().join("devices").display().to_string();
        node.shell(&format!(
            "mkdir -p {dir}/below && mknod -m 640 {dir}/control c 10 237 && mknod -m 600 {dir}/below/kmsg c 1 11 \
             && chown 7:8 {dir}/control && echo text >{dir}/file && ln -s control {dir}/link"
        ))
        .unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let mut config = pod::host_network_pod("devices");
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, name: &str, devices: Vec<cri::Device>, privileged: bool) -> String {
        let mut config = pod::container(name, "sleep 1000");
        config.devices = devices;
        pod::security(&mut config).privileged = privileged;
        pod::run(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap()
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.node
            .dir()
            .join("devices")
            .join(name)
            .display()
            .to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_stands_for_the_devices_in_it() {
    let mut site = Site::new().await;
    let devices = vec![device(&site.path(""), "/dev/all", "r")];
    let id = site.run("directory", devices, false).await;
    let seen = "cd /dev/all && find . -type c && stat -c '%a %u %g %t:%T' control && : <control";
    let seen = site.output(&id, seen).await;
    let mut lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines.pop(), Some("640 7 8 a:ed"));
    lines.sort_unstable();
    assert_eq!(lines, ["./below/kmsg", "./control"]);
    // Files and symlinks are no devices, and permissions hold for each.
    for script in [
        "test -e /dev/all/file",
        "test -L /dev/all/link",
        ": >/dev/all/control",
    ] {
        let done = pod::exec(&mut site.runtime, &id, script).await.unwrap();
        assert_ne!(done.exit_code, 0, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_to_a_device_is_followed() {
    let mut site = Site::new().await;
    let devices = vec![device(&site.path("link"), "/dev/it", "rw")];
    let id = site.run("link", devices, false).await;
    assert_eq!(
        site.output(&id, "stat -c '%F %t:%T' /dev/it; : <>/dev/it")
            .await,
        "character special file a:ed\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_device_may_be_named_twice() {
    let mut site = Site::new().await;
    let twice = || vec![device("/dev/loop-control", "/dev/loop-control", "rwm"); 2];
    for (name, privileged) in [("plain", false), ("privileged", true)] {
        let id = site.run(name, twice(), privileged).await;
        let seen = site
            .output(
                &id,
                "stat -c %t:%T /dev/loop-control; : <>/dev/loop-control",
            )
            .await;
        assert_eq!(seen, "a:ed\n", "{name}");
    }
}
