//! A node: a daemon with mounts, network and process ids of its own, so that tests run side by side and leave nothing.
//!
//! A holder process keeps the namespaces while daemons come and go; its end takes everything with it.

use std::{
    fs::{self, File},
    net::TcpStream,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use corten_proto::cri::{
    VersionRequest, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        signal::{Signal, kill},
        stat::{Mode, umask},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::wait::until;

const MAX_MESSAGE: usize = 16 << 20;
/// What process 1 of the node does: sets the namespaces up, then reaps.
const HOLDER: &str = "ip link set lo up && mount -t tmpfs tmpfs /run && mkdir /run/netns && touch \"$0\" \
                      && while :; do sleep 1; done";

/// One machine within the machine.
#[derive(Debug)]
pub struct Node {
    dir: TempDir,
    /// None when the namespaces are another node's.
    holder: Option<Child>,
    /// Process 1 of the node, as the host sees it.
    holder_pid: i32,
    daemon: Option<Daemon>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    /// A shell's commands before the daemon.
    prelude: String,
}

#[derive(Debug)]
struct Daemon {
    /// `nsenter`, whose child the daemon is.
    starter: Child,
    pid: i32,
}

impl Node {
    /// A node with a running daemon that has the embedded bridge network.
    pub async fn start() -> Result<Self> {
        Self::start_with(&["--dev-network"]).await
    }

    /// A node whose daemon gets `options` besides its directories.
    pub async fn start_with(options: &[&str]) -> Result<Self> {
        let mut node = Self::without_daemon(options).await?;
        node.start_daemon().await?;
        Ok(node)
    }

    /// The namespaces alone.
    pub async fn without_daemon(options: &[&str]) -> Result<Self> {
        let dir = make_dir()?;
        let ready = dir.path().join("ready");
        let holder = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
            ])
            .args(["--", "sh", "-c", HOLDER])
            .arg(&ready)
            .stdin(Stdio::null())
            .stderr(File::create(dir.path().join("holder.log"))?)
            .spawn()
            .context("run unshare")?;
        let holder_pid = until(|| async {
            ensure!(ready.exists(), "the node's namespaces are not ready");
            child_of(holder.id())
        })
        .await?;
        Ok(Self {
            dir,
            holder: Some(holder),
            holder_pid,
            daemon: None,
            options: owned(options),
            environment: Vec::new(),
            prelude: String::new(),
        })
    }

    /// A further daemon, in the namespaces of this node, with directories of its own.
    pub async fn beside(&self, options: &[&str]) -> Result<Self> {
        let mut node = Self {
            dir: make_dir()?,
            holder: None,
            holder_pid: self.holder_pid,
            daemon: None,
            options: owned(options),
            environment: Vec::new(),
            prelude: String::new(),
        };
        node.start_daemon().await?;
        Ok(node)
    }

    /// For daemons that are started from now on.
    pub fn add_options(&mut self, options: impl IntoIterator<Item = String>) {
        self.options.extend(options);
    }

    /// For daemons that are started from now on.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = environment.iter().map(owned).collect();
    }

    /// What a shell does before it becomes a daemon that is started from now on: a umask, limits, open descriptors.
    pub fn set_prelude(&mut self, script: &str) {
        script.clone_into(&mut self.prelude);
    }

    /// A directory of this test, which the daemon sees at the same path.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Outside of the state directory, whose tmpfs only the node sees.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("corten.sock")
    }

    /// The daemon's process id, as the host sees it.
    pub fn daemon_pid(&self) -> Result<i32> {
        self.daemon
            .as_ref()
            .map(|daemon| daemon.pid)
            .context("no daemon runs")
    }

    /// Whether this process of the host sees the node's mounts, as the daemon, its shims and its plugins do.
    pub fn has_process(&self, pid: i32) -> bool {
        let namespace = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        namespace(pid, "mnt")
            .is_ok_and(|its| namespace(self.holder_pid, "mnt").is_ok_and(|ours| ours == its))
    }

    /// The id that marks what this node's daemon makes outside of its directories.
    pub fn instance(&self) -> Result<String> {
        Ok(fs::read_to_string(self.root().join("instance"))?
            .trim()
            .to_owned())
    }

    /// What `corten serve` needs to serve this node.
    pub fn serve_arguments(&self) -> Vec<String> {
        let dirs = [
            ("--root", "root"),
            ("--state", "state"),
            ("--socket", "corten.sock"),
            ("--certs-dir", "certs.d"),
            ("--cni-conf-dir", "net.d"),
            ("--cni-data-dir", "addresses"),
        ];
        let path = |name| self.dir().join(name).display().to_string();
        let dirs = dirs.map(|(flag, name)| [flag.to_owned(), path(name)]);
        let mut arguments = owned(&["serve", "--log-level", "debug"]);
        arguments.extend(dirs.into_iter().flatten());
        arguments.extend(self.options.iter().cloned());
        arguments
    }

    pub async fn start_daemon(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("corten.log"))?;
        let starter = self
            .command("sh")
            .args(["-c", &format!("{}\nexec \"$0\" \"$@\"", self.prelude)])
            .arg(binary("corten")?)
            .args(self.serve_arguments())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run nsenter")?;
        let pid = until(|| async { child_of(starter.id()) }).await?;
        self.daemon = Some(Daemon { starter, pid });
        let answered = until(|| async {
            let version = self
                .runtime()
                .await?
                .version(VersionRequest::default())
                .await?;
            anyhow::Ok(version)
        });
        answered
            .await
            .with_context(|| format!("the daemon does not answer; its log:\n{}", self.log()))?;
        Ok(())
    }

    /// Ends the daemon by `signal` and waits for its end.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        kill(Pid::from_raw(daemon.pid), signal).context("signal the daemon")?;
        daemon.starter.wait().context("wait for the daemon")?;
        Ok(())
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("corten.log")).unwrap_or_default()
    }

    pub async fn runtime(&self) -> Result<RuntimeServiceClient<Channel>> {
        runtime_at(self.socket()).await
    }

    pub async fn images(&self) -> Result<ImageServiceClient<Channel>> {
        let channel = connect(self.socket()).await?;
        Ok(ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// A command inside of the node.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.holder_pid.to_string(),
            "-m",
            "-n",
            "-p",
            "--",
            program,
        ]);
        command
    }

    /// A connection to `address` from inside of the node.
    pub fn connect(&self, address: &str) -> Result<TcpStream> {
        self.in_network(|| {
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))
        })
    }

    /// A Unix socket with this abstract name, of the node's network (unix(7)).
    pub fn listen(&self, name: &str) -> Result<UnixListener> {
        self.in_network(|| {
            let address = SocketAddr::from_abstract_name(name)?;
            UnixListener::bind_addr(&address).with_context(|| format!("listen on @{name}"))
        })
    }

    /// What `act` returns on a thread in the node's network, which is the thread's alone.
    fn in_network<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder_pid))?;
        let enter = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the node's network")?;
            act()
        };
        thread::scope(|scope| scope.spawn(enter).join())
            .map_err(|_panic| anyhow!("a thread in the node's network panicked"))?
    }

    /// Runs a shell script inside of the node and returns its standard output.
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = self
            .command("sh")
            .args(["-ec", script])
            .stdin(Stdio::null())
            .output()?;
        stdout(script, &output)
    }

    /// Like [`Node::shell`], waiting until the script succeeds.
    pub async fn shell_until(&self, script: &str) -> Result<String> {
        until(|| async { self.shell(script) }).await
    }

    /// Runs `corten` with `args` inside of the node.
    pub fn corten(&self, args: &[&str]) -> Result<String> {
        let output = self
            .command(&binary("corten")?.display().to_string())
            .args(args)
            .output()?;
        stdout(&format!("corten {}", args.join(" ")), &output)
    }

    /// Runs `corten image` with `args` on this node's daemon.
    pub fn corten_image(&self, args: &[&str]) -> Result<String> {
        let socket = self.socket().display().to_string();
        self.corten(&[&["image", "--socket", &socket], args].concat())
    }

    /// Tells the daemon where the images of `registry` are.
    pub fn write_hosts(&self, registry: &str, hosts: &str) -> Result<()> {
        let dir = self.dir().join("certs.d").join(registry);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("hosts.toml"), hosts)?)
    }
}

impl Node {
    #[expect(
        clippy::print_stdout,
        reason = "what a test prints is shown when it fails"
    )]
    fn print_log(&self) {
        let log = self.log();
        let tail = log.len().saturating_sub(8 << 10);
        println!(
            "--- the daemon's log, its end ---\n{}",
            log.get(tail..).unwrap_or(&log)
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_log();
        }
        if let Some(holder) = &mut self.holder {
            // Process 1 of the node: its end is the end of all others, and of the namespaces.
            let _ = kill(Pid::from_raw(self.holder_pid), Signal::SIGKILL);
            let _ = holder.wait();
        } else if let Some(daemon) = &self.daemon {
            let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGKILL);
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.starter.wait();
        }
        if let Ok(instance) = self.instance() {
            crate::leftovers::remove_cgroups(&format!("corten/{instance}"));
        }
    }
}

/// A client of a daemon that serves here.
pub async fn runtime_at(socket: PathBuf) -> Result<RuntimeServiceClient<Channel>> {
    let channel = connect(socket).await?;
    Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

async fn connect(socket: PathBuf) -> Result<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://corten")
        .connect_with_connector(connector)
        .await?)
}

fn make_dir() -> Result<TempDir> {
    // Images are made of files, and containers' users read them; the daemon's umask is one of the tests' subjects.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let dir = tempfile::Builder::new().prefix("corten-test-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    for name in ["certs.d", "net.d", "logs"] {
        fs::create_dir(dir.path().join(name))?;
    }
    Ok(dir)
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

fn stdout(what: &str, output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("{what}: {}\n{text}{error}", output.status))
}

/// The first child of a process, when it is there.
fn child_of(pid: u32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children
        .split_whitespace()
        .next()
        .context("no child yet")?
        .parse()
        .context("children")
}

/// A binary of `make build`, or of `CORTEN_BIN_DIR`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("CORTEN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => crate::repository().join("target/release"),
    };
    let path = dir.join(name);
    path.canonicalize()
        .with_context(|| format!("{} is not there: run `make build`", path.display()))
}
