//! Mounts: their order, their flags, their sources, what is masked.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
};

use corten_test::{leftovers::Leftovers, pod};
use nix::{sys::stat::Mode, unistd::mkfifo};
use tonic::Code;

use crate::site::{Site, container};

/// A directory of the host with a file `name`, which has the directory's name.
fn directory(site: &Site, name: &str) -> PathBuf {
    let path = site.node.dir().join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("name"), format!("{name}\n")).unwrap();
    path
}

/// containerd 2596, cri-o 1087: a volume was hidden by another one that is above it and stood behind it in the request.
///
/// Rule: what is above comes first, whatever the order of the request; of two on one place the later one counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_not_hidden_by_one_above_it() {
    let mut site = Site::new().await;
    let [top, inner, deep] = ["top", "inner", "deep"].map(|name| directory(&site, name));
    let mut config = container("order", "sleep 1000");
    config.mounts = vec![
        pod::mount(&deep, "/certs/ca/deep"),
        pod::mount(&inner, "/certs/ca"),
        pod::mount(&top, "/certs"),
        pod::mount(&top, "/same"),
        pod::mount(&deep, "/same/"),
    ];
    let id = site.run(&config).await;
    let seen = site
        .output(
            &id,
            "cat /certs/name /certs/ca/name /certs/ca/deep/name /same/name",
        )
        .await;
    assert_eq!(seen, "top\ninner\ndeep\ndeep\n");
}

/// moby 36821, runc 1247: a volume that was made read-only lost noexec, nosuid and nodev of its source.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_keeps_the_flags_of_its_source() {
    let mut site = Site::new().await;
    let source = directory(&site, "source");
    let options = "noexec,nosuid,nodev,noatime";
    site.node
        .shell(&format!(
            "mount -t tmpfs -o {options} none {}",
            source.display()
        ))
        .unwrap();
    let mut config = container("flags", "sleep 1000");
    config.mounts = vec![pod::mount(&source, "/volume")];
    config.mounts[0].readonly = true;
    let id = site.run(&config).await;
    let seen = site.output(&id, "grep /volume /proc/mounts").await;
    assert_eq!(
        seen,
        "none /volume tmpfs ro,nosuid,nodev,noexec,noatime 0 0\n"
    );
}

/// moby 38458, containerd 4257: a path with a space, a quote or a backslash was not found in /proc/self/mountinfo, which
/// writes some of them as numbers, so that its propagation was not known.
#[tokio::test(flavor = "multi_thread")]
async fn paths_may_have_any_characters() {
    let mut site = Site::new().await;
    let name = "a b\tc\"'\\040:,ü";
    let source = directory(&site, name);
    let quoted = source.display().to_string().replace('\'', "'\\''");
    site.node
        .shell(&format!(
            "mount -t tmpfs none '{quoted}' && mount --make-shared '{quoted}'"
        ))
        .unwrap();
    for (propagation, word) in [(0, "relatime - "), (1, "master:"), (2, "shared:")] {
        let mut config = container(&format!("odd-{propagation}"), "sleep 1000");
        config.mounts = vec![pod::mount(&source, &format!("/{name}"))];
        config.mounts[0].propagation = propagation;
        pod::security(&mut config).privileged = true;
        let id = site.run(&config).await;
        let line = site
            .output(&id, "grep ' /a.040b' /proc/self/mountinfo")
            .await;
        assert!(line.contains(word), "{line}");
    }
}

/// kubernetes 48555: "mkdir: file exists" for a volume that is a symlink to nothing. containerd/cri 242: symlinks are followed.
///
/// Rule: a source may be of any kind, a socket or a FIFO, which nothing opens; one that leads nowhere is told as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_be_of_any_kind_and_must_lead_somewhere() {
    let mut site = Site::new().await;
    let path = |name| site.node.dir().join(name);
    let (socket, fifo, link) = (path("socket"), path("fifo"), path("link"));
    let (dangling, circle) = (path("dangling"), path("circle"));
    let _listener = UnixListener::bind(&socket).unwrap();
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    symlink(&socket, &link).unwrap();
    symlink(path("nothing/at/all"), &dangling).unwrap();
    symlink(&circle, &circle).unwrap();
    let mut config = container("kinds", "sleep 1000");
    config.mounts = vec![
        pod::mount(&socket, "/socket"),
        pod::mount(&fifo, "/fifo"),
        pod::mount(&link, "/link"),
    ];
    for mount in &mut config.mounts {
        mount.readonly = true;
    }
    let id = site.run(&config).await;
    let seen = site.output(&id, "stat -c %F /socket /fifo /link").await;
    assert_eq!(seen, "socket\nfifo\nsocket\n");
    for (source, words) in [
        (dangling.clone(), "leads to nothing"),
        (dangling.join("below"), "leads to nothing"),
        (circle, "Too many levels of symbolic links"),
    ] {
        let mut config = container("nowhere", "true");
        config.mounts = vec![pod::mount(&source, "/volume")];
        let refused = site.create(&config).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let message = refused.message();
        assert!(
            message.starts_with("config.mounts[0].host_path: ") && message.contains(words),
            "{message}"
        );
    }
}

/// runc 80 and 1866, moby 21808: a container with the host's /dev replaced the host's /dev/ptmx, and nobody got a terminal.
///
/// Rule: where the request mounts /dev, nothing is made or changed in it, whether the container has a terminal or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_on_dev_stays_as_it_is() {
    let mut site = Site::new().await;
    let list = "cd /dev && find . -type l -o -type c -o -type b -o -type d | sort | xargs ls -ld --time-style=full-iso";
    // Terminals come and go.
    let list = format!(
        "{list} | grep -v ' ./\\(pts\\|shm\\|ptmx\\|tty\\|null\\)'; stat -c '%F %a %t:%T' ptmx null"
    );
    let before = site.node.shell(&list).unwrap();
    for (name, tty) in [("pipes", false), ("terminal", true)] {
        let mut config = container(name, "sleep 1000");
        config.mounts = vec![pod::mount(Path::new("/dev"), "/dev")];
        config.tty = tty;
        pod::security(&mut config).privileged = true;
        let id = site.run(&config).await;
        let seen = site
            .output(&id, "echo x >/dev/null; stat -c '%F %t:%T' /dev/ptmx")
            .await;
        assert_eq!(seen, "character special file 5:2\n");
    }
    assert_eq!(site.node.shell(&list).unwrap(), before);
}

/// runc 1068: directories could not be masked. runc 5262 (kubernetes 138512): a directory for each processor took so long
/// that containers did not start.
///
/// Rule: files and directories are masked, by symlinks too, once or twice; what is not there needs no mask; a mask cannot be
/// written to.
#[tokio::test(flavor = "multi_thread")]
async fn masks_cover_whatever_there_is() {
    let mut site = Site::with(|tree, _| {
        fs::create_dir(tree.join("secret"))?;
        for name in ["file", "other"] {
            fs::write(tree.join("secret").join(name), "secret\n")?;
        }
        for number in 0..300 {
            let directory = tree.join(format!("cpu/{number}"));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("file"), "secret\n")?;
        }
        symlink("secret/file", tree.join("to-file"))?;
        symlink("cpu", tree.join("to-cpu"))?;
        symlink("/nowhere", tree.join("to-nothing"))?;
        Ok(())
    })
    .await;
    let mut config = container("masks", "sleep 1000");
    let security = pod::security(&mut config);
    let masked = [
        "/to-file",
        "/to-file",
        "/to-nothing",
        "/absent/x",
        "/secret/file/below",
    ];
    security.masked_paths = masked.map(String::from).into();
    let many = (0..300).map(|number| format!("/to-cpu/{number}"));
    security.masked_paths.extend(many);
    security.readonly_paths = ["/tmp", "/tmp", "/to-nothing", "/absent", "/secret/other"]
        .map(String::from)
        .into();
    let id = site.run(&config).await;
    let script = "cat /secret/file /to-file; find /cpu -type f; cat /secret/other; \
                  for path in /tmp/x /secret/other /cpu/7/x; do (echo x >$path) 2>/dev/null && echo $path; done; true";
    assert_eq!(site.output(&id, script).await, "secret\n");
}

/// moby 34198: a container with a volume of the host's root, as cAdvisor has it, held the mounts of others, which could not be
/// removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_the_hosts_root_holds_no_other_container() {
    let mut site = Site::new().await;
    let before = Leftovers::count(&site.node).unwrap();
    let first = site.run(&container("first", "sleep 1000")).await;
    let mut config = container("of-the-root", "sleep 1000");
    config.mounts = vec![pod::mount(Path::new("/"), "/rootfs")];
    let watcher = site.run(&config).await;
    let second = site.run(&container("second", "sleep 1000")).await;
    let script = format!("ls /rootfs{} >/dev/null", site.node.root().display());
    site.output(&watcher, &script).await;
    for id in [first, second] {
        site.remove(&id).await.unwrap();
    }
    let third = site.run(&container("third", "sleep 1000")).await;
    for id in [third, watcher] {
        site.remove(&id).await.unwrap();
    }
    Leftovers::settle(&site.node, &before).await.unwrap();
}
