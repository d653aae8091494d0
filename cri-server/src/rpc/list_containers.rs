//! ListContainers: from memory alone.

use std::sync::Arc;

use corten_proto::cri;

use super::{filter, views};
use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ListContainersRequest,
) -> Result<cri::ListContainersResponse> {
    let view = |container: &Arc<crate::container::Container>| {
        let state = views::container_state(&container.state());
        let fits = filter::container_fits(request.filter.as_ref(), container, state);
        fits.then(|| views::container(container, state))
    };
    Ok(cri::ListContainersResponse {
        containers: cx.store.containers().iter().filter_map(view).collect(),
    })
}
