//! StreamPodSandboxStats: as ListPodSandboxStats, in messages that stay small however many pods there are.
//!
//! Rule (CRI, StreamPodSandboxStats): a snapshot, each pod once, at least one in each message.

use std::sync::Arc;

use corten_proto::cri;

use super::list_pod_sandbox_stats;
use crate::{context::Context, error::Result};

/// With its containers' usage, labels and annotations, one takes some ten KiB.
const PER_MESSAGE: usize = 50;

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StreamPodSandboxStatsRequest,
) -> Result<Vec<cri::StreamPodSandboxStatsResponse>> {
    let list = cri::ListPodSandboxStatsRequest {
        filter: request.filter,
    };
    let stats = list_pod_sandbox_stats::handle(cx, list).await?.stats;
    let messages = stats.chunks(PER_MESSAGE);
    Ok(messages
        .map(|stats| cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats: stats.to_vec(),
        })
        .collect())
}
