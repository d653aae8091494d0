//! The end of a container: whichever way it is told, it is recorded once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_proto::{layout, shim::Exited};
use corten_sys::cgroup::Cgroup;
use prost::Message;
use tokio::task::JoinHandle;

use super::{Container, State};
use crate::{blocking::blocking, clock, context::Context, shim};

/// The exit code of a container whose shim ended without a record of it, as containerd has it.
const LOST: i32 = 255;
/// The kubelet shows it as the reason of a container whose program could not be run.
pub(super) const NOT_RUN: &str = "StartError";
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
    let exit = match told {
        Some(exit) => exit,
        None => lost(cx, container).await,
    };
    set_exited(cx, container, exit);
}

/// Records the end that is in the exit file, where there is one. Blocks for a read of the state directory.
pub(crate) fn take_up(cx: &Context, container: &Container) {
    if let Some(exit) = read(&file(cx, container)) {
        set_exited(cx, container, exit);
    }
}

/// Shims that did not have `not_run` had a message for nothing else, and this code with it.
fn is_not_run(exit: &Exited) -> bool {
    let old = exit.code == 128 && exit.oom_kills == 0 && !exit.message.is_empty();
    exit.not_run || old
}

/// Takes over the exit.
fn set_exited(cx: &Context, container: &Container, exit: Exited) {
    let (code, oom_killed) = (exit.code, exit.oom_killed);
    // What the exit code does not say.
    let reason = if is_not_run(&exit) { NOT_RUN } else { "" };
    if container.end(cx, exit, reason.to_owned()) {
        tracing::info!(container = %container.record.id, code, oom_killed, "container exited");
    }
}

async fn recorded(cx: &Context, container: &Container) -> Option<Exited> {
    let path = file(cx, container);
    blocking(move || Ok(read(&path))).await.ok().flatten()
}

fn file(cx: &Context, container: &Container) -> PathBuf {
    layout::container_state(&cx.config.state, &container.record.id).join(layout::EXIT)
}

fn read(path: &Path) -> Option<Exited> {
    let bytes = std::fs::read(path).ok()?;
    if bytes.len() > MAX_EXIT {
        None
    } else {
        Exited::decode(&*bytes).ok()
    }
}

/// Kills what is left of a container that no connection watches any more: its shim first, which may hang or not have been reached,
/// then everything in its cgroup.
pub(crate) async fn kill_all(cx: &Context, container: &Container) {
    let id = container.record.id.clone();
    let shim = blocking(move || Ok(shim::kill(&["container", &id])));
    if let Ok(Err(error)) = shim.await {
        tracing::warn!(container = %container.record.id, %error, "the shim of a lost container lives on");
        container.set_shim_may_live();
    }
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
}

/// A shim that was killed took its container's init with it only if the kernel says so: end what is left.
async fn lost(cx: &Arc<Context>, container: &Container) -> Exited {
    kill_all(cx, container).await;
    // Written between the first look and the kill.
    if let Some(exit) = recorded(cx, container).await {
        return exit;
    }
    tracing::warn!(container = %container.record.id, "the shim ended without a record of the container's exit");
    Exited {
        started_at_ns: match container.state() {
            State::Running { started_at } => started_at,
            State::Created | State::Exited { .. } => container.record.created_at_ns,
        },
        message: "the container's shim ended without a record of the exit".into(),
        ..unseen()
    }
}

/// End of a container that no shim has told, now.
pub(crate) fn unseen() -> Exited {
    Exited {
        code: LOST,
        at_ns: clock::unix_nanos(),
        ..Exited::default()
    }
}
