//! Layers that pulls share at one time, and turns that they do not.
//!
//! A layer that several want from one registry is fetched by one of them, and all take it. No pull waits for bytes of a registry
//! that it does not ask itself, nor for its turn behind layers of another pull: registries may send as slowly as they like, and
//! archives may inflate to what they like. A layer that is verified is the same for all, whoever sent it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::digest::Digest;
use crate::error::Error;
use crate::store::{Ready, Staged, Store};

/// Layers that are fetched at a time, over all pulls. Each takes two of the daemon's 512 threads for work that blocks, and
/// needs both to go on.
const MAX_LANES: usize = 192;

#[derive(Debug)]
pub(crate) struct Sharing {
    slots: Mutex<Slots>,
    /// Lanes of all pulls but the one that each has for itself.
    common: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Slots {
    turns: HashMap<(Digest, Option<String>), Arc<Turn>>,
    /// By chain: layers that were verified and are not recorded yet.
    in_hand: HashMap<Digest, Weak<Staged>>,
}

/// Held by the pull that fetches the last layer of a chain. If it fails or is cancelled, the next in line fetches, with its own
/// credentials.
pub(crate) type Turn = tokio::sync::Mutex<()>;

impl Sharing {
    /// `lanes` is how many layers one pull fetches at a time.
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            slots: Mutex::default(),
            common: Arc::new(Semaphore::new(lanes.saturating_sub(1))),
            all: Arc::new(Semaphore::new(MAX_LANES)),
        }
    }

    /// To fetch a chain's last layer from a registry; `None` for an archive.
    pub(crate) fn turn(&self, chain: Digest, registry: Option<String>) -> Arc<Turn> {
        let mut slots = self.slots();
        slots.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        slots.in_hand.retain(|_, layer| layer.strong_count() > 0);
        Arc::clone(slots.turns.entry((chain, registry)).or_default())
    }

    /// A layer that is here, whichever pull has brought it.
    pub(crate) fn find(&self, chain: &Digest, store: &Arc<Store>) -> Option<Ready> {
        // In this order: a layer is in the store before the pull that had it in hand lets go of it.
        let mut slots = self.slots();
        if let Some(staged) = slots.in_hand.get(chain).and_then(Weak::upgrade) {
            return Some(Ready::Staged(staged));
        }
        if let Some(hold) = store.hold_chain(chain) {
            return Some(Ready::Stored(hold));
        }
        let staged = Arc::new(store.staging().take(chain)?);
        slots.in_hand.insert(*chain, Arc::downgrade(&staged));
        Some(Ready::Staged(staged))
    }

    /// For others to find. Where two registries brought the same layer at one time, all take the first.
    pub(crate) fn add(&self, chain: Digest, staged: Staged) -> Arc<Staged> {
        let staged = Arc::new(staged);
        let mut slots = self.slots();
        if let Some(first) = slots.in_hand.get(&chain).and_then(Weak::upgrade) {
            return first;
        }
        slots.in_hand.insert(chain, Arc::downgrade(&staged));
        staged
    }

    /// For one pull.
    pub(crate) fn lanes(&self) -> Lanes {
        Lanes {
            own: Semaphore::new(1),
            common: Arc::clone(&self.common),
            all: Arc::clone(&self.all),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit of layers that one pull fetches at a time.
#[derive(Debug)]
pub(crate) struct Lanes {
    own: Semaphore,
    common: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Lanes {
    /// Waits for one. The pull has it until what is returned is dropped.
    pub(crate) async fn enter(&self) -> Result<[SemaphorePermit<'_>; 2], Error> {
        let lane = tokio::select! {
            biased;
            own = self.own.acquire() => own,
            common = self.common.acquire() => common,
        };
        match (lane, self.all.acquire().await) {
            (Ok(lane), Ok(of_all)) => Ok([lane, of_all]),
            _ => Err(Error::Stopped("getting a layer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// `None` where it would have to wait.
    fn enter(lanes: &Lanes) -> Option<[SemaphorePermit<'_>; 2]> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(lanes.enter()).poll(&mut context) {
            Poll::Ready(entered) => Some(entered.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn each_pull_has_a_lane_and_all_share_the_others() {
        let sharing = Sharing::new(3);
        let (one, other) = (sharing.lanes(), sharing.lanes());
        let mut taken: Vec<_> = [&one; 3].map(enter).into_iter().flatten().collect();
        assert_eq!(taken.len(), 3);
        assert!(enter(&one).is_none());
        let own = enter(&other);
        assert!(own.is_some() && enter(&other).is_none());
        taken.pop();
        assert!(enter(&other).is_some());
        drop((own, taken));
        let narrow = Sharing::new(1).lanes();
        let only = enter(&narrow);
        assert!(only.is_some() && enter(&narrow).is_none());
    }

    #[test]
    fn all_lanes_together_leave_threads_to_others() {
        let sharing = Sharing::new(64);
        let pulls: Vec<_> = (0..300).map(|_| sharing.lanes()).collect();
        let taken: Vec<_> = pulls.iter().filter_map(enter).collect();
        assert_eq!(taken.len(), MAX_LANES);
    }
}
