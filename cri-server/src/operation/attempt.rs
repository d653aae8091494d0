//! One attempt to make something: all of it, or nothing.

use std::future::Future;

use corten_proto::record::Resource;

use super::{Entry, Undo};
use crate::error::{Error, Result};

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    left_over: bool,
}

impl Failed {
    /// Not everything could be undone.
    pub(crate) fn is_left_over(&self) -> bool {
        self.left_over
    }
}

/// Runs `act`, which records and publishes what it made. When it fails or panics, undoes `resources`.
///
/// The ledger's entry goes when the object is recorded or nothing is left of it. Where something is left, the entry stays,
/// and the next start of the daemon undoes the rest.
pub(crate) async fn attempt<T: Send + 'static>(
    undo: &Undo,
    entry: Entry,
    resources: &[Resource],
    act: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Failed> {
    let error = match tokio::spawn(act).await {
        Ok(Ok(made)) => {
            close(entry);
            return Ok(made);
        }
        Ok(Err(error)) => error,
        Err(panic) => {
            tracing::error!(%panic, "an operation panicked");
            Error::Panicked
        }
    };
    match undo.run(resources).await {
        Ok(()) => {
            close(entry);
            Err(Failed {
                error,
                left_over: false,
            })
        }
        Err(left) => {
            tracing::warn!(
                error = left.chain(),
                "a failed operation could not be undone"
            );
            Err(Failed {
                error,
                left_over: true,
            })
        }
    }
}

/// An entry that stays although its object is recorded is taken away at the next start.
fn close(entry: Entry) {
    if let Err(error) = entry.close() {
        tracing::warn!(
            error = error.chain(),
            "an entry of the ledger could not be removed"
        );
    }
}
