//! Where a scenario takes place: a root with busybox, a cgroup, and the run of one container.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use corten_proto::shim::{
    Bind, Capabilities, Cgroup, CgroupView, Created, Failure, Filesystem, Mount, MountAttributes,
    Namespace, Namespaces, New, Plan, Process, Rootfs, User, mount::Kind, namespace::From,
};
use corten_sys::{mount, process};
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
};

use crate::container::{self, Container, Report, Stdio, Told};

const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: [&str; 16] = [
    "sh", "cat", "id", "ls", "mount", "touch", "echo", "readlink", "grep", "stat", "sleep",
    "hostname", "true", "dd", "head", "chmod",
];
/// Docker's fourteen.
pub(crate) const CAPABILITIES: u64 = 0xa804_25fb;

/// Panics where this machine cannot run the scenarios.
pub(crate) fn check_prerequisites() {
    assert!(rustix::process::geteuid().is_root(), "this needs root");
    // A dynamic one names its loader in its first page.
    let mut elf = Vec::new();
    let _ = File::open(BUSYBOX).and_then(|file| file.take(4096).read_to_end(&mut elf));
    let is_static = !elf.is_empty() && !elf.windows(9).any(|bytes| bytes == b"ld-linux-");
    assert!(is_static, "this needs Debian's busybox-static");
}

/// Removed when dropped.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("corten-container-{id}"));
        for part in [
            "lower/bin",
            "lower/etc",
            "lower/link-target",
            "upper",
            "work",
            "volume",
        ] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::copy(BUSYBOX, dir.join("lower/bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", dir.join("lower/bin").join(applet)).unwrap();
        }
        fs::write(
            dir.join("lower/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/www:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            dir.join("lower/etc/group"),
            "root:x:0:\nwheel:x:10:root\nlogs:x:50:web\n",
        )
        .unwrap();
        symlink("/link-target", dir.join("lower/link")).unwrap();
        Self {
            dir,
            cgroup: format!("/corten-test-{id}/c"),
        }
    }

    /// A fresh writable layer, for another container: overlayfs refuses a volatile one that was used.
    pub(crate) fn renew(&self) {
        for part in ["upper", "work"] {
            let _ = fs::remove_dir_all(self.dir.join(part));
            fs::create_dir(self.dir.join(part)).unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// A container as a pod's usual one, which runs `script`.
    pub(crate) fn plan(&self, script: &str) -> Plan {
        let args = ["sh", "-c", script];
        let capabilities = Capabilities {
            bounding: CAPABILITIES,
            effective: CAPABILITIES,
            permitted: CAPABILITIES,
            ..Capabilities::default()
        };
        let new = || {
            Some(Namespace {
                from: Some(From::New(New {})),
            })
        };
        Plan {
            container_id: "c".into(),
            rootfs: Some(Rootfs {
                lower: vec![self.path("lower")],
                upper: self.path("upper"),
                work: self.path("work"),
                readonly: false,
            }),
            mounts: mounts(),
            namespaces: Some(Namespaces {
                network: new(),
                ipc: new(),
                uts: new(),
                pid: new(),
                cgroup: new(),
                user: None,
            }),
            cgroup: Some(Cgroup {
                path: self.cgroup.clone(),
                ..Cgroup::default()
            }),
            process: Some(Process {
                args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
                env: vec![b"PATH=/usr/bin:/bin".to_vec()],
                cwd: "/".into(),
                user: Some(User::default()),
                capabilities: Some(capabilities),
                ..Process::default()
            }),
            ..Plan::default()
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let hierarchies = corten_sys::cgroup::Hierarchies::detect().unwrap();
        let parent = Path::new(&self.cgroup).parent().unwrap().to_str().unwrap();
        let cgroup = corten_sys::cgroup::Cgroup::new(&hierarchies, parent);
        // After a failure something may still run.
        let _ = cgroup.kill();
        let removed = cgroup.remove().and_then(|()| fs::remove_dir_all(&self.dir));
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn mounts() -> Vec<Mount> {
    let locked = MountAttributes {
        readonly: false,
        nosuid: true,
        nodev: true,
        noexec: true,
    };
    let filesystem = |kind: &str, destination: &str, options: &str, attributes| Mount {
        destination: destination.into(),
        attributes: Some(attributes),
        kind: Some(Kind::Filesystem(Filesystem {
            r#type: kind.into(),
            options: options.into(),
        })),
        ..Mount::default()
    };
    vec![
        filesystem("proc", "/proc", "", locked),
        filesystem(
            "tmpfs",
            "/dev",
            "mode=755,size=65536k",
            MountAttributes {
                nosuid: true,
                ..MountAttributes::default()
            },
        ),
        filesystem(
            "devpts",
            "/dev/pts",
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
            MountAttributes {
                nosuid: true,
                noexec: true,
                ..MountAttributes::default()
            },
        ),
        filesystem("mqueue", "/dev/mqueue", "", locked),
        filesystem(
            "sysfs",
            "/sys",
            "",
            MountAttributes {
                readonly: true,
                ..locked
            },
        ),
        Mount {
            destination: "/sys/fs/cgroup".into(),
            attributes: Some(MountAttributes {
                readonly: true,
                ..locked
            }),
            kind: Some(Kind::Cgroup(CgroupView {})),
            ..Mount::default()
        },
    ]
}

pub(crate) fn bind(source: &str, destination: &str) -> (Mount, Bind) {
    let mount = Mount {
        destination: destination.into(),
        ..Mount::default()
    };
    (
        mount,
        Bind {
            source: source.into(),
            ..Bind::default()
        },
    )
}

/// What a run has left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) created: Created,
}

/// A container that waits before its execve.
pub(crate) struct Waiting {
    pub(crate) container: Container,
    pub(crate) report: Report,
    pub(crate) created: Created,
    out: OwnedFd,
}

fn streams() -> (Stdio, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stdout = write.try_clone().unwrap();
    (
        Stdio {
            stdin: None,
            stdout,
            stderr: write,
        },
        read,
    )
}

fn wait_readable(fd: impl AsFd) {
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
}

pub(crate) fn create(plan: Plan) -> Result<Waiting, Failure> {
    let template = mount::template().unwrap();
    let (stdio, out) = streams();
    let (mut container, mut report) = container::spawn(plan, &template, stdio)?;
    wait_readable(&report);
    let mut created = match report.read() {
        Ok(Told::Created(created)) => created,
        other => {
            process::wait(container.init.child().pidfd.as_fd()).unwrap();
            container.remove_cgroup().unwrap();
            return Err(other.expect_err("init died without a word"));
        }
    };
    container.set_created(&mut created)?;
    Ok(Waiting {
        container,
        report,
        created,
        out,
    })
}

impl Waiting {
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.report.go_ahead()?;
        let told = loop {
            wait_readable(&self.report);
            match self.report.read()? {
                Told::Nothing => {}
                told => break told,
            }
        };
        match told {
            Told::End => {
                self.container.init.succeed().unwrap();
                Ok(())
            }
            told => panic!("told twice: {told:?}"),
        }
    }

    /// Runs another process to its end.
    pub(crate) fn exec(&mut self, script: &str) -> Result<(i32, String), Failure> {
        let args = ["sh", "-c", script].map(|arg| arg.as_bytes().to_vec());
        let (stdio, out) = streams();
        let mut exec = container::exec(
            &mut self.container,
            args.to_vec(),
            container::Ends::Streams(stdio),
        )?;
        wait_readable(&exec.report);
        exec.report.read()?;
        exec.birth.succeed().unwrap();
        let text = text(out).unwrap();
        let child = exec.birth.child();
        let code = process::wait(child.pidfd.as_fd()).unwrap().code();
        exec.remove_cgroup();
        Ok((code, text))
    }

    /// Waits for the end of init.
    pub(crate) fn finish(self) -> Outcome {
        let out = text(self.out).unwrap();
        let init = self.container.init.child();
        let code = process::wait(init.pidfd.as_fd()).unwrap().code();
        self.container.remove_cgroup().unwrap();
        Outcome {
            code,
            out,
            created: self.created,
        }
    }

    /// Kills everything in it, and waits for its end.
    pub(crate) fn kill(self) -> Outcome {
        self.container.kill().unwrap();
        self.finish()
    }
}

fn text(out: OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    File::from(out).read_to_string(&mut text)?;
    Ok(text)
}

/// Creates, starts, waits.
pub(crate) fn run(plan: Plan) -> Result<Outcome, Failure> {
    let mut waiting = create(plan)?;
    if let Err(failure) = waiting.start() {
        waiting.finish();
        return Err(failure);
    }
    Ok(waiting.finish())
}
