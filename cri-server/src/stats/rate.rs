//! CPU use as a rate, from two samples and without a poller: a request's own sample, and the one of an earlier request or of
//! the start. Several clients may ask; the window never becomes shorter than [`WINDOW`] because of it.

use std::time::{Duration, Instant};

/// Shorter windows show the scheduler's slices.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// CPU time in nanoseconds.
    used: u64,
}

#[derive(Debug)]
pub(super) struct Rate {
    /// At least a window before `newer`, or the first.
    older: Sample,
    newer: Sample,
}

impl Rate {
    /// With a first sample: `used` nanoseconds of CPU time `at` this time.
    pub(super) fn from(at: Instant, used: u64) -> Self {
        let first = Sample { at, used };
        Self {
            older: first,
            newer: first,
        }
    }

    /// Nanoseconds of CPU time a second, up to `now` when `used` nanoseconds were used in all.
    pub(super) fn next(&mut self, now: Instant, used: u64) -> u64 {
        let sample = Sample { at: now, used };
        if now.saturating_duration_since(self.newer.at) >= WINDOW {
            self.older = std::mem::replace(&mut self.newer, sample);
        }
        let elapsed = now.saturating_duration_since(self.older.at).as_nanos();
        let spent = u128::from(used.saturating_sub(self.older.used));
        let rate = spent * 1_000_000_000 / elapsed.max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_rate_is_between_requests_and_at_first_since_the_start() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = Rate::from(start, 0);
        assert_eq!(rate.next(at(10), 5 * SECOND), SECOND / 2);
        assert_eq!(rate.next(at(20), 25 * SECOND), 2 * SECOND);
        assert_eq!(rate.next(at(30), 25 * SECOND), 0);
    }

    #[test]
    fn requests_in_a_row_are_counted_from_an_earlier_one() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rate = Rate::from(start, 0);
        assert_eq!(rate.next(at(10), SECOND / 100), SECOND);
        assert_eq!(rate.next(at(2000), 2 * SECOND), SECOND);
        assert_eq!(rate.next(at(2001), 2 * SECOND), 2 * SECOND * 1000 / 2001);
        assert_eq!(rate.next(at(3000), 2 * SECOND), 0);
    }

    #[test]
    fn no_time_and_a_counter_that_went_back_are_no_fault() {
        let start = Instant::now();
        let mut rate = Rate::from(start, 5);
        assert_eq!(rate.next(start, 5), 0);
        assert_eq!(rate.next(start + WINDOW, 1), 0);
    }
}
