//! The writable layers' sizes.
//!
//! Nothing but a walk tells them, and a walk takes seconds where a container has written a million files, or longer on a disk
//! that is busy. So a request never waits for one beyond [`PATIENCE`]: it gives the last figure, with the time at which that
//! was true, and the walk goes on for the next one. A walk runs on a blocking thread, two at a time, so that all of the
//! node's layers together take no thread from other work; and a layer is walked again only when its figure is old, and
//! older the longer the walk took.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use corten_proto::layout;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    time::timeout,
};

use super::disk_usage::{DiskUsage, measure};
use crate::{blocking::blocking, clock, container::Container, context::Context, error::At};

const PATIENCE: Duration = Duration::from_millis(200);
/// A kubelet asks every ten seconds.
const FRESH: Duration = Duration::from_secs(5);
/// So many times as long as a walk has taken there is none: it takes a twentieth of a thread at most.
const REST: u32 = 20;
const AT_ONCE: usize = 2;

/// Turns for walks.
#[derive(Debug)]
pub(crate) struct Walks(Semaphore);

impl Default for Walks {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// What is known of one container's layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    known: Mutex<Option<Known>>,
    /// Held by the walk.
    walk: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    usage: DiskUsage,
    /// Unix time in nanoseconds.
    at_ns: i64,
    ended: Instant,
    took: Duration,
}

impl Layer {
    /// The last figure, and of when it is, in nanoseconds of Unix time.
    pub(super) fn last(&self) -> Option<(DiskUsage, i64)> {
        self.known().map(|known| (known.usage, known.at_ns))
    }

    fn known(&self) -> Option<Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self) -> bool {
        let fresh = |known: Known| known.ended.elapsed() < FRESH.max(known.took * REST);
        self.known().is_some_and(fresh)
    }

    /// Whether a walk is likely to end while a request waits.
    fn is_quick(&self) -> bool {
        self.known().is_none_or(|known| known.took < PATIENCE)
    }
}

/// Has old figures renewed, and waits for those that are quick to get.
pub(super) async fn refresh(cx: &Arc<Context>, containers: &[Arc<Container>]) {
    let old = || {
        containers
            .iter()
            .filter(|container| !container.layer.is_fresh())
    };
    for container in old() {
        // One that is being walked is not walked twice.
        if let Ok(turn) = Arc::clone(&container.layer.walk).try_lock_owned() {
            tokio::spawn(walk(Arc::clone(cx), Arc::clone(container), turn));
        }
    }
    let quick: Vec<_> = old()
        .filter(|container| container.layer.is_quick())
        .collect();
    let ended = async {
        for container in quick {
            drop(container.layer.walk.lock().await);
        }
    };
    // What is not there yet is for the next request.
    let _ = timeout(PATIENCE, ended).await;
}

async fn walk(cx: Arc<Context>, container: Arc<Container>, turn: OwnedMutexGuard<()>) {
    let Ok(_permit) = cx.walks.0.acquire().await else {
        return;
    };
    let upper = layout::container_root(&cx.config.root, &container.record.id).join("upper");
    let (start, at_ns) = (Instant::now(), clock::unix_nanos());
    match blocking(move || measure(&upper).at("measure", &upper)).await {
        Ok(usage) => {
            let ended = Instant::now();
            let known = Known {
                usage,
                at_ns,
                ended,
                took: ended - start,
            };
            *container
                .layer
                .known
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(known);
        }
        Err(error) => {
            tracing::debug!(container = %container.record.id, error = error.chain(), "the writable layer was not measured");
        }
    }
    drop(turn);
}
