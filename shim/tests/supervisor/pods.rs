//! The init of a pod's PID namespace, and a container in it.

use std::{
    fs::{self, OpenOptions},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use corten_proto::shim::{Namespace, PodInit, Start, namespace::From, request::Call};
use corten_sys::{mount, process, socket};
use nix::mount::{MntFlags, umount2};
use prost::Message;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::site::{Site, eventually, shim};

/// Killed and unpinned when it is dropped.
struct Pod {
    init: i32,
    pin: PathBuf,
}

impl Pod {
    fn start(pin: PathBuf) -> Self {
        let output = make(&pin, Stdio::inherit());
        assert!(output.status.success());
        let init = String::from_utf8(output.stdout).unwrap();
        let init = init.strip_suffix('\n').unwrap().parse().unwrap();
        Self { init, pin }
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.init)).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_once(":\t").unwrap().1.to_owned()
    }

    fn children(&self) -> String {
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.init)).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Ok(pidfd) = process::open(self.init) {
            let _ = process::kill(pidfd.as_fd());
        }
        let _ = umount2(&self.pin, MntFlags::MNT_DETACH);
    }
}

/// Has an init made, and pinned on `pin`.
fn make(pin: &Path, stderr: Stdio) -> Output {
    let (unix, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (ours, theirs) = socketpair(unix, kind, SocketFlags::CLOEXEC, None).unwrap();
    let child = shim()
        .arg("pod")
        .arg(pin)
        .stdin(theirs)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let wanted = PodInit {
        own_cgroup_namespace: true,
        ..PodInit::default()
    };
    let template = mount::template().unwrap();
    socket::send(&ours, &wanted.encode_to_vec(), Some(template.as_fd())).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_init_has_nothing_and_reaps() {
    let mut site = Site::new();
    let pod = Pod::start(site.dir.join("pid"));
    for field in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(pod.status(field), "0000000000000000", "{field}");
    }
    let status = ["NoNewPrivs", "Seccomp", "Name"].map(|field| pod.status(&format!("{field}:")));
    assert_eq!(status, ["1", "2", "corten-pod"]);
    let proc = PathBuf::from(format!("/proc/{}", pod.init));
    assert_eq!(fs::read(proc.join("cmdline")).unwrap(), b"corten-pod\0");
    let cgroup = |process: &Path| fs::read_link(process.join("ns/cgroup")).unwrap();
    assert_ne!(cgroup(&proc), cgroup(Path::new("/proc/self")));
    eventually("it closes everything", || {
        fs::read_dir(proc.join("fd")).unwrap().count() == 0
    });
    assert_eq!(
        fs::read_to_string(proc.join("mountinfo"))
            .unwrap()
            .lines()
            .count(),
        1
    );

    let mut plan = site.plan("(sleep 0.2 &); (sleep 1000 &); kill -TERM 1; kill -KILL 1; [ $$ != 1 ] && echo inside; sleep 0.1; exit 4");
    plan.namespaces.as_mut().unwrap().pid = Some(Namespace {
        from: Some(From::Join(pod.pin.to_str().unwrap().into())),
    });
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    // What it leaves in the background is the pod's init's child, and goes with the container's cgroup.
    assert_eq!(client.exited().code, 4);
    assert_eq!(site.log("0.log"), "stdout F inside\n");
    site.shim_ends();
    eventually("it reaps", || pod.children().is_empty());
    assert!(fs::read_link(proc.join("ns/pid")).is_ok(), "it lives");
}

#[test]
fn a_pin_that_cannot_be_made_leaves_no_process() {
    let site = Site::new();
    let pin = site.dir.join("taken");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&pin)
        .unwrap();
    let output = make(&pin, Stdio::piped());
    assert!(!output.status.success() && output.stdout.is_empty());
    // Its end came when the init was gone: the pipes had no writer any more.
    assert!(String::from_utf8_lossy(&output.stderr).contains("File exists"));
}
