//! What pulls are doing, layer by layer, for whoever shows it to a person.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::digest::Digest;

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For its turn, or for another pull that has it in hand.
    Waiting,
    /// Bytes come, and are unpacked as they come.
    Fetching,
    /// All bytes are here.
    Unpacking,
    Done,
}

/// One layer of a pull, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Shape: `sha256:` and 64 hex digits; the digest of the blob.
    pub digest: String,
    /// Unit: bytes of the blob.
    pub size: u64,
    /// Unit: bytes of the blob that are here. Stays below `size` for a layer that was here already.
    pub fetched: u64,
    pub phase: Phase,
}

/// The pulls that run, by reference as it was given.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<String, Weak<Progress>>>);

impl Pulls {
    pub(crate) fn begin(&self, reference: &str) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, pull| pull.strong_count() > 0);
        pulls.insert(reference.to_owned(), Arc::downgrade(&progress));
        progress
    }

    pub(crate) fn of(&self, reference: &str) -> Option<Arc<Progress>> {
        let pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.get(reference)?.upgrade()
    }
}

/// How far one pull is; goes on telling when the pull is over.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Vec<Arc<Meter>>>);

impl Progress {
    /// Bottom first; empty until the image's manifest is here.
    pub fn layers(&self) -> Vec<LayerProgress> {
        let layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        layers.iter().map(|layer| layer.now()).collect()
    }

    pub(crate) fn layer(&self, digest: Digest, size: u64) -> Arc<Meter> {
        let meter = Arc::new(Meter {
            digest,
            size,
            fetched: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Waiting as u8),
        });
        let mut layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        layers.push(Arc::clone(&meter));
        meter
    }
}

/// Written by the pull, read by anyone.
#[derive(Debug)]
pub(crate) struct Meter {
    digest: Digest,
    size: u64,
    fetched: AtomicU64,
    phase: AtomicU8,
}

impl Meter {
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn set_fetched(&self, bytes: u64) {
        self.fetched.store(bytes, Ordering::Relaxed);
        if bytes >= self.size {
            self.enter(Phase::Unpacking);
        }
    }

    fn now(&self) -> LayerProgress {
        let phase = [Phase::Waiting, Phase::Fetching, Phase::Unpacking];
        let at = usize::from(self.phase.load(Ordering::Relaxed));
        LayerProgress {
            digest: self.digest.to_string(),
            size: self.size,
            fetched: self.fetched.load(Ordering::Relaxed),
            phase: phase.get(at).copied().unwrap_or(Phase::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_seen_while_it_runs() {
        let pulls = Pulls::default();
        assert!(pulls.of("app").is_none());
        let pull = pulls.begin("app");
        let seen = pulls.of("app").unwrap();
        assert_eq!(seen.layers(), []);
        let meter = pull.layer(Digest::of(b"x"), 10);
        let now = || {
            let layer = seen.layers().remove(0);
            (layer.fetched, layer.phase)
        };
        assert_eq!(now(), (0, Phase::Waiting));
        meter.enter(Phase::Fetching);
        meter.set_fetched(4);
        assert_eq!(now(), (4, Phase::Fetching));
        meter.set_fetched(10);
        assert_eq!(now(), (10, Phase::Unpacking));
        meter.enter(Phase::Done);
        assert_eq!(now(), (10, Phase::Done));
        drop(pull);
        assert_eq!(now(), (10, Phase::Done));
        drop(seen);
        assert!(pulls.of("app").is_none());
    }
}
