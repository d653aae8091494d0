//! The end of a container: whichever way it is told, it is recorded once.

use std::{path::Path, sync::Arc};

use corten_proto::{layout, shim::Exited};
use corten_sys::cgroup::Cgroup;
use prost::Message;
use tokio::task::JoinHandle;

use super::{Container, State};
use crate::{blocking::blocking, clock, context::Context};

/// The exit code of a container whose shim ended without a record of it, as containerd has it.
const LOST: i32 = 255;
/// The kubelet shows it as the reason of a container whose program could not be run.
const NOT_RUN: &str = "StartError";
/// No exit file is larger.
const MAX_EXIT: usize = 64 << 10;

/// Waits for the end of the shim's connection and records the container's end.
pub(crate) async fn supervise(
    cx: Arc<Context>,
    container: Arc<Container>,
    events: JoinHandle<Option<Exited>>,
) {
    let told = events.await.ok().flatten();
    finish(&cx, &container, told).await;
}

/// Records the end that the shim `told`, or else the one in its exit file, or else that it was lost.
pub(crate) async fn finish(cx: &Arc<Context>, container: &Arc<Container>, told: Option<Exited>) {
    container.set_shim(None);
    let told = match told {
        Some(exit) => Some(exit),
        None => recorded(cx, container).await,
    };
    match told {
        Some(exit) if is_not_run(&exit) => set_exited(cx, container, exit, NOT_RUN),
        Some(exit) => set_exited(cx, container, exit, ""),
        None => set_exited(cx, container, lost(cx, container).await, ""),
    }
}

/// Shims that did not have `not_run` had a message for nothing else, and this code with it.
fn is_not_run(exit: &Exited) -> bool {
    let old = exit.code == 128 && exit.oom_kills == 0 && !exit.message.is_empty();
    exit.not_run || old
}

/// Takes over the exit; the reason is one that the exit code does not say.
fn set_exited(cx: &Context, container: &Container, exit: Exited, reason: &str) {
    let (code, oom_killed) = (exit.code, exit.oom_killed);
    let reason = reason.to_owned();
    if !container.advance(State::Exited { exit, reason }) {
        return;
    }
    tracing::info!(container = %container.record.id, code, oom_killed, "container exited");
    if let Err(error) = container.save(cx) {
        // The exit file is still there for the next start.
        tracing::warn!(container = %container.record.id, error = error.chain(), "the exit could not be recorded");
    }
}

async fn recorded(cx: &Context, container: &Container) -> Option<Exited> {
    let path = layout::container_state(&cx.config.state, &container.record.id).join(layout::EXIT);
    blocking(move || Ok(read(&path))).await.ok().flatten()
}

fn read(path: &Path) -> Option<Exited> {
    let bytes = std::fs::read(path).ok()?;
    if bytes.len() > MAX_EXIT {
        None
    } else {
        Exited::decode(&*bytes).ok()
    }
}

/// A shim that was killed took its container's init with it only if the kernel says so: end what is left.
async fn lost(cx: &Arc<Context>, container: &Container) -> Exited {
    let (hierarchies, path) = (
        Arc::clone(&cx.undo.hierarchies),
        container.record.cgroup.clone(),
    );
    let killed = blocking(move || {
        let cgroup = Cgroup::new(&hierarchies, &path);
        Ok(cgroup.kill().and_then(|()| cgroup.remove()))
    });
    if let Ok(Err(error)) = killed.await {
        tracing::warn!(container = %container.record.id, %error, "the cgroup of a lost container could not be removed");
    }
    tracing::warn!(container = %container.record.id, "the shim ended without a record of the container's exit");
    let started_at_ns = match container.state() {
        State::Running { started_at } => started_at,
        State::Created | State::Exited { .. } => container.record.created_at_ns,
    };
    Exited {
        started_at_ns,
        code: LOST,
        at_ns: clock::unix_nanos(),
        message: "the container's shim ended without a record of the exit".into(),
        ..Exited::default()
    }
}
