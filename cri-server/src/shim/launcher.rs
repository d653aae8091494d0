//! Starts shims, from a sealed copy of the mount of their binary: a container that finds it by /proc/<pid>/exe cannot write
//! to it, and replacing the file on disk does not change what this daemon starts.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use corten_proto::{
    layout,
    shim::{Pin, PodInit},
};
use corten_sys::{
    mount::{self, Sealed},
    socket,
};
use prost::Message;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    Client, Error,
    client::{Events, ShortPath},
};

/// A helper has nothing to wait for.
const HELPER: Duration = Duration::from_secs(10);

/// Everything that each shim is started with.
#[derive(Debug)]
pub(crate) struct Launcher {
    path: PathBuf,
    binary: Sealed,
    template: OwnedFd,
}

fn template_failed(error: io::Error) -> io::Error {
    let hint = match error.kind() {
        // pivot_root(2)
        io::ErrorKind::InvalidInput => {
            "; a root that is an initramfs cannot be left: switch_root(8) first"
        }
        _ => "",
    };
    let text = format!("the mount namespace that containers start from: {error}{hint}");
    io::Error::new(error.kind(), text)
}

impl Launcher {
    /// Opens `binary`, or `corten-shim` beside this program.
    pub(crate) fn new(binary: Option<&Path>) -> io::Result<Self> {
        let path = match binary {
            Some(path) => path.to_owned(),
            None => std::env::current_exe()?.with_file_name("corten-shim"),
        };
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "shim binary {}: {error}; set `shim` in the configuration",
                    path.display()
                ),
            )
        };
        let binary = mount::seal(&path).map_err(named)?;
        let template = mount::template().map_err(template_failed)?;
        Ok(Self {
            path,
            binary,
            template,
        })
    }

    /// The mount namespace that containers start from.
    pub(crate) fn template(&self) -> BorrowedFd<'_> {
        self.template.as_fd()
    }

    /// Starts the shim of container `id`, whose state directory is there.
    pub(crate) fn start(&self, id: &str, state_dir: &Path) -> Result<Started, Error> {
        let short = ShortPath::open(state_dir).map_err(|source| self.spawn_failed(source))?;
        let listener =
            UnixListener::bind(short.socket()).map_err(|source| self.spawn_failed(source))?;
        fs::set_permissions(short.socket(), Permissions::from_mode(0o600))
            .map_err(|source| self.spawn_failed(source))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(state_dir.join(layout::SHIM_LOG))
            .map_err(|source| self.spawn_failed(source))?;
        let child = self
            .command(&["container", id])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| self.spawn_failed(source))?;
        let gone = || self.spawn_failed(io::Error::other("it ended at once"));
        Ok(Started {
            pid: child.id().ok_or_else(gone)?,
            child,
            state_dir: state_dir.to_owned(),
        })
    }

    /// Starts what makes the init of a pod's PID namespace, to be pinned at `pin`. It waits to hear what is wanted.
    pub(crate) fn start_pod_init(&self, pin: &Path) -> Result<PodHelper<'_>, Error> {
        let start = || {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            let child = spawn(self.command(&["pod"]).arg(pin).stdin(theirs))?;
            let pid = child.id();
            let pid = pid.ok_or_else(|| io::Error::other("it ended at once"))?;
            Ok(PodHelper {
                pid,
                child,
                socket: ours,
                template: self.template(),
            })
        };
        start().map_err(|source| self.spawn_failed(source))
    }

    /// Makes and pins a user namespace and what belongs to it.
    pub(crate) async fn pin(&self, wanted: &Pin) -> Result<(), Error> {
        let mut command = self.command(&["pin", &wanted.user]);
        command.stdin(Stdio::piped());
        let ended = async { to_end(spawn(&mut command)?, &wanted.encode_to_vec()).await };
        ended.await.map_err(helper_failed)
    }

    /// Finds out whether pods can have user namespaces, in the new directory `dir`.
    pub(crate) async fn probe_user_namespaces(&self, dir: &Path) -> io::Result<()> {
        let mut command = self.command(&["probe"]);
        command.arg(dir).stdin(Stdio::null());
        to_end(spawn(&mut command)?, &[]).await
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.binary.file.as_raw_fd()));
        command
            .arg0("corten-shim")
            .args(args)
            .env_clear()
            .current_dir("/")
            .process_group(0);
        command
    }

    fn spawn_failed(&self, source: io::Error) -> Error {
        Error::Spawn {
            binary: self.path.display().to_string(),
            source,
        }
    }
}

/// Starts a helper that ends by itself.
fn spawn(command: &mut Command) -> io::Result<Child> {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Waits for a helper's end.
async fn to_end(mut child: Child, input: &[u8]) -> io::Result<()> {
    let mut err = String::new();
    let ended = timeout(HELPER, async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not listen says why.
            let _ = stdin.write_all(input).await;
        }
        if let Some(stderr) = child.stderr.take() {
            BufReader::new(stderr)
                .take(4096)
                .read_to_string(&mut err)
                .await?;
        }
        child.wait().await
    });
    match ended.await {
        Err(_elapsed) => {
            let _ = child.start_kill();
            reap(child);
            Err(io::ErrorKind::TimedOut.into())
        }
        Ok(Err(source)) => Err(source),
        Ok(Ok(status)) if status.success() => {
            if !err.is_empty() {
                tracing::warn!(said = err.trim(), "a helper has something to say");
            }
            Ok(())
        }
        Ok(Ok(status)) if err.is_empty() => Err(io::Error::other(status.to_string())),
        Ok(Ok(_)) => {
            // Our own error names the binary.
            let why = err.trim().trim_start_matches("corten-shim: ");
            Err(io::Error::other(why.to_owned()))
        }
    }
}

fn helper_failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::Silent {
            seconds: HELPER.as_secs(),
        },
        _ => Error::Helper(error),
    }
}

/// Helper that makes a pod's init. Without a word it makes nothing, and ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PodHelper<'a> {
    /// No other process's as long as this is not dropped.
    pub(crate) pid: u32,
    child: Child,
    socket: OwnedFd,
    template: BorrowedFd<'a>,
}

impl PodHelper<'_> {
    /// Has it make and pin the init, which is set up then.
    pub(crate) async fn make(self, wanted: &PodInit) -> Result<(), Error> {
        // One that does not listen says why.
        let _ = socket::send(&self.socket, &wanted.encode_to_vec(), Some(self.template));
        to_end(self.child, &[]).await.map_err(helper_failed)
    }
}

/// A shim that nobody has spoken to yet. It waits for its first connection.
#[derive(Debug)]
pub(crate) struct Started {
    /// No other process's as long as this is not dropped.
    pub(crate) pid: u32,
    child: Child,
    state_dir: PathBuf,
}

impl Started {
    pub(crate) async fn connect(self) -> Result<(Client, Events), Error> {
        reap(self.child);
        Client::connect(&self.state_dir).await
    }
}

/// Takes the exit status, so that no zombie stays; what it means is told over the socket.
fn reap(mut child: Child) {
    tokio::spawn(async move { child.wait().await });
}
