//! Kills of the daemon, of shims and of plugins, at random moments.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use corten_proto::cri;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Options, seed::Seed, world::World};
use crate::{node::Node, pod};

const MINUTE: u64 = 60_000;

/// What the kills have shown.
#[derive(Debug, Default)]
pub(super) struct Killed {
    pub(super) daemons: u32,
    pub(super) shims: u32,
    pub(super) plugins: u32,
    /// From each start of a daemon to its first List.
    pub(super) first_answers: Vec<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Daemon,
    Shim,
    Plugin,
}

/// Kills at random moments, as often in a minute as `options` say, until `end`.
pub(super) async fn run(
    node: &mut Node,
    world: &Arc<World>,
    options: &Options,
    end: Instant,
) -> Result<Killed> {
    let mut seed = Seed::new(options.seed, u64::MAX);
    let mut killed = Killed::default();
    let rates = [
        (Victim::Daemon, options.daemon_kills),
        (Victim::Shim, options.shim_kills),
        (Victim::Plugin, options.plugin_kills),
    ];
    let mut due: Vec<(Instant, Victim, u32)> = Vec::new();
    for (victim, rate) in rates.into_iter().filter(|(_, rate)| *rate > 0) {
        due.push((Instant::now() + pause(&mut seed, rate), victim, rate));
    }
    while let Some((at, victim, rate)) = due.iter().copied().min_by_key(|(at, ..)| *at) {
        if at > end {
            break;
        }
        tokio::time::sleep_until(at.into()).await;
        match victim {
            Victim::Daemon => {
                killed.daemons += 1;
                let answered = replace_daemon(node, world).await?;
                killed.first_answers.push(answered);
            }
            Victim::Shim => killed.shims += kill_shim(node, world, &mut seed),
            Victim::Plugin => killed.plugins += kill_plugin(node, world, &mut seed),
        }
        let next = Instant::now() + pause(&mut seed, rate);
        for entry in due.iter_mut().filter(|(other, ..)| *other == at) {
            entry.0 = next;
        }
    }
    tokio::time::sleep_until(end.into()).await;
    Ok(killed)
}

/// Between half of and one and a half of what the rate asks for.
fn pause(seed: &mut Seed, per_minute: u32) -> Duration {
    let mean = MINUTE / u64::from(per_minute.max(1));
    Duration::from_millis(mean / 2 + seed.below(mean.max(1)))
}

/// Kills the daemon, starts another, and looks at its first List. Returns when that came.
async fn replace_daemon(node: &mut Node, world: &Arc<World>) -> Result<Duration> {
    let before = world.standing().clone();
    world.turn();
    world.write("the daemon is killed");
    node.end_daemon(Signal::SIGKILL)?;
    let start = Instant::now();
    node.start_daemon().await?;
    let mut runtime = node.runtime().await?;
    let pods = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await?
        .into_inner()
        .items;
    let answered = start.elapsed();
    let containers = pod::containers(&mut runtime).await?;
    world.write(&format!("the daemon answers after {answered:.3?}"));
    // What somebody has begun to end meanwhile is not there any more.
    let after = world.standing().clone();
    for id in before.pods.intersection(&after.pods) {
        let found = pods.iter().find(|pod| pod.id == *id);
        if found.is_none_or(|pod| pod.state() != cri::PodSandboxState::SandboxReady) {
            world.problem(&format!(
                "the first list after a restart has pod {id} as {found:?}"
            ));
        }
    }
    for id in before.containers.intersection(&after.containers) {
        let found = containers.iter().find(|container| container.id == *id);
        let runs = found
            .is_some_and(|container| container.state() == cri::ContainerState::ContainerRunning);
        if !runs && !world.lost_its_shim(id) {
            world.problem(&format!(
                "the first list after a restart has container {id} as {found:?}"
            ));
        }
    }
    world.turn();
    Ok(answered)
}

fn kill_shim(node: &Node, world: &World, seed: &mut Seed) -> u32 {
    let shims = processes(node, |words| match words {
        [program, "container", id, ..] if *program == "corten-shim" => Some((*id).to_owned()),
        _ => None,
    });
    let Some((pid, id)) = choose(&shims, seed) else {
        return 0;
    };
    world.note_kill(Some(id));
    world.write(&format!("the shim of {id} is killed"));
    u32::from(kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok())
}

fn kill_plugin(node: &Node, world: &World, seed: &mut Seed) -> u32 {
    let plugins = processes(node, |words| match words {
        [program, ..] if program.starts_with(super::PLUGINS) => Some((*program).to_owned()),
        _ => None,
    });
    let Some((pid, program)) = choose(&plugins, seed) else {
        return 0;
    };
    world.note_kill(None);
    world.write(&format!("the plugin {program} is killed"));
    u32::from(kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok())
}

fn choose<'a>(found: &'a [(i32, String)], seed: &mut Seed) -> Option<&'a (i32, String)> {
    (!found.is_empty()).then(|| seed.pick(found))
}

/// The node's processes whose arguments `fit`, by their ids on the host.
fn processes(node: &Node, fit: impl Fn(&[&str]) -> Option<String>) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        if let Some(what) = fit(&words)
            && node.has_process(pid)
        {
            found.push((pid, what));
        }
    }
    found
}
