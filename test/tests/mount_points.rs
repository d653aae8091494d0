//! Mount points: behind dangling symlinks of an image, amid renames and mounts, and where there can be none.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{handler, image, node::Node, pod};
use tonic::Code;

const IMAGE: &str = "test.example/points:1";

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    /// A pod on its own network, and an image with these symlinks and a file `plain`.
    async fn new(options: &[&str], links: &[(&str, &str)]) -> Self {
        let node = Node::start_with(&[&["--dev-network"], options].concat())
            .await
            .unwrap();
        load(&node, links).await;
        let mut runtime = node.runtime().await.unwrap();
        let pod = pod::run_pod(&mut runtime, &of_pod("points")).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn create(&mut self, name: &str, mounts: Vec<cri::Mount>) -> pod::Reply<String> {
        pod::create(&mut self.runtime, &self.pod, &with(name, mounts)).await
    }

    async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        pod::run(&mut self.runtime, &self.pod, config)
            .await
            .unwrap()
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    /// A directory of the host with a file in it.
    fn data(&self) -> PathBuf {
        let dir = self.node.dir().join("data");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "data\n").unwrap();
        dir
    }

    async fn refused(&mut self, mount: cri::Mount, field: &str, words: &str) {
        let path = mount.container_path.clone();
        let refused = self.create("refused", vec![mount]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{path}: {refused}");
        let start = format!("config.mounts[0].{field}: ");
        let message = refused.message();
        assert!(
            message.starts_with(&start) && message.contains(words),
            "{path}: {message}"
        );
    }
}

async fn load(node: &Node, links: &[(&str, &str)]) {
    image::load_changed(node, IMAGE, |tree, _| {
        fs::write(tree.join("plain"), "")?;
        for (link, target) in links {
            let path = tree.join(link);
            fs::create_dir_all(path.parent().unwrap())?;
            symlink(target, path)?;
        }
        Ok(())
    })
    .await
    .unwrap();
}

fn of_pod(name: &str) -> cri::PodSandboxConfig {
    let mut config = pod::pod(name);
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["192.0.2.53".into()],
        ..Default::default()
    });
    config
}

fn with(name: &str, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
    let mut config = pod::container(name, "sleep 1000");
    config.image.as_mut().unwrap().image = IMAGE.into();
    config.mounts = mounts;
    config
}

/// As the images of systemd and Nix distributions have them; `outside` is a path of the host.
fn dangling(outside: &str) -> Vec<(&'static str, String)> {
    [
        ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        ("etc/hosts", &format!("{outside}/hosts")),
        ("etc/hostname", "first"),
        ("etc/first", "../var/second"),
        ("var/second", "/lib64/./gone/../hostname"),
        ("etc/localtime", "../usr/share/zoneinfo/Etc/UTC"),
        ("srv", "../../../../../deep/srv"),
        ("opt/link", outside),
    ]
    .map(|(link, target)| (link, target.to_owned()))
    .into()
}

const SEEN: &str = "cat /etc/hostname /var/../lib64/hostname /etc/localtime /srv/file /opt/link/far/below/file; \
                    grep -c 192.0.2.53 /run/systemd/resolve/stub-resolv.conf; grep -c points /etc/hosts; \
                    stat -c '%a %u' /run/systemd /deep; readlink /etc/resolv.conf";
const WANT: &str = "points\npoints\ndata\ndata\ndata\n1\n1\n755 0\n755 0\n../run/systemd/resolve/stub-resolv.conf\n";

#[tokio::test(flavor = "multi_thread")]
async fn mount_points_are_made_behind_dangling_links() {
    let mut site = Site::new(&[], &[]).await;
    let outside = site.node.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let links = dangling(outside.to_str().unwrap());
    let links: Vec<_> = links
        .iter()
        .map(|(link, target)| (*link, &**target))
        .collect();
    load(&site.node, &links).await;
    let data = site.data();
    let mounts = vec![
        pod::mount(data.join("file"), "/etc/localtime"),
        pod::mount(&data, "/srv"),
        pod::mount(&data, "/opt/link/far/below"),
    ];
    let mut configs = ["plain", "read-only"].map(|name| with(name, mounts.clone()));
    pod::security(&mut configs[1]).readonly_rootfs = true;
    for config in &configs {
        let id = site.run(config).await;
        assert_eq!(site.output(&id, SEEN).await, WANT);
    }

    // Root of a pod with a user namespace owns what is made.
    let mut pod = of_pod("points-users");
    pod.hostname = "points".into();
    let ids = || {
        vec![cri::IdMapping {
            host_id: 300_000,
            container_id: 0,
            length: 65_536,
        }]
    };
    let context = pod
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.namespace_options.as_mut().unwrap().userns_options = Some(cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids(),
        gids: ids(),
    });
    site.pod = pod::run_pod(&mut site.runtime, &pod).await.unwrap();
    let id = site.run(&configs[0]).await;
    assert_eq!(site.output(&id, SEEN).await, WANT);
    let made = "touch /run/systemd/mine && stat -c %u /run/systemd/mine";
    assert_eq!(site.output(&id, made).await, "0\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_in_circles_are_refused() {
    let links = [
        ("etc/localtime", "other"),
        ("etc/other", "localtime"),
        ("grows", "x/../grows/y"),
    ];
    let mut site = Site::new(&[], &links).await;
    let data = site.data();
    let words = "Too many levels of symbolic links";
    site.refused(
        pod::mount(data.join("file"), "/etc/localtime"),
        "container_path",
        words,
    )
    .await;
    site.refused(pod::mount(&data, "/grows/z"), "container_path", words)
        .await;
    load(&site.node, &[("etc/hosts", "hosts")]).await;
    let refused = site.create("hosts", Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused.message().contains("/etc/hosts") && refused.message().contains(words),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_volume_lead_into_the_container_alone() {
    let mut site = Site::new(&[], &[]).await;
    let data = site.data();
    let outside = site.node.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let volume = site.node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    symlink(outside.join("made"), volume.join("absolute")).unwrap();
    symlink("../../../../made/here", volume.join("relative")).unwrap();
    let mounts = vec![
        pod::mount(&volume, "/volume"),
        pod::mount(data.join("file"), "/volume/absolute"),
        pod::mount(&data, "/volume/relative/below"),
    ];
    let id = site.run(&with("links", mounts)).await;
    let script = format!("cat {}/made /made/here/below/file", outside.display());
    assert_eq!(site.output(&id, &script).await, "data\ndata\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_behind_a_link_are_mounted_while_others_rename_and_mount() {
    let mut site = Site::new(&[], &[("var/run", "../run"), ("var/lock", "../run/lock")]).await;
    let data = site.data();
    let done = AtomicBool::new(false);
    let storm = site.node.dir().join("storm");
    fs::create_dir_all(storm.join("1")).unwrap();
    fs::create_dir_all(storm.join("mounted")).unwrap();
    let script = format!(
        "while [ ! -e {0}/end ]; do mount -t tmpfs none {0}/mounted; umount {0}/mounted; done",
        storm.display()
    );
    let mut mounting = site
        .node
        .command("sh")
        .args(["-c", &script])
        .spawn()
        .unwrap();
    let mut failed = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(storm.join("1"), storm.join("2")).unwrap();
                fs::rename(storm.join("2"), storm.join("1")).unwrap();
            }
        });
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            for number in 0..30 {
                let targets = (0..20).map(|volume| format!("/var/run/secrets/{volume}/token"));
                let mounts = targets.chain(["/var/lock/it".into()]);
                let mounts = mounts.map(|target| pod::mount(&data, &target)).collect();
                let created = handle.block_on(site.create(&format!("amid-{number}"), mounts));
                failed.extend(created.err());
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    fs::write(storm.join("end"), "").unwrap();
    mounting.wait().unwrap();
    assert!(
        failed.is_empty(),
        "{} of 30 failed: {}",
        failed.len(),
        failed[0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_cannot_be_made_is_told_by_its_field() {
    let links = [
        ("to-proc", "/proc/sys"),
        ("to-root", "etc/.."),
        ("to-plain", "plain/below"),
    ];
    let option = ["--absent-mount-source-to-reject", "/nowhere/corten"];
    let mut site = Site::new(&option, &links).await;
    let data = site.data();
    let file = data.join("file");
    for (source, target, field, words) in [
        (
            &*data,
            "/proc/sys/vm",
            "container_path",
            "below /proc only on /proc/cpuinfo",
        ),
        (
            &file,
            "/proc/./self/../1/environ",
            "container_path",
            "/proc/1/environ",
        ),
        (&file, "/proc/net/dev", "container_path", "/proc/net/dev"),
        (&data, "/proc", "host_path", "no proc file system"),
        (&data, "/to-proc", "container_path", "leads into /proc"),
        (&data, "/to-root", "container_path", "leads to the root"),
        (&data, "/plain/below", "container_path", "Not a directory"),
        (&data, "/to-plain", "container_path", "Not a directory"),
        (
            &file,
            "/etc",
            "container_path",
            "is a file, and there is a directory",
        ),
        (
            &data,
            "/etc/passwd",
            "container_path",
            "is a directory, and there is a file",
        ),
        (&data, "/sys/made", "container_path", "/sys/made"),
        (&file.join("below"), "/made", "host_path", "Not a directory"),
        (
            Path::new("/nowhere/corten"),
            "/made",
            "host_path",
            "No such file",
        ),
    ] {
        site.refused(pod::mount(source, target), field, words).await;
    }
    let mut readonly = pod::mount(&data, "/volume");
    readonly.readonly = true;
    let mounts = vec![readonly, pod::mount(&data, "/volume/missing")];
    let refused = site.create("read-only", mounts).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let message = refused.message();
    assert!(
        message.starts_with("config.mounts[1].container_path: "),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proc_and_what_emulators_stand_in_for_can_be_mounted() {
    let mut site = Site::new(&[], &[]).await;
    let data = site.data();
    let file = data.join("file");
    let mounts = vec![
        pod::mount(&file, "/proc/meminfo"),
        pod::mount(&file, "/proc/sys/kernel/ns_last_pid"),
    ];
    let id = site.run(&with("emulated", mounts)).await;
    assert_eq!(site.output(&id, "cat /proc/meminfo").await, "data\n");
    let mounts = vec![
        pod::mount(Path::new("/proc"), "/proc"),
        pod::mount(&file, "/proc/uptime"),
        pod::mount(Path::new("/proc"), "/host/proc"),
        pod::mount(&file, "/host/proc/version"),
    ];
    let id = site.run(&with("of-the-node", mounts)).await;
    let seen = site
        .output(
            &id,
            "cat /proc/uptime /host/proc/version; stat -f -c %T /proc",
        )
        .await;
    assert_eq!(seen, "data\ndata\nproc\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_runtime_is_not_asked_for_what_cannot_be() {
    let node = handler::node(&handler::oci_table().unwrap()).await.unwrap();
    load(&node, &[("etc/localtime", "../usr/share/zoneinfo/UTC")]).await;
    let mut runtime = node.runtime().await.unwrap();
    let config = of_pod("external");
    let pod = handler::run_pod(&mut runtime, &config, handler::OCI)
        .await
        .unwrap();
    let mut site = Site { node, runtime, pod };
    let data = site.data();
    let file = data.join("file");
    for (source, target, words) in [
        (&data, "/proc/sys/vm", "/proc/sys/vm"),
        (&data, "/plain/below", "Not a directory"),
        (&data, "/plain", "is a directory, and there is a file"),
        (&file, "/etc", "is a file, and there is a directory"),
    ] {
        site.refused(pod::mount(source, target), "container_path", words)
            .await;
    }
    site.refused(
        pod::mount(&data, "/proc"),
        "host_path",
        "no proc file system",
    )
    .await;
    site.refused(
        pod::mount(file.join("below"), "/made"),
        "host_path",
        "Not a directory",
    )
    .await;
    let mounts = vec![pod::mount(&file, "/etc/localtime")];
    let id = site.run(&with("dangling", mounts)).await;
    assert_eq!(
        site.output(&id, "cat /usr/share/zoneinfo/UTC").await,
        "data\n"
    );
}
