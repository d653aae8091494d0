//! A churn: clients that make, use, race and remove pods at random while the daemon, shims and plugins are killed. At the end
//! nothing is listed, nothing is left, and no call has been answered wrongly.
//!
//! ```text
//!   seed             a client's decisions, which its seed repeats
//!   world            what is shared: the daemon's generation, what was killed, what stands; the trace; what went wrong
//!   calls, client    a client's calls, and the lives of its pods
//!   kills            of the daemon, of shims and of plugins
//! ```

mod calls;
mod client;
mod kills;
mod seed;
mod world;

use std::{
    fmt::Write,
    fs::{self, File},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::{
    calls::Caller,
    client::Client,
    kills::Killed,
    world::{Outcome, World},
};
use crate::{image, leftovers::Leftovers, node::Node, wait::until};

/// Where Debian has the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub duration: Duration,
    pub clients: u64,
    /// In a minute.
    pub daemon_kills: u32,
    pub shim_kills: u32,
    /// With these, networks are made by programs, and not by what is built in.
    pub plugin_kills: u32,
    /// Where the trace and, after a failure, the daemon's log go.
    pub output: PathBuf,
}

/// Runs a churn. Returns what there was of it.
///
/// # Errors
/// Everything that went wrong.
pub async fn run(options: &Options) -> Result<String> {
    fs::create_dir_all(&options.output)?;
    let mut node = start_node(options).await?;
    let before = Leftovers::count(&node)?;
    let trace = File::create(options.output.join("trace.tsv"))?;
    let world = Arc::new(World::new(node.socket(), trace));
    let ran = churn(&mut node, &world, options, &before).await;
    let problems = world.problems();
    let failed = ran.as_ref().err().map(|error| format!("{error:#}"));
    let failures: Vec<_> = problems.into_iter().chain(failed).collect();
    match (ran, failures.is_empty()) {
        (Ok(report), true) => Ok(report),
        _ => {
            fs::write(options.output.join("corten.log"), node.log())?;
            bail!(
                "seed {}: see {}\n{}",
                options.seed,
                options.output.display(),
                failures.join("\n")
            )
        }
    }
}

async fn start_node(options: &Options) -> Result<Node> {
    let mut node = Node::without_daemon(&[]).await?;
    if options.plugin_kills > 0 {
        ensure!(
            fs::exists(format!("{PLUGINS}/bridge"))?,
            "the reference plugins are not in {PLUGINS}: run hack/setup"
        );
        fs::write(
            node.dir().join("net.d/churn.conflist"),
            conflist(&node).to_string(),
        )?;
        node.add_options(["--cni-builtin", "false", "--cni-bin-dir", PLUGINS].map(str::to_owned));
    } else {
        node.add_options(["--dev-network".to_owned()]);
    }
    node.start_daemon().await?;
    image::load_busybox(&node).await?;
    Ok(node)
}

/// Pods on a bridge, by the reference plugins as programs.
fn conflist(node: &Node) -> Value {
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{ "subnet": "10.87.0.0/16" }]],
        "dataDir": node.dir().join("addresses")
    });
    let bridge = json!({ "type": "bridge", "bridge": "churn0", "isGateway": true, "ipam": ipam });
    json!({ "cniVersion": "1.0.0", "name": "churn", "plugins": [bridge] })
}

async fn churn(
    node: &mut Node,
    world: &Arc<World>,
    options: &Options,
    before: &Leftovers,
) -> Result<String> {
    let end = Instant::now() + options.duration;
    let mut clients = JoinSet::new();
    for number in 0..options.clients {
        clients.spawn(Client::new(Arc::clone(world), number, options.seed).run());
    }
    let killed = kills::run(node, world, options, end).await;
    world.end();
    let killed = killed.context("kill and restart")?;
    let mut lives = 0;
    while let Some(ended) = clients.join_next().await {
        lives += ended.context("a client")?;
    }
    clear(world).await?;
    Leftovers::settle(node, before).await?;
    Ok(report(world, options, lives, &killed))
}

/// Removes what clients have given up before they knew of it. Then nothing may be listed.
async fn clear(world: &Arc<World>) -> Result<()> {
    let caller = Caller::new(Arc::clone(world), u64::MAX);
    until(|| async {
        if let Outcome::Done(pods) = caller.clone().pods(None).await {
            for pod in &pods {
                caller.take_away(&pod.id).await;
            }
            ensure!(pods.is_empty(), "pods are listed: {pods:?}");
        }
        if let Outcome::Done(containers) = caller.clone().containers(None).await {
            ensure!(
                containers.is_empty(),
                "containers are listed: {containers:?}"
            );
        }
        Ok(())
    })
    .await
}

fn report(world: &World, options: &Options, lives: u64, killed: &Killed) -> String {
    let mut answers = killed.first_answers.clone();
    answers.sort();
    let mut text = format!(
        "seed {}: {lives} pods by {} clients in {:?}; killed: {} daemons, {} shims, {} plugins\n",
        options.seed,
        options.clients,
        options.duration,
        killed.daemons,
        killed.shims,
        killed.plugins
    );
    if let (Some(median), Some(longest)) = (answers.get(answers.len() / 2), answers.last()) {
        let _ = writeln!(
            text,
            "first list after a start: {median:.3?} at the median, {longest:.3?} at most"
        );
    }
    text + &world.summary()
}
