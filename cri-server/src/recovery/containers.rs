//! Containers: their shims are asked; where none answers, the exit file tells the end, or the container is lost.

use std::{sync::Arc, time::Duration};

use corten_proto::{
    layout, record,
    shim::{Exited, Phase, Started},
};
use tokio::{task::JoinSet, time::timeout};

use super::{names, quarantine};
use crate::{
    clock,
    container::{self, Container, State, exit, remove, start},
    context::Context,
    error::Result,
    record_file,
    shim::Client,
};

/// A shim that says nothing for this long counts as gone, and is killed.
const PROBE: Duration = Duration::from_secs(10);
/// Time that the daemon's start waits for shims.
const MOMENT: Duration = Duration::from_millis(50);
/// As for a container whose shim was lost.
const REBOOTED: i32 = 255;

/// Reads the records and begins to ask the shims.
pub(super) fn restore(cx: &Arc<Context>) -> Result<JoinSet<()>> {
    let mut taken_up = JoinSet::new();
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
        let container = publish(cx, record);
        let cx = Arc::clone(cx);
        taken_up.spawn(async move { take_up(&cx, &container).await });
    }
    Ok(taken_up)
}

/// Waits until the shims have answered, for most do at once. The others are waited for by what concerns their containers.
pub(super) async fn wait_a_moment(mut taken_up: JoinSet<()>) {
    let all = async { while taken_up.join_next().await.is_some() {} };
    if timeout(MOMENT, all).await.is_err() {
        tracing::warn!(
            containers = taken_up.len(),
            "not all shims have answered; they are waited for while serving"
        );
        taken_up.detach_all();
    }
}

/// Lets everybody see the container as its record and its exit file tell it.
fn publish(cx: &Context, record: record::Container) -> Arc<Container> {
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
    let container = Arc::new(Container::new(record, state, layers));
    container.set_unsettled();
    if !container.is_exited() {
        exit::take_up(cx, &container);
    }
    cx.store.restore_container(Arc::clone(&container));
    container
}

/// Release of the calls that wait for what has become of the container, also when a panic ends the look at it.
struct Settles<'a>(&'a Container);

impl Drop for Settles<'_> {
    fn drop(&mut self) {
        self.0.set_settled();
    }
}

async fn take_up(cx: &Arc<Context>, container: &Arc<Container>) {
    let settles = Settles(container);
    if !container.is_exited() && timeout(PROBE, reconnect(cx, container)).await != Ok(true) {
        exit::finish(cx, container, None).await;
    }
    drop(settles);
    if !has_pod(cx, container) {
        tracing::warn!(container = %container.record.id, "a container without pod is removed");
        if let Err(error) = remove::remove(cx, container).await {
            tracing::warn!(container = %container.record.id, error = error.chain(), "a container without pod is left");
        }
    }
}

/// Whether its pod is there, if only as a record that cannot be read.
fn has_pod(cx: &Context, container: &Container) -> bool {
    let pod = &container.record.pod_id;
    let record = layout::pod_record(&cx.config.root, pod);
    let quarantined = cx.config.root.join("quarantine");
    cx.store.pod(pod).is_ok() || quarantined.join(super::quarantined(cx, &record)).exists()
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
    // Until its shim has answered.
    let state_dir = layout::container_state(&cx.config.state, &record.id);
    match record_file::read::<Started>(&state_dir.join(layout::STARTED)) {
        Ok(started) => State::Running {
            started_at: started.at_ns,
        },
        Err(_) => State::Created,
    }
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
            let started = Started {
                at_ns: hello.started_at_ns,
                init_pid: hello.init_pid,
            };
            start::runs(cx, container, &started);
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
    let client = Arc::new(client);
    container.set_shim(Some(Arc::clone(&client)));
    if hello.phase() == Phase::Created {
        // The daemon that asked for a start may have died over it.
        let (cx, container) = (Arc::clone(cx), Arc::clone(container));
        tokio::spawn(async move {
            if let Some(started) = start::follow(&client).await {
                start::runs(&cx, &container, &started);
            }
        });
    }
    tokio::spawn(exit::supervise(
        Arc::clone(cx),
        Arc::clone(container),
        events,
    ));
    true
}
