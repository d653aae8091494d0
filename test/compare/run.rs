//! Runs rows on the runtime of `hack/node`, one after the other, and takes two reports of each: the container's own
//! program's, from its log, and that of a process by ExecSync.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::{self, runtime_service_client::RuntimeServiceClient};
use corten_test::{image, leftovers, node, pod, wait::until};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

use crate::{
    host::Host,
    mask::{self, Mask},
    recording::{Report, Reports},
    rows::Row,
    settings::{Request, SOURCES},
};

const MAX_MESSAGE: usize = 16 << 20;
/// Seconds.
const EXEC_TIMEOUT: i64 = 60;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Runtime {
    Corten,
    Containerd,
}

#[derive(Debug)]
pub(crate) struct Node {
    socket: PathBuf,
    dir: PathBuf,
    probe: PathBuf,
    runtime: Runtime,
    cgroup: String,
}

impl Node {
    pub(crate) fn from_environment(probe: &Path, runtime: Runtime) -> Result<Self> {
        let variable =
            |name: &str| env::var(name).with_context(|| format!("{name}: run it in hack/node"));
        let socket = variable("CONTAINER_RUNTIME_ENDPOINT")?;
        Ok(Self {
            socket: socket.trim_start_matches("unix://").into(),
            dir: variable("CORTEN_NODE_DIR")?.into(),
            probe: probe.to_owned(),
            runtime,
            // Of this node's directory, whose name is nobody else's.
            cgroup: format!("corten-probe-{}", std::process::id()),
        })
    }

    pub(crate) async fn run(&self, rows: &[Row]) -> Result<(Host, Reports)> {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://node");
        let channel = endpoint.connect_with_connector(connector);
        let mut runtime =
            RuntimeServiceClient::new(channel.await?).max_decoding_message_size(MAX_MESSAGE);
        let mut images = Vec::new();
        let mut reports = Reports::default();
        for row in rows {
            let place = self.dir.join("rows").join(&row.name);
            let parent = format!("/{}/{}", self.cgroup, row.name);
            let mut request = Request::new(row, &place, &parent)?;
            make_sources(&place)?;
            request.container.image = Some(cri::ImageSpec {
                image: self.image(&request.image_user, &mut images)?,
                ..Default::default()
            });
            let taken = self.run_row(&mut runtime, &request, &place).await;
            let taken = taken.with_context(|| format!("row {}", row.name))?;
            reports.insert(row.name.clone(), taken);
        }
        leftovers::remove_cgroups(&self.cgroup);
        // At the end, as the rows with the host's namespaces saw it: the first pod may have changed settings of the network.
        let host = Host::ask(&self.probe, &Mask::new(&self.dir, &self.cgroup)?)?;
        Ok((host, reports))
    }

    /// A request that is refused is a report, too.
    async fn run_row(
        &self,
        runtime: &mut pod::Runtime,
        request: &Request,
        place: &Path,
    ) -> Result<[Report; 2]> {
        let sandbox = match pod::run_pod(runtime, &request.pod).await {
            Ok(sandbox) => sandbox,
            Err(error) => return Ok(refused("RunPodSandbox", &error)),
        };
        let create = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(request.container.clone()),
            sandbox_config: Some(request.pod.clone()),
        };
        let reports = match runtime.create_container(create).await {
            Err(status) => refused("CreateContainer", &status),
            Ok(created) => {
                let id = created.into_inner().container_id;
                match pod::start(runtime, &id).await {
                    Err(error) => refused("StartContainer", &error),
                    Ok(()) => self.reports(runtime, &id, request, place).await?,
                }
            }
        };
        pod::remove_pod(runtime, &sandbox)
            .await
            .context("remove the pod")?;
        Ok(reports)
    }

    async fn reports(
        &self,
        runtime: &mut pod::Runtime,
        id: &str,
        request: &Request,
        place: &Path,
    ) -> Result<[Report; 2]> {
        let parent = request.pod.linux.clone().unwrap_or_default().cgroup_parent;
        let log = place.join("probe.log");
        let own = until(|| async { whole(&fs::read_to_string(&log)?) });
        let own = own.await.context("the container's own report")?;
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: vec!["/probe".into(), "report".into()],
            timeout: EXEC_TIMEOUT,
        };
        let done = runtime.exec_sync(request).await?.into_inner();
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.exit_code == 0,
            "exec ended with {}: {errors}",
            done.exit_code
        );
        let mask = Mask::new(&self.dir, &parent)?;
        let exec = String::from_utf8(done.stdout)?;
        Ok([mask.apply(&own), mask.apply(&exec)])
    }

    /// The name of the image with this USER, which is made and loaded at the first time.
    fn image(&self, user: &str, loaded: &mut Vec<String>) -> Result<String> {
        let tag = user.replace(':', "-");
        let name = format!("test.example/probe-user-{tag}:1").replace("user-:", "user:");
        if loaded.contains(&name) {
            return Ok(name);
        }
        let dir = self.dir.join("image");
        let tree = dir.join("tree");
        if !tree.exists() {
            make_tree(&tree, &self.probe)?;
        }
        let config = serde_json::json!({ "User": user, "Env": ["PATH=/bin", "FROM_IMAGE=yes"] });
        let archive = image::archive(&dir, &tree, &config, &name)?;
        let output = self
            .load()?
            .arg(archive)
            .output()
            .context("load the image")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "load the image: {told}");
        loaded.push(name.clone());
        Ok(name)
    }
}

impl Node {
    /// The runtime's own command that takes an image's archive.
    fn load(&self) -> Result<Command> {
        let mut command = match self.runtime {
            Runtime::Corten => Command::new(node::binary("corten")?),
            Runtime::Containerd => Command::new("ctr"),
        };
        match self.runtime {
            Runtime::Corten => command
                .args(["image", "--socket"])
                .arg(&self.socket)
                .arg("load"),
            Runtime::Containerd => command.arg("--address").arg(&self.socket).args([
                "--namespace",
                "k8s.io",
                "images",
                "import",
            ]),
        };
        Ok(command)
    }
}

fn make_tree(tree: &Path, probe: &Path) -> Result<()> {
    for name in ["etc", "home/app", "root", "tmp"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::set_permissions(tree.join("tmp"), Permissions::from_mode(0o1777))?;
    fs::copy(probe, tree.join("probe")).with_context(|| format!("copy {}", probe.display()))?;
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
    )?;
    let group = "root:x:0:\nwheel:x:10:root\napp:x:1001:\nextra:x:2000:app\n";
    Ok(fs::write(tree.join("etc/group"), group)?)
}

/// The sources of mounts, with a file in each.
fn make_sources(place: &Path) -> Result<()> {
    for name in SOURCES {
        let path = place.join(name);
        if name == "file" {
            fs::create_dir_all(place)?;
            fs::write(path, "a file\n")?;
        } else {
            fs::create_dir_all(&path)?;
        }
    }
    for name in ["nested", "nested/inner"] {
        let path = place.join(name);
        fs::create_dir_all(&path)?;
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, none)
            .with_context(|| format!("mount on {}", path.display()))?;
    }
    Ok(())
}

fn refused(rpc: &str, status: &tonic::Status) -> [Report; 2] {
    let report = Report::from([(
        "refused".to_owned(),
        format!("{rpc}: {}", mask::ids(&status.to_string())),
    )]);
    [report.clone(), report]
}

/// The text of a log in the CRI's format, once the probe's last line is there.
fn whole(log: &str) -> Result<String> {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (tag, content) = (fields.nth(2), fields.next().unwrap_or_default());
        text += content.trim_end_matches('\r');
        if tag == Some("F") {
            text.push('\n');
        }
    }
    ensure!(
        text.lines().any(|line| line == "end\t"),
        "it has not ended:\n{text}"
    );
    Ok(text)
}
