//! The one bridge from async to sync code.

use crate::error::Error;

/// Runs `work` on a thread that may block. If the caller leaves, it runs to its end all the same.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic was reported where it happened; or the runtime is shutting down.
        Err(_) => Err(Error::Stopped(what)),
    }
}
