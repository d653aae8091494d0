//! CNI plugins that an earlier daemon started and did not live to see the end of. They go on, and what they make after the
//! next daemon has detached the pod would stay. Nor may two run for one container at once (CNI spec 1.1, section 3).

use std::{collections::HashSet, fs, io::Read};

use tokio::sync::watch;

use super::unfinished::Unfinished;
use crate::{blocking::blocking, context::Context, shim};

/// Far more than a plugin's environment has.
const MAX_ENVIRONMENT: u64 = 256 << 10;
/// CNI spec 1.1, section 2, "Parameters".
const CONTAINER: &[u8] = b"CNI_CONTAINERID=";

/// Begins to end the plugins of all pods that are known or `unfinished`, and tells when that is done. No pod is stopped or
/// removed before.
pub(super) fn end(cx: &Context, unfinished: &[Unfinished], ended: watch::Sender<bool>) {
    let pods = cx.store.pods();
    let shares: Vec<_> = pods.iter().filter_map(|pod| pod.try_share()).collect();
    let known = pods.iter().map(|pod| pod.record.id.as_str());
    let unfinished = unfinished.iter().filter_map(Unfinished::id);
    let ids: HashSet<Vec<u8>> = known.chain(unfinished).map(|id| id.into()).collect();
    tokio::spawn(async move {
        let killed = blocking(move || {
            kill(&ids);
            Ok(())
        });
        if let Err(error) = killed.await {
            tracing::error!(error = error.chain(), "looking for plugins");
        }
        ended.send_replace(true);
        drop(shares);
    });
}

fn kill(ids: &HashSet<Vec<u8>>) {
    if ids.is_empty() {
        return;
    }
    let Ok(own) = shim::OwnMounts::find() else {
        return;
    };
    // What a container calls itself decides nothing.
    let fits = |pid: i32| own.are_of(pid) && attached(pid).is_some_and(|id| ids.contains(&id));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Err(error) = shim::kill_if(pid, fits) {
            tracing::warn!(%error, "a plugin of an earlier daemon lives on");
        }
    }
}

/// The container that the process was started for, if it is a plugin or was started by one.
fn attached(pid: i32) -> Option<Vec<u8>> {
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environment = Vec::new();
    let read = file.take(MAX_ENVIRONMENT).read_to_end(&mut environment);
    read.ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    variables.find_map(|variable| Some(variable.strip_prefix(CONTAINER)?.to_owned()))
}
