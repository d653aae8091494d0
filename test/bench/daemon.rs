//! The two runtimes under test: how each is configured, started and stopped.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use corten_proto::cri::{NamespaceMode, security_profile::ProfileType};
use corten_test::image;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cri::{Client, PodKind},
    processor::Processor,
};

/// Busybox that sleeps: for containers, and for the sandbox container that containerd needs.
const IMAGE: &str = "test.example/bench:1";
/// From the start of a daemon to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// From SIGTERM to the end of a daemon.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Runtime {
    Corten,
    Containerd,
}

impl Runtime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Corten => "corten",
            Self::Containerd => "containerd",
        }
    }

    /// Each bridges its pods on a network of its own: two hundred and some addresses are enough for both.
    fn subnet(self) -> &'static str {
        match self {
            Self::Corten => "10.231.0.0/16",
            Self::Containerd => "10.232.0.0/16",
        }
    }
}

/// Where binaries are and where a bench may write.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Holds `corten` and `corten-shim`.
    pub(crate) corten_dir: PathBuf,
    /// Holds `containerd`, `containerd-shim-runc-v2`, `ctr` and `runc`.
    pub(crate) containerd_dir: PathBuf,
    /// Holds the reference CNI plugins, for both sides.
    pub(crate) cni_dir: PathBuf,
    /// Durable data of the runtimes; the bench's own.
    pub(crate) root: PathBuf,
    /// Data that ends with a reboot; a tmpfs, as on a real host.
    pub(crate) state: PathBuf,
    /// Parent of all cgroups of this bench, without a slash.
    pub(crate) cgroup: String,
}

/// A running runtime. Dropping it kills the daemon, not its containers.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    process: Child,
    processor: Processor,
    setup: Setup,
}

impl Setup {
    pub(crate) async fn start(&self, runtime: Runtime) -> Result<Daemon> {
        let root = self.root.join(runtime.name());
        let state = self.state.join(runtime.name());
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        self.write_conflist(runtime, &root.join("net.d"))?;

        let socket = state.join("cri.sock");
        let mut command = match runtime {
            Runtime::Corten => self.corten(&root, &state, &socket),
            Runtime::Containerd => self.containerd(&root, &state, &socket)?,
        };
        let log = root.join("daemon.log");
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("open the log")?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        let pid = process.id();
        let process = Guarded(Some(process));
        let processor = Processor::new(&self.cgroup_of(runtime));
        processor.add_daemon(pid)?;
        let client = answer(&socket, &log).await?;
        let process = process.release().context("the daemon's process is gone")?;
        Ok(Daemon {
            runtime,
            client,
            process,
            processor,
            setup: self.clone(),
        })
    }

    /// Of all that a side runs, relative.
    fn cgroup_of(&self, runtime: Runtime) -> String {
        format!("{}/{}", self.cgroup, runtime.name())
    }

    /// Writes the image of both sides as an OCI archive.
    pub(crate) fn write_image(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.root).context("create the bench's folder")?;
        image::busybox_archive(&self.root)?;
        let config =
            serde_json::json!({ "Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin:/usr/bin"] });
        image::archive(&self.root, &self.root.join("busybox-tree"), &config, IMAGE)
    }

    fn corten(&self, root: &Path, state: &Path, socket: &Path) -> Command {
        let mut command = Command::new(self.corten_dir.join("corten"));
        command.arg("serve").arg("--root").arg(root.join("root"));
        command
            .arg("--state")
            .arg(state.join("state"))
            .arg("--socket")
            .arg(socket);
        command
            .arg("--cni-conf-dir")
            .arg(root.join("net.d"))
            .arg("--cni-bin-dir")
            .arg(&self.cni_dir);
        command.arg("--certs-dir").arg(root.join("certs.d"));
        command
    }

    fn containerd(&self, root: &Path, state: &Path, socket: &Path) -> Result<Command> {
        let config = root.join("config.toml");
        let text = self.containerd_config(root, state, socket);
        fs::write(&config, text).context("write containerd's configuration")?;
        let mut command = Command::new(self.containerd_dir.join("containerd"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.containerd_dir.display());
        command.arg("--config").arg(config).env("PATH", path);
        Ok(command)
    }

    /// Defaults, save for paths and for what a machine without CAP_SYS_RESOURCE needs.
    fn containerd_config(&self, root: &Path, state: &Path, socket: &Path) -> String {
        format!(
            "version = 3\n\
             root = {root:?}\n\
             state = {state:?}\n\
             [grpc]\n\
             address = {socket:?}\n\
             [plugins.'io.containerd.cri.v1.images']\n\
             snapshotter = 'overlayfs'\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
             sandbox = {image:?}\n\
             [plugins.'io.containerd.cri.v1.images'.registry]\n\
             config_path = {certs:?}\n\
             [plugins.'io.containerd.cri.v1.runtime']\n\
             restrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
             bin_dirs = [{cni:?}]\n\
             conf_dir = {net:?}\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
             runtime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
             BinaryName = {runc:?}\n\
             SystemdCgroup = false\n",
            root = root.join("root"),
            state = state.join("state"),
            image = IMAGE,
            certs = root.join("certs.d"),
            cni = self.cni_dir,
            net = root.join("net.d"),
            runc = self.containerd_dir.join("runc"),
        )
    }

    /// Equal for both sides but for the bridge's name and addresses.
    fn write_conflist(&self, runtime: Runtime, dir: &Path) -> Result<()> {
        let conflist = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": format!("bench-{}", runtime.name()),
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": format!("br-{}", runtime.name()),
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{ "subnet": runtime.subnet() }]],
                        "routes": [{ "dst": "0.0.0.0/0" }],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::write(dir.join("10-bench.conflist"), conflist.to_string()).context("write the conflist")
    }
}

/// Tries to connect until the runtime answers. Its log is in the error when it does not.
async fn answer(socket: &Path, log: &Path) -> Result<Client> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(socket).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("no answer on {}: {error:#}\n{log}", socket.display());
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    pub(crate) fn pod_kind(&self, network: NamespaceMode) -> PodKind {
        PodKind {
            network,
            image: IMAGE.to_owned(),
            command: ["sleep", "1000000"].map(str::to_owned).into(),
            cgroup_parent: format!("/{}", self.setup.cgroup_of(self.runtime)),
            logs: self.setup.root.join(self.runtime.name()).join("logs"),
            volumes: Vec::new(),
            seccomp: ProfileType::RuntimeDefault,
        }
    }

    /// Puts the archive's image into the runtime's store, by the runtime's own command.
    pub(crate) fn load_image(&self, archive: &Path) -> Result<()> {
        let setup = &self.setup;
        let socket = setup.state.join(self.runtime.name()).join("cri.sock");
        let mut command = match self.runtime {
            Runtime::Corten => {
                let mut command = Command::new(setup.corten_dir.join("corten"));
                command.args(["image", "--socket"]).arg(socket).arg("load");
                command
            }
            Runtime::Containerd => {
                let mut command = Command::new(setup.containerd_dir.join("ctr"));
                command.arg("--address").arg(socket).args([
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                ]);
                command
            }
        };
        let output = command.arg(archive).output().context("load the image")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{:?}: {told}", command);
        Ok(())
    }

    /// Asks the daemon to end and waits for it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.process.id())?);
        kill(pid, Signal::SIGTERM).context("stop the daemon")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self
            .process
            .try_wait()
            .context("wait for the daemon")?
            .is_none()
        {
            let name = self.runtime.name();
            ensure!(
                Instant::now() < deadline,
                "{name} did not end in {STOP_TIMEOUT:?}"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A daemon that does not answer yet.
struct Guarded(Option<Child>);

impl Guarded {
    fn release(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            end(process);
        }
    }
}

fn end(process: &mut Child) {
    // Both fail only on a process that has already ended.
    let _ = process.kill();
    let _ = process.wait();
}
