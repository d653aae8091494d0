//! Strays: what lies in our directories and belongs to no record and to no operation that is being undone. They are found
//! before a call can make anything, and removed behind the socket.

use std::collections::HashSet;

use corten_proto::{
    layout,
    record::{Resource, resource::Kind},
};

use super::names;
use crate::{context::Context, error::Result};

/// Resources of each stray, in the order in which they were made.
pub(super) fn find(cx: &Context) -> Result<Vec<Vec<Kind>>> {
    let unfinished: HashSet<String> = names(&cx.config.root.join("operations"))?
        .into_iter()
        .collect();
    let is_stray = |id: &String, known: bool| !known && !unfinished.contains(id);
    let mut strays = Vec::new();

    let mut ids: HashSet<String> = HashSet::new();
    for dir in [&cx.config.root, &cx.config.state] {
        ids.extend(names(&dir.join("containers"))?);
    }
    for id in ids {
        if is_stray(&id, cx.store.container(&id).is_ok()) {
            tracing::warn!(container = id, "a container without record is removed");
            strays.push(vec![
                Kind::Directory(text(&layout::container_state(&cx.config.state, &id))),
                Kind::Directory(text(&layout::container_root(&cx.config.root, &id))),
                Kind::Cgroup(format!("{}/{id}", cx.cgroup_root())),
                Kind::Shim(id),
            ]);
        }
    }
    for id in names(&cx.config.state.join("pods"))? {
        if is_stray(&id, cx.store.pod(&id).is_ok()) {
            let dir = layout::pod_state(&cx.config.state, &id);
            let below = |name: &str| text(&dir.join(name));
            strays.push(vec![
                Kind::Directory(text(&dir)),
                Kind::Cgroup(format!("{}/{id}", cx.cgroup_root())),
                Kind::Mount(below("etc")),
                Kind::Mount(below("shm")),
                Kind::Pin(below("ns/ipc")),
                Kind::Pin(below("ns/uts")),
                Kind::UserPin(below("ns/user")),
                Kind::PidPin(below("ns/pid")),
            ]);
        }
    }
    Ok(strays)
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

pub(super) async fn remove(cx: &Context, strays: Vec<Vec<Kind>>) {
    for kinds in strays {
        let resources: Vec<_> = kinds
            .into_iter()
            .map(|kind| Resource { kind: Some(kind) })
            .collect();
        if let Err(error) = cx.undo.run(&resources).await {
            tracing::warn!(error = error.chain(), "a stray could not be removed");
        }
    }
}
