//! The one bridge from async code to code that blocks.

use crate::error::{Error, Result};

/// Runs `work` on a thread for blocking work; a panic in it becomes [`Error::Panicked`].
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "work on a blocking thread panicked");
            Err(Error::Panicked)
        }
    }
}
