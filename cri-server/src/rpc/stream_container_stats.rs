//! StreamContainerStats: as ListContainerStats, in messages that stay small however many containers there are.
//!
//! Rule (CRI, StreamContainerStats): a snapshot, each container once, at least one in each message.

use std::sync::Arc;

use corten_proto::cri;

use super::list_container_stats;
use crate::{context::Context, error::Result};

/// With all of its labels and annotations, one takes a few KiB.
const PER_MESSAGE: usize = 100;

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StreamContainerStatsRequest,
) -> Result<Vec<cri::StreamContainerStatsResponse>> {
    let list = cri::ListContainerStatsRequest {
        filter: request.filter,
    };
    let stats = list_container_stats::handle(cx, list).await?.stats;
    let messages = stats.chunks(PER_MESSAGE);
    Ok(messages
        .map(|stats| cri::StreamContainerStatsResponse {
            container_stats: stats.to_vec(),
        })
        .collect())
}
