//! Recovery: what an earlier daemon left, taken up again.
//!
//! Assumed of it: it was killed at any point. Containers and their shims went on meanwhile, and some ended. Whatever is
//! outside of the records was written into the ledger before it was made. The machine may have rebooted since; then
//! every container has ended, and the state directory is empty.
//!
//! ```text
//!   before the socket   records are read; unfinished operations take their keys, and a share of their pods
//!   behind it           plugins end; unfinished operations are undone; shims answer; strays are removed
//! ```
//!
//! So the first call is answered from records at once, but for a moment in which most shims answer, and a call about
//! something that is being undone waits for that. Nothing of this can stop the start.

mod containers;
mod plugins;
mod pods;
mod strays;
mod unfinished;

use std::{fs, path::Path, sync::Arc};

use tokio::sync::watch;

use crate::{
    context::Context,
    error::{At, Result},
};

/// Brings the store to what is on disk, and begins with the rest.
pub(crate) async fn recover(cx: &Arc<Context>) -> Result<()> {
    let unfinished = unfinished::read(cx)?;
    pods::restore(cx)?;
    let taken_up = containers::restore(cx)?;
    let strays = strays::find(cx)?;
    let (plugins_ended, ended) = watch::channel(false);
    plugins::end(cx, &unfinished, plugins_ended);
    unfinished::undo(cx, unfinished, &ended);
    containers::wait_a_moment(taken_up).await;
    let cx = Arc::clone(cx);
    tokio::spawn(async move {
        strays::remove(&cx, strays).await;
        cx.images.collect_garbage().await;
    });
    Ok(())
}

/// Moves what cannot be read out of the way, and tells the operator.
fn quarantine(cx: &Context, path: &Path, reason: &str) -> Result<()> {
    let target = cx
        .config
        .root
        .join("quarantine")
        .join(quarantined(cx, path));
    fs::rename(path, &target).at("move to quarantine", path)?;
    cx.add_condition(format!("moved to {}: {reason}", target.display()));
    Ok(())
}

/// The name of what was at `path`, in the quarantine.
fn quarantined(cx: &Context, path: &Path) -> String {
    let below = path.strip_prefix(&cx.config.root).unwrap_or(path);
    below.display().to_string().replace('/', "-")
}

/// The names in a directory of ours.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).at("list", dir)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}
