//! Operations: what a mutating RPC does, in a task of its own.
//!
//! An operation has a key (the name of the pod, the id of the container ...). While one runs, an equal request with the same
//! key joins it and gets its result; a different request with the same key waits until it is over and then starts its own.
//! A caller that goes away stops waiting and nothing else.
//!
//! ```text
//!   request --key, hash--> in flight? --no---> task: ledger, act, record, publish --> result --> every waiting caller
//!                              | same hash: wait for its result  ^
//!                              | other hash: wait for its end, then look again
//! ```

mod attempt;
mod ledger;
mod undo;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) use attempt::{attempt, close};
pub(crate) use ledger::{Entry, Ledger};
use tokio::sync::watch;
pub(crate) use undo::Undo;

use crate::error::{Error, Result};

/// The id that the operation made; empty where it makes none.
type Outcome = Result<String, Arc<Error>>;

/// Tells equal requests from others.
pub(crate) type Hash = [u8; 32];

/// The operations in flight, by key.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    flights: Arc<Mutex<HashMap<String, Flight>>>,
}

#[derive(Clone, Debug)]
struct Flight {
    hash: Hash,
    outcome: watch::Receiver<Option<Outcome>>,
}

enum Claim {
    Mine(Flight),
    Other(Flight),
}

impl Operations {
    /// Joins the operation with this key and hash, or starts `work` as one.
    pub(crate) async fn run<F>(
        &self,
        key: String,
        hash: Hash,
        work: impl FnOnce() -> F,
    ) -> Result<String>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let mut work = Some(work);
        loop {
            match self.claim(&key, hash, &mut work) {
                Claim::Mine(flight) => return self.wait(flight).await,
                // Its sender is dropped when the task ends.
                Claim::Other(mut flight) => while flight.outcome.changed().await.is_ok() {},
            }
        }
    }

    /// Starts `work` as an operation that nobody joins: requests with this key wait for its end. Nothing is in flight yet.
    pub(crate) fn begin<F>(&self, key: &str, work: F)
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        // No request has this hash.
        self.claim(key, Hash::default(), &mut Some(|| work));
    }

    fn claim<W, F>(&self, key: &str, hash: Hash, work: &mut Option<W>) -> Claim
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(key) {
            return if flight.hash == hash {
                Claim::Mine(flight.clone())
            } else {
                Claim::Other(flight.clone())
            };
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Flight { hash, outcome };
        flights.insert(key.to_owned(), flight.clone());
        drop(flights);

        let landing = Landing {
            flights: Arc::clone(&self.flights),
            key: key.to_owned(),
            sender,
            outcome: None,
        };
        if let Some(work) = work.take() {
            let work = work();
            tokio::spawn(landing.land(work));
        }
        Claim::Mine(flight)
    }

    async fn wait(&self, mut flight: Flight) -> Result<String> {
        match flight.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => match &*outcome {
                Some(Ok(id)) => Ok(id.clone()),
                Some(Err(error)) => Err(Error::Shared(Arc::clone(error))),
                None => Err(Error::Panicked),
            },
            Err(_closed) => Err(Error::Panicked),
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn drain(&self) {
        loop {
            let Some(mut flight) = self.lock().values().next().cloned() else {
                return;
            };
            while flight.outcome.changed().await.is_ok() {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of an operation's task, also by a panic.
struct Landing {
    flights: Arc<Mutex<HashMap<String, Flight>>>,
    key: String,
    sender: watch::Sender<Option<Outcome>>,
    outcome: Option<Outcome>,
}

impl Landing {
    async fn land(mut self, work: impl Future<Output = Result<String>>) {
        self.outcome = Some(work.await.map_err(Arc::new));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Off the list first: who sees the result may start the next operation with this key at once.
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        if let Some(outcome) = self.outcome.take() {
            self.sender.send_replace(Some(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_requests_share_one_run() {
        let operations = Operations::default();
        let runs = Arc::new(AtomicU32::new(0));
        let work = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::task::yield_now().await;
                Ok(format!("id {}", runs.fetch_add(1, Ordering::SeqCst)))
            }
        };
        let (a, b) = tokio::join!(
            operations.run("pod".into(), [1; 32], work),
            operations.run("pod".into(), [1; 32], work)
        );
        assert_eq!((a.unwrap(), b.unwrap()), ("id 0".into(), "id 0".into()));
    }

    #[tokio::test]
    async fn another_request_with_the_key_runs_after_the_first() {
        let operations = Operations::default();
        let first = operations.run("pod".into(), [1; 32], || async {
            tokio::task::yield_now().await;
            Ok("first".into())
        });
        let second = operations.run("pod".into(), [2; 32], || async { Ok("second".into()) });
        let (first, second) = tokio::join!(first, second);
        assert_eq!(
            (first.unwrap(), second.unwrap()),
            ("first".into(), "second".into())
        );
    }

    #[tokio::test]
    async fn a_caller_that_leaves_does_not_end_the_operation() {
        let operations = Operations::default();
        let (go, done) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (go_on, finished) = (Arc::clone(&go), Arc::clone(&done));
        let run = operations.run("pod".into(), [1; 32], move || async move {
            go_on.notified().await;
            finished.store(1, Ordering::SeqCst);
            Ok(String::new())
        });
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(1), run)
                .await
                .is_err()
        );
        go.notify_one();
        operations.drain().await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_frees_the_key() {
        let operations = Operations::default();
        let bad = operations
            .run("pod".into(), [1; 32], || async { panic!("on purpose") })
            .await;
        assert!(matches!(bad, Err(Error::Panicked)));
        let good = operations
            .run("pod".into(), [1; 32], || async { Ok("id".into()) })
            .await;
        assert_eq!(good.unwrap(), "id");
    }
}
