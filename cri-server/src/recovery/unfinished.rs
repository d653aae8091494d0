//! Operations that an earlier daemon left unfinished: undone behind the socket. What cannot be undone becomes a pod that is
//! NOTREADY, or a container that has ended, which the kubelet has removed, again and again until it works.

use std::{collections::BTreeMap, sync::Arc};

use corten_proto::record::Operation;
use tokio::sync::{OwnedRwLockReadGuard, watch};

use super::quarantine;
use crate::{
    container::{self, create},
    context::Context,
    error::Result,
    operation::Entry,
    pod::{Pod, run},
};

/// Unfinished operation, with its entry of the ledger.
#[derive(Debug)]
pub(super) struct Unfinished {
    entry: Entry,
    operation: Operation,
}

impl Unfinished {
    pub(super) fn id(&self) -> Option<&str> {
        self.entry.id()
    }
}

/// Reads the ledger. Entries of which the object is recorded are closed.
pub(super) fn read(cx: &Context) -> Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    for (entry, operation) in cx.ledger.unfinished()? {
        match operation {
            Err(error) => quarantine(cx, entry.path(), &error.chain())?,
            Ok(_) if is_recorded(cx, &entry) => entry.close()?,
            Ok(operation) => found.push(Unfinished { entry, operation }),
        }
    }
    Ok(found)
}

/// Whether the object that the entry is about has its record, so that the operation was as good as over.
fn is_recorded(cx: &Context, entry: &Entry) -> bool {
    let Some(id) = entry.id() else { return false };
    let pod = corten_proto::layout::pod_record(&cx.config.root, id);
    pod.exists() || container::record_path(cx, id).exists()
}

/// Begins to undo them, each as an operation with the key that it had. Its pod, which is in the store, is not stopped or
/// removed before.
pub(super) fn undo(
    cx: &Arc<Context>,
    unfinished: Vec<Unfinished>,
    plugins_ended: &watch::Receiver<bool>,
) {
    let mut by_key: BTreeMap<String, Vec<Unfinished>> = BTreeMap::new();
    for one in unfinished {
        let key = match one.operation.key.as_str() {
            "" => format!("undo {}", one.entry.path().display()),
            key => key.to_owned(),
        };
        by_key.entry(key).or_default().push(one);
    }
    for (key, group) in by_key {
        let (work_cx, mut ended) = (Arc::clone(cx), plugins_ended.clone());
        let shares: Vec<_> = group.iter().filter_map(|one| share(cx, one)).collect();
        cx.operations.begin(&key, async move {
            let _ = ended.wait_for(|ended| *ended).await;
            for one in group {
                undo_one(&work_cx, one).await;
            }
            drop(shares);
            Ok(String::new())
        });
    }
}

/// Share of the pod that the operation is about a container of. No call has one yet.
fn share(cx: &Context, one: &Unfinished) -> Option<OwnedRwLockReadGuard<()>> {
    let container = one.operation.container.as_ref()?;
    cx.store.pod(&container.pod_id).ok()?.try_share()
}

async fn undo_one(cx: &Arc<Context>, Unfinished { entry, operation }: Unfinished) {
    let name = operation.name;
    tracing::info!(
        operation = name,
        "undoing what an earlier daemon left unfinished"
    );
    let Err(error) = cx.undo.run(&operation.resources).await else {
        return crate::operation::close(entry);
    };
    tracing::warn!(
        operation = name,
        error = error.chain(),
        "an unfinished operation could not be undone"
    );
    let published = match (operation.pod, operation.container) {
        (Some(mut pod), _) => {
            pod.stopped = true;
            run::publish(cx, Pod::new(pod)).map(drop)
        }
        (None, Some(container)) => create::publish_left_over(cx, container),
        // Of a daemon that did not write it down. The next start tries again.
        (None, None) => {
            return cx.add_condition(format!(
                "what an unfinished {name} has made is left, until the daemon is started again: {}",
                error.chain()
            ));
        }
    };
    match published {
        Ok(()) => crate::operation::close(entry),
        Err(error) => tracing::error!(error = error.chain(), "what is left of it is in no list"),
    }
}
