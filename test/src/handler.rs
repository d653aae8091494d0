//! Nodes whose configuration has handlers with external runtimes.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri;

use crate::{image, node::Node, pod};

/// The handler whose runtime the tests are about.
pub const OCI: &str = "oci";
/// That runtime, if it is not to be the runc of `hack/setup test`.
const RUNTIME: &str = "CORTEN_TEST_RUNTIME";

/// The table of a handler that runs `runtime`.
pub fn table(name: &str, runtime: &str) -> String {
    format!("[handlers.{name}]\nruntime = \"{runtime}\"\n")
}

/// That of [`OCI`].
pub fn oci_table() -> Result<String> {
    let runtime = match env::var_os(RUNTIME) {
        Some(runtime) => PathBuf::from(runtime),
        None => runc()?,
    };
    ensure!(
        runtime.exists(),
        "{} is not there: run hack/setup test",
        runtime.display()
    );
    Ok(table(OCI, &runtime.display().to_string()))
}

/// Whether that runtime is crun.
pub fn is_crun() -> bool {
    env::var_os(RUNTIME).is_some_and(|runtime| Path::new(&runtime).ends_with("crun"))
}

/// Where `hack/setup test` puts runc.
pub fn runc() -> Result<PathBuf> {
    Ok(cache()?.join("bin/runc"))
}

/// Where `hack/setup` keeps what it makes.
pub fn cache() -> Result<PathBuf> {
    match env::var_os("CORTEN_CACHE") {
        Some(cache) => Ok(cache.into()),
        None => {
            Ok(Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cache/corten"))
        }
    }
}

/// A node whose configuration has `handlers`, with the busybox image.
pub async fn node(handlers: &str) -> Result<Node> {
    let mut node = Node::without_daemon(&["--dev-network"]).await?;
    let path = node.dir().join("config.toml");
    fs::write(&path, handlers)?;
    node.add_options(["--config".to_owned(), path.display().to_string()]);
    node.start_daemon().await?;
    image::load_busybox(&node).await?;
    Ok(node)
}

/// Runs a pod on the handler `name`.
pub async fn run_pod(
    runtime: &mut pod::Runtime,
    config: &cri::PodSandboxConfig,
    name: &str,
) -> Result<String, tonic::Status> {
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: name.into(),
    };
    let reply = runtime.run_pod_sandbox(request).await?;
    Ok(reply.into_inner().pod_sandbox_id)
}
