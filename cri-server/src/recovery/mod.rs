//! Recovery: what an earlier daemon left, taken up again.
//!
//! Assumed of it: it was killed at any point. Containers and their shims went on meanwhile, and some ended. Whatever is
//! outside of the records was written into the ledger before it was made. The machine may have rebooted since; then
//! every container has ended, and the state directory is empty.
//!
//! Order: unfinished operations are undone, pods and containers read, strays removed. Nothing of this may stop the start
//! or hold it up: shims are asked side by side, each with a deadline, and what cannot be undone in time goes on behind.

mod containers;
mod pods;
mod strays;

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    container,
    context::Context,
    error::{At, Result},
    operation::Entry,
};

/// How long the start waits for undoing.
const UNDO: Duration = Duration::from_secs(10);

/// Brings the store to what is on disk and in the kernel.
pub(crate) async fn recover(cx: &Arc<Context>) -> Result<()> {
    undo_unfinished(cx).await?;
    pods::restore(cx)?;
    containers::restore(cx).await?;
    strays::remove(cx).await?;
    let images = cx.images.clone();
    tokio::spawn(async move { images.collect_garbage().await });
    Ok(())
}

async fn undo_unfinished(cx: &Arc<Context>) -> Result<()> {
    let mut undoing = JoinSet::new();
    for (entry, operation) in cx.ledger.unfinished()? {
        let operation = match operation {
            Ok(operation) => operation,
            Err(error) => {
                quarantine(cx, entry.path(), &error.chain())?;
                continue;
            }
        };
        if is_recorded(cx, &entry) {
            entry.close()?;
            continue;
        }
        let undo = cx.undo.clone();
        undoing.spawn(async move {
            tracing::info!(
                operation = operation.name,
                "undoing what an earlier daemon left unfinished"
            );
            match undo
                .run(&operation.resources)
                .await
                .and_then(|()| entry.close())
            {
                Ok(()) => {}
                Err(error) => tracing::warn!(
                    error = error.chain(),
                    "an unfinished operation could not be undone"
                ),
            }
        });
    }
    if timeout(UNDO, async { while undoing.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!("undoing unfinished operations goes on while serving");
        undoing.detach_all();
    }
    Ok(())
}

/// Whether the object that the entry is about has its record, so that the operation was as good as over.
fn is_recorded(cx: &Context, entry: &Entry) -> bool {
    let Some(id) = entry.path().file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let pod = corten_proto::layout::pod_record(&cx.config.root, id);
    pod.exists() || container::record_path(cx, id).exists()
}

/// Moves what cannot be read out of the way, and tells the operator.
fn quarantine(cx: &Context, path: &Path, reason: &str) -> Result<()> {
    let name: String = path
        .strip_prefix(&cx.config.root)
        .unwrap_or(path)
        .display()
        .to_string()
        .replace('/', "-");
    let target = cx.config.root.join("quarantine").join(name);
    fs::rename(path, &target).at("move to quarantine", path)?;
    cx.add_condition(format!("moved to {}: {reason}", target.display()));
    Ok(())
}

/// The names in a directory of ours.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).at("list", dir)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}
