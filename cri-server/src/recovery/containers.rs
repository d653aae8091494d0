//! Containers: their shims are asked; where none answers, the exit file tells the end, or the container is lost.

use std::{sync::Arc, time::Duration};

use corten_proto::{
    layout, record,
    shim::{Exited, Phase},
};
use tokio::{task::JoinSet, time::timeout};

use super::{names, quarantine};
use crate::{
    clock,
    container::{self, Container, State, exit},
    context::Context,
    error::{At, Result},
    record_file,
    shim::Client,
};

/// A shim that says nothing for this long counts as gone; it must not keep the daemon from starting.
const PROBE: Duration = Duration::from_secs(3);
/// As for a container whose shim was lost.
const REBOOTED: i32 = 255;

pub(super) async fn restore(cx: &Arc<Context>) -> Result<()> {
    let mut probes = JoinSet::new();
    for id in names(&cx.config.root.join("containers"))? {
        let path = container::record_path(cx, &id);
        if !path.exists() {
            // An operation that is being undone, or a directory that nothing points to: `strays` decides.
            continue;
        }
        let record = match record_file::read::<record::Container>(&path) {
            Ok(record) => record,
            Err(error) => {
                let dir = layout::container_root(&cx.config.root, &id);
                quarantine(cx, &dir, &error.chain())?;
                continue;
            }
        };
        let cx = Arc::clone(cx);
        probes.spawn(async move { take_up(&cx, record).await });
    }
    while let Some(probe) = probes.join_next().await {
        if let Err(panic) = probe {
            tracing::error!(%panic, "taking up a container panicked");
        }
    }
    Ok(())
}

async fn take_up(cx: &Arc<Context>, record: record::Container) {
    let volumes = record.image_volumes.iter().map(|volume| &volume.layers);
    let needed: Vec<_> = [&record.layers].into_iter().chain(volumes).collect();
    let layers: Vec<_> = needed
        .iter()
        .filter_map(|layers| cx.images.hold_layers(layers))
        .collect();
    if layers.len() < needed.len() {
        cx.add_condition(format!("layers of container {} are missing", record.id));
    }
    let state = known_state(cx, &record);
    let ended = matches!(state, State::Exited { .. });
    let container = Arc::new(Container::new(record, state, layers));
    cx.store.restore_container(Arc::clone(&container));
    if ended {
        return;
    }
    if timeout(PROBE, reconnect(cx, &container)).await != Ok(true) {
        exit::finish(cx, &container, None).await;
    }
}

/// What the record alone tells.
fn known_state(cx: &Context, record: &record::Container) -> State {
    if let Some(exit) = record.exit.clone() {
        return State::Exited {
            exit,
            reason: record.reason.clone(),
        };
    }
    if record.boot_id != cx.boot_id {
        let message = "the node was rebooted".into();
        let exit = Exited {
            code: REBOOTED,
            at_ns: clock::unix_nanos(),
            message,
            // Whether and when it was started, only the shim knew.
            started_at_ns: record.created_at_ns,
            ..Exited::default()
        };
        return State::Exited {
            exit,
            reason: String::new(),
        };
    }
    State::Created
}

/// Connects to the shim again. False when it is gone or the container has ended.
async fn reconnect(cx: &Arc<Context>, container: &Arc<Container>) -> bool {
    let state_dir = layout::container_state(&cx.config.state, &container.record.id);
    let Ok((client, events)) = Client::connect(&state_dir).await else {
        return false;
    };
    let events = tokio::spawn(events.end());
    let Ok(hello) = client.hello().await else {
        return false;
    };
    match hello.phase() {
        Phase::Created => {}
        Phase::Running => {
            container.set_init_pid(hello.init_pid);
            container.advance(State::Running {
                started_at: hello.started_at_ns,
            });
        }
        Phase::Exited => {
            let told = timeout(PROBE, events)
                .await
                .ok()
                .and_then(|end| end.ok().flatten());
            exit::finish(cx, container, told).await;
            return true;
        }
        Phase::Empty => return false,
    }
    container.set_shim(Some(Arc::new(client)));
    tokio::spawn(exit::supervise(
        Arc::clone(cx),
        Arc::clone(container),
        events,
    ));
    true
}

/// Removes the directory of a container that has no record.
pub(super) fn remove_dir(cx: &Context, id: &str) -> Result<()> {
    let dir = layout::container_root(&cx.config.root, id);
    std::fs::remove_dir_all(&dir).at("remove", &dir)
}
