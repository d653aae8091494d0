//! Mounts: read-only all the way down, what is mounted later, and the files that the runtime brings itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use corten_proto::cri::{self, MountPropagation};
use corten_test::{image, leftovers::Leftovers, node::Node, pod};
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let mut config = pod::host_network_pod("mounts");
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, name: &str, mounts: Vec<cri::Mount>, privileged: bool) -> String {
        let mut config = pod::container(name, "sleep 1000");
        config.mounts = mounts;
        pod::security(&mut config).privileged = privileged;
        pod::run(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap()
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    /// Of a script on the node.
    fn output_of(&self, script: &str) -> String {
        self.node.shell(script).unwrap()
    }

    async fn refused(&mut self, mount: cri::Mount) -> tonic::Status {
        let mut config = pod::container("refused", "true");
        config.mounts = vec![mount];
        let created = pod::create(&mut self.runtime, &self.pod, &config).await;
        created.unwrap_err()
    }

    async fn fails(&mut self, id: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime, id, script).await.unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
        String::from_utf8(done.stderr).unwrap()
    }
}

/// A directory that is a mount, with a mount in it.
fn nested(node: &Node) -> std::path::PathBuf {
    let outer = node.dir().join("outer");
    let path = outer.display();
    node.shell(&format!(
        "mkdir {path} && mount -t tmpfs none {path} && mkdir {path}/inner && mount -t tmpfs none {path}/inner"
    ))
    .unwrap();
    outer
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_for_the_mount_and_recursively_for_those_below() {
    let mut site = Site::new().await;
    let outer = nested(&site.node);
    let (mut plain, mut recursive) = (
        pod::mount(&outer, "/plain"),
        pod::mount(&outer, "/recursive"),
    );
    (plain.readonly, recursive.readonly) = (true, true);
    plain.propagation = MountPropagation::PropagationPrivate.into();
    recursive.recursive_read_only = true;
    let id = site.run("both", vec![plain, recursive], false).await;
    for path in ["/plain/x", "/recursive/x", "/recursive/inner/x"] {
        let refused = site.fails(&id, &format!("touch {path}")).await;
        assert!(refused.contains("Read-only"), "{path}: {refused}");
    }
    site.output(&id, "touch /plain/inner/x").await;
    // Not without read-only.
    let mut wrong = pod::mount(&outer, "/wrong");
    wrong.recursive_read_only = true;
    let refused = site.refused(wrong).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused
            .message()
            .contains("config.mounts[0].recursive_read_only"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    let mut site = Site::new().await;
    let shared = site.node.dir().join("shared");
    let path = shared.display().to_string();
    site.node
        .shell(&format!("mkdir {path} && mount -t tmpfs none {path} && mount --make-shared {path} && mkdir {path}/late {path}/back"))
        .unwrap();
    let with = |propagation: MountPropagation| {
        let mut mount = pod::mount(&shared, "/shared");
        mount.propagation = propagation.into();
        vec![mount]
    };
    let private = site
        .run("private", with(MountPropagation::PropagationPrivate), true)
        .await;
    let slave = site
        .run(
            "slave",
            with(MountPropagation::PropagationHostToContainer),
            true,
        )
        .await;
    let both = site
        .run(
            "both",
            with(MountPropagation::PropagationBidirectional),
            true,
        )
        .await;
    site.node
        .shell(&format!(
            "mount -t tmpfs none {path}/late && touch {path}/late/seen"
        ))
        .unwrap();
    site.output(&slave, "test -e /shared/late/seen").await;
    site.output(&both, "test -e /shared/late/seen").await;
    site.fails(&private, "test -e /shared/late/seen").await;
    for (id, reaches) in [(&private, false), (&slave, false), (&both, true)] {
        site.output(
            id,
            "mount -t tmpfs none /shared/back && touch /shared/back/seen",
        )
        .await;
        let seen = Path::new(&path).join("back/seen");
        let seen = site.node.shell(&format!(
            "test -e {} && echo yes || echo no",
            seen.display()
        ));
        assert_eq!(seen.unwrap().trim() == "yes", reaches);
    }
    // What was mounted for the host is the host's to unmount.
    site.node
        .shell(&format!("umount {path}/back {path}/late"))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_the_request_replaces_the_runtimes_own_file() {
    let mut site = Site::new().await;
    let hosts = site.node.dir().join("my-hosts");
    fs::write(&hosts, "10.0.0.1 mine\n").unwrap();
    let id = site
        .run("own", vec![pod::mount(&hosts, "/etc/hosts")], false)
        .await;
    assert_eq!(site.output(&id, "cat /etc/hosts").await, "10.0.0.1 mine\n");
    assert_eq!(
        site.output(&id, "grep -c ' /etc/hosts ' /proc/mounts")
            .await,
        "1\n"
    );
    let own = site.node.dir().join("own-shm");
    fs::create_dir(&own).unwrap();
    let id = site
        .run("shm", vec![pod::mount(&own, "/dev/shm")], false)
        .await;
    site.output(&id, "touch /dev/shm/here").await;
    assert!(own.join("here").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_points_leave_nothing_in_a_containers_own_layer() {
    let mut site = Site::new().await;
    let id = site.run("clean", Vec::new(), false).await;
    let upper = site.node.root().join("containers").join(&id).join("upper");
    let found = fs::read_dir(&upper).unwrap().map(|entry| entry.unwrap());
    assert_eq!(found.map(|entry| entry.file_name()).next(), None);
    let root = site
        .output(&id, "stat -c '%a %u %n' / /etc /proc /sys /dev")
        .await;
    assert!(root.lines().all(|line| line.contains("55 0 /")), "{root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_memory_and_nothing_of_it_stays() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let pod_id = pod::run_pod(&mut site.runtime, &pod::pod("shm"))
        .await
        .unwrap();
    let outer = std::mem::replace(&mut site.pod, pod_id.clone());
    let (one, two) = (
        site.run("one", Vec::new(), false).await,
        site.run("two", Vec::new(), false).await,
    );
    site.output(&one, "echo said > /dev/shm/word").await;
    assert_eq!(site.output(&two, "cat /dev/shm/word").await, "said\n");
    let ipc = "readlink /proc/self/ns/ipc";
    assert_eq!(site.output(&one, ipc).await, site.output(&two, ipc).await);
    assert_ne!(site.output(&one, ipc).await, site.node.shell(ipc).unwrap());
    pod::remove_pod(&mut site.runtime, &pod_id).await.unwrap();
    Leftovers::settle(&site.node, &before).await.unwrap();
    site.pod = outer;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_volumes_are_mounted_and_gone_again() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let volumes = site.node.dir().join("volumes");
    let mounts = (0..200).map(|number| {
        let source = volumes.join(number.to_string());
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("number"), number.to_string()).unwrap();
        pod::mount(&source, &format!("/volumes/{number}"))
    });
    let id = site.run("many", mounts.collect(), false).await;
    let sum = site.output(&id, "cat /volumes/*/number | wc -c").await;
    assert_eq!(sum.trim(), "490");
    pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    let request = cri::RemoveContainerRequest { container_id: id };
    site.runtime.remove_container(request).await.unwrap();
    Leftovers::settle(&site.node, &before).await.unwrap();
    assert_eq!(fs::read_dir(&volumes).unwrap().count(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_source_is_made_with_one_warning_or_refused() {
    let mut site = Site::new().await;
    let source = site.node.dir().join("absent/below");
    for name in ["first", "second"] {
        let id = site
            .run(name, vec![pod::mount(&source, "/made")], false)
            .await;
        site.output(&id, "touch /made/it").await;
    }
    assert_eq!(
        site.output_of(&format!("stat -c %a:%U {}", source.display())),
        "755:root\n"
    );
    let log = site.node.log();
    let told = |line: &&str| line.contains("WARN") && line.contains("absent/below");
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");

    site.node
        .end_daemon(nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    let rejected = site.node.dir().join("rejected");
    let option = "--absent-mount-source-to-reject".to_owned();
    site.node
        .add_options([option, rejected.display().to_string()]);
    site.node.start_daemon().await.unwrap();
    site.runtime = site.node.runtime().await.unwrap();
    let refused = site.refused(pod::mount(&rejected, "/made")).await;
    assert!(
        refused.message().contains("/rejected") && refused.message().contains("No such file"),
        "{refused}"
    );
    assert!(!rejected.exists());
    fs::write(&rejected, "").unwrap();
    site.run("there", vec![pod::mount(&rejected, "/made")], false)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn propagation_needs_a_mount_of_the_host_that_gives_it() {
    let mut site = Site::new().await;
    let path = site.node.dir().join("propagation");
    let path = path.display();
    let make = "mkdir PATH PATH-slave && mount -t tmpfs none PATH && mount --make-private PATH && mkdir PATH/below \
                && mount -t tmpfs none PATH-slave && mount --make-shared PATH-slave \
                && mkdir PATH-copy && mount --bind PATH-slave PATH-copy && mount --make-slave PATH-copy";
    site.node
        .shell(&make.replace("PATH", &path.to_string()))
        .unwrap();
    let with = |source: String, propagation: MountPropagation| {
        let mut mount = pod::mount(Path::new(&source), "/at");
        mount.propagation = propagation.into();
        mount
    };
    use MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as In};
    let refused = [
        (format!("{path}"), In),
        (format!("{path}/below"), In),
        (format!("{path}"), Both),
        (format!("{path}-copy"), Both),
    ];
    for (source, propagation) in refused {
        let refused = site.refused(with(source.clone(), propagation)).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{source}: {refused}");
        assert!(
            refused.message().contains(&source) && refused.message().contains("--make-rshared"),
            "{refused}"
        );
    }
    site.run("slave", vec![with(format!("{path}-copy"), In)], true)
        .await;
    site.run("shared", vec![with(format!("{path}-slave"), Both)], true)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_noexec_nodev_and_nosuid() {
    let mut site = Site::new().await;
    let status = site.runtime.status(cri::StatusRequest::default()).await;
    assert!(status.unwrap().into_inner().features.unwrap().mount_options);
    let source = site.node.dir().join("options");
    fs::create_dir(&source).unwrap();
    fs::copy("/bin/busybox", source.join("busybox")).unwrap();
    let path = source.display();
    site.node
        .shell(&format!(
            "chmod 4755 {path}/busybox && mknod -m 666 {path}/null c 1 3"
        ))
        .unwrap();
    let (plain, mut bare) = (pod::mount(&source, "/plain"), pod::mount(&source, "/bare"));
    let options = ["noexec", "nodev", "nosuid"];
    bare.mount_options = options.map(str::to_owned).into();
    let id = site.run("options", vec![plain, bare.clone()], false).await;
    site.output(&id, "/plain/busybox true && echo x >/plain/null")
        .await;
    site.fails(&id, "/bare/busybox true").await;
    site.fails(&id, "echo x >/bare/null").await;
    let flags = site.output(&id, "grep ' /bare ' /proc/mounts").await;
    assert!(
        options.iter().all(|option| flags.contains(option)),
        "{flags}"
    );
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.mounts[1], bare);
    bare.mount_options = vec!["nosuid".into(), "noatime".into()];
    let refused = site.refused(bare).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused
            .message()
            .starts_with("config.mounts[0].mount_options[1]: \"noatime\""),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn single_files_symlinks_and_tmpfs_are_sources() {
    let mut site = Site::new().await;
    let dir = site.node.dir().join("sources");
    fs::create_dir_all(dir.join("real")).unwrap();
    fs::write(dir.join("real/file"), "real\n").unwrap();
    std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
    std::os::unix::fs::symlink(dir.join("real/file"), dir.join("file-link")).unwrap();
    let memory = dir.join("memory");
    site.node
        .shell(&format!(
            "mkdir {0} && mount -t tmpfs -o size=1m none {0}",
            memory.display()
        ))
        .unwrap();
    let mut mounts = vec![
        pod::mount(dir.join("link"), "/by-link"),
        pod::mount(dir.join("file-link"), "/by/file"),
        pod::mount(&memory, "/memory"),
    ];
    for name in ["hostname", "resolv.conf", "hosts", "passwd"] {
        fs::write(dir.join(name), format!("{name}\n")).unwrap();
        mounts.push(pod::mount(dir.join(name), &format!("/etc/{name}")));
    }
    let id = site.run("sources", mounts, false).await;
    let seen = "cat /by-link/file /by/file /etc/hostname /etc/resolv.conf /etc/hosts /etc/passwd; stat -f -c %T /memory; \
                grep -c -E ' /etc/(hostname|resolv.conf|hosts) ' /proc/mounts";
    assert_eq!(
        site.output(&id, seen).await,
        "real\nreal\nhostname\nresolv.conf\nhosts\npasswd\ntmpfs\n3\n"
    );
}
