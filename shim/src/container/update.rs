//! New limits for a container that is created or runs: all of them, or none.

use std::{collections::BTreeSet, io};

use corten_proto::shim::{FailureKind, Update, Updated};

use super::{
    group::{self, Group},
    security,
};
use crate::failure::{Result, failure};

const OPERATION: &str = "update the container's limits";
/// Processes that are forked meanwhile have the old value; few are at it at any time.
const ROUNDS: u32 = 10;

/// Changes the limits that `update` names, of the cgroup that init is in.
pub(super) fn update(group: &Group, init: i32, update: &Update) -> Result<Updated> {
    let limits = group::resources(&update.resources.clone().unwrap_or_default());
    group
        .cgroup()
        .update(&limits)
        .map_err(|error| refused(&error))?;
    let mut warnings = group.missing(&limits);
    // Last, since nothing can go wrong with it: what is not allowed is clamped, and who has ended needs none.
    if let Some(wanted) = update.oom_score_adj {
        set_oom_score_adj(group, init, wanted, &mut warnings);
    }
    Ok(Updated { warnings })
}

fn refused(error: &io::Error) -> corten_proto::shim::Failure {
    let kind = match error.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::InvalidInput => FailureKind::FailureInvalid,
        _ => FailureKind::FailureInternal,
    };
    failure(kind, OPERATION, "", error)
}

/// Every process has its own.
fn set_oom_score_adj(group: &Group, init: i32, wanted: i32, warnings: &mut Vec<String>) {
    let mut done = BTreeSet::from([init]);
    let mut told = Vec::new();
    let _ = security::set_oom_score_adj(&init.to_string(), wanted, &mut told);
    for _ in 0..ROUNDS {
        let all = group.cgroup().all_procs().unwrap_or_default();
        let new: Vec<_> = all.into_iter().filter(|pid| done.insert(*pid)).collect();
        for pid in &new {
            let _ = security::set_oom_score_adj(&pid.to_string(), wanted, &mut told);
        }
        if new.is_empty() {
            break;
        }
    }
    // The same of each.
    told.truncate(1);
    warnings.append(&mut told);
}
