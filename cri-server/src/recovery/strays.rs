//! Strays: what lies in our directories and belongs to no record and to no operation that is being undone.

use std::{collections::HashSet, sync::Arc};

use corten_proto::{
    layout,
    record::{Resource, resource::Kind},
};

use super::{containers, names};
use crate::{context::Context, error::Result};

pub(super) async fn remove(cx: &Arc<Context>) -> Result<()> {
    let unfinished: HashSet<String> = names(&cx.config.root.join("operations"))?
        .into_iter()
        .collect();
    let is_stray = |id: &String, known: bool| !known && !unfinished.contains(id);

    for id in names(&cx.config.root.join("containers"))? {
        if is_stray(&id, cx.store.container(&id).is_ok()) {
            tracing::warn!(
                container = id,
                "removing the directory of a container without record"
            );
            containers::remove_dir(cx, &id)?;
        }
    }
    for id in names(&cx.config.state.join("containers"))? {
        if is_stray(&id, cx.store.container(&id).is_ok()) {
            let dir = layout::container_state(&cx.config.state, &id)
                .display()
                .to_string();
            let cgroup = format!("{}/{id}", cx.cgroup_root());
            undo(
                cx,
                vec![Kind::Directory(dir), Kind::Cgroup(cgroup), Kind::Shim(id)],
            )
            .await;
        }
    }
    for id in names(&cx.config.state.join("pods"))? {
        if is_stray(&id, cx.store.pod(&id).is_ok()) {
            let dir = layout::pod_state(&cx.config.state, &id);
            let below = |name: &str| dir.join(name).display().to_string();
            let kinds = vec![
                Kind::Directory(dir.display().to_string()),
                Kind::Mount(below("etc")),
                Kind::Mount(below("shm")),
                Kind::Pin(below("ns/ipc")),
                Kind::Pin(below("ns/uts")),
                Kind::UserPin(below("ns/user")),
                Kind::PidPin(below("ns/pid")),
            ];
            undo(cx, kinds).await;
        }
    }
    Ok(())
}

async fn undo(cx: &Context, kinds: Vec<Kind>) {
    let resources: Vec<_> = kinds
        .into_iter()
        .map(|kind| Resource { kind: Some(kind) })
        .collect();
    if let Err(error) = cx.undo.run(&resources).await {
        tracing::warn!(error = error.chain(), "a stray could not be removed");
    }
}
