//! The deadline of a stop: it can only come nearer.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use crate::poll::{Poll, Source, timer};

#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    timer: OwnedFd,
}

impl Deadline {
    /// Between two kills of what does not end.
    pub(super) const AGAIN: Duration = Duration::from_secs(1);

    /// A deadline after `left`.
    pub(super) fn new(left: Duration, events: &Poll) -> io::Result<Self> {
        // Beyond this a stop has no deadline.
        let left = left.min(Duration::from_secs(u32::MAX.into()));
        let timer = timer(left)?;
        events.add(&timer, Source::Deadline)?;
        Ok(Self {
            at: Instant::now() + left,
            timer,
        })
    }

    /// Whether one after `left` would come earlier.
    pub(super) fn is_after(&self, left: Duration) -> bool {
        Instant::now()
            .checked_add(left)
            .is_some_and(|other| other < self.at)
    }

    pub(super) fn forget(self, events: &Poll) {
        events.remove(&self.timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_earlier_deadline_counts() {
        let events = Poll::new().unwrap();
        let deadline = Deadline::new(Duration::from_secs(10), &events).unwrap();
        assert!(deadline.is_after(Duration::from_secs(1)));
        assert!(!deadline.is_after(Duration::from_secs(30)));
        assert!(!deadline.is_after(Duration::MAX));
    }
}
