//! Limits of what goes on at once, so that no client takes the daemon's memory, descriptors and threads from the others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// Calls that wait for their turn at a [`Gate`], for each that it lets through.
const WAITING_FOR_EACH: usize = 10;

/// A count of what is there, up to a limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

/// A part of a [`Count`], which is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    count: Arc<AtomicUsize>,
    amount: usize,
}

impl Count {
    /// Takes `amount` of the `limit`, which has `other` in use elsewhere. `None`: there is not so much left.
    pub(crate) fn take(&self, amount: usize, other: usize, limit: usize) -> Option<Share> {
        let take = |used: usize| {
            let used = used.checked_add(amount)?;
            (used.checked_add(other)? <= limit).then_some(used)
        };
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.fetch_update(set, fetch, take).ok()?;
        Some(Share {
            count: Arc::clone(&self.0),
            amount,
        })
    }

    /// Takes one; `what` there are so many of is told otherwise.
    pub(crate) fn one(&self, limit: usize, what: &'static str) -> Result<Share> {
        self.take(1, 0, limit).ok_or(Error::TooMany { what, limit })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// Lets so many operations go on at once; others wait for their turn, in their order.
#[derive(Debug)]
pub(crate) struct Gate {
    turns: Arc<Semaphore>,
    waiting: Count,
    limit: usize,
    what: &'static str,
}

impl Gate {
    /// Gate of pulls of images.
    pub(crate) fn of_pulls(config: &Config) -> Self {
        Self::new(config.image.max_concurrent_pulls, "pulls that wait")
    }

    /// Gate of creations of pods and containers.
    pub(crate) fn of_creations(config: &Config) -> Self {
        let limit = config.container.max_concurrent_creations;
        Self::new(limit, "pods and containers that wait to be made")
    }

    fn new(limit: usize, what: &'static str) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(limit)),
            waiting: Count::default(),
            limit,
            what,
        }
    }

    /// Waits for a turn, which ends when the result is dropped.
    ///
    /// # Errors
    /// When too many wait already.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        let turns = Arc::clone(&self.turns);
        let turns = match turns.try_acquire_owned() {
            Ok(turn) => return Ok(turn),
            Err(_) => Arc::clone(&self.turns),
        };
        let most = self.limit.saturating_mul(WAITING_FOR_EACH);
        let _waiting = self.waiting.one(most, self.what)?;
        turns
            .acquire_owned()
            .await
            .map_err(|_closed| Error::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let count = Count::default();
        let share = count.take(3, 0, 4).unwrap();
        assert!(count.take(2, 0, 4).is_none());
        assert!(count.take(1, 1, 4).is_none());
        drop(share);
        assert!(count.take(4, 0, 4).is_some());
        assert!(count.take(usize::MAX, 1, 4).is_none());
    }

    #[tokio::test]
    async fn a_gate_lets_others_wait_and_refuses_when_too_many_do() {
        let gate = Arc::new(Gate::new(1, "tests that wait"));
        let turn = gate.enter().await.unwrap();
        let waiters: Vec<_> = (0..WAITING_FOR_EACH)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.enter().await.map(drop).is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = gate.enter().await.unwrap_err();
        assert!(refused.to_string().contains("10 tests that wait"));
        drop(turn);
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
        assert!(gate.enter().await.is_ok());
    }
}
