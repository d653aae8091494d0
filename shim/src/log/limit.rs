//! The limit of a log's rate. What comes too fast is left out by whole lines, and a marker stands in its place.
//!
//! A line that has begun in the log is ended there on credit, but one without end is cut: the limit holds for it, too. Once
//! lines are left out, they are until a second's worth may be written, lest every other line were a marker.

use std::time::Instant;

use corten_proto::shim::LogLimit;

use super::split::Piece;

/// Bytes that the log may grow by (a token bucket), for both streams.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes per second.
    rate: u32,
    /// Bytes at most.
    burst: f64,
    /// Bytes now; below zero after what was written on credit.
    level: f64,
    filled: Instant,
    /// Something was refused since.
    is_dry: bool,
}

/// What was left out of one stream, and is not marked yet.
#[derive(Debug, Default)]
pub(super) struct Gap {
    lines: u64,
    /// Of the container's output.
    bytes: u64,
    /// It begins within a line, which has no end in the log.
    is_cut: bool,
    line: Line,
}

/// The line that is being printed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Line {
    #[default]
    New,
    /// Its parts so far are in the log.
    Begun,
    /// It is left out, to its end.
    LeftOut,
}

/// The lines that stand for a gap.
#[derive(Debug, PartialEq)]
pub(super) struct Marker {
    /// An empty one before it ends the line that was cut.
    pub(super) ends_line: bool,
    pub(super) text: String,
}

impl Bucket {
    /// A full one. The largest line of the log has `largest` bytes and has to fit.
    pub(super) fn new(limit: LogLimit, largest: usize, now: Instant) -> Self {
        let burst = f64::from(limit.burst).max(float(largest));
        Self {
            rate: limit.rate,
            burst,
            level: burst,
            filled: now,
            is_dry: false,
        }
    }

    /// Adds what the time up to `now` gives.
    pub(super) fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.level = (self.level + seconds * f64::from(self.rate)).min(self.burst);
        self.filled = now;
    }

    /// Takes what has to be written in any case.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.level -= float(bytes);
    }

    fn take(&mut self, bytes: usize, on_credit: bool) -> bool {
        let bytes = float(bytes);
        let least = match (on_credit, self.is_dry) {
            (true, _) => bytes - self.burst,
            (false, true) => bytes.max(f64::from(self.rate).min(self.burst)),
            (false, false) => bytes,
        };
        let gives = self.level >= least;
        if gives {
            self.level -= bytes;
            self.is_dry &= on_credit;
        } else {
            self.is_dry = true;
        }
        gives
    }
}

impl Gap {
    /// Whether the piece may be written, as a line of the log that has `length` bytes.
    pub(super) fn admits(&mut self, piece: &Piece<'_>, length: usize, bucket: &mut Bucket) -> bool {
        let admitted = match self.line {
            Line::LeftOut => false,
            line => bucket.take(length, line == Line::Begun),
        };
        if !admitted {
            if self.line != Line::LeftOut {
                self.lines += 1;
                self.is_cut |= self.line == Line::Begun;
            }
            let bytes = piece.text.len() + usize::from(piece.full);
            self.bytes += u64::try_from(bytes).unwrap_or_default();
        }
        self.line = match (piece.full, admitted) {
            (true, _) => Line::New,
            (false, true) => Line::Begun,
            (false, false) => Line::LeftOut,
        };
        admitted
    }

    /// Has it marked, if there is one.
    pub(super) fn close(&mut self, stream: &str, bucket: &Bucket) -> Option<Marker> {
        let lines = match self.lines {
            0 => return None,
            1 => "1 line".to_owned(),
            lines => format!("{lines} lines"),
        };
        let marker = Marker {
            ends_line: self.is_cut,
            text: format!(
                "corten: {lines} ({} bytes) of {stream} dropped: over the rate limit of {} bytes/s",
                self.bytes, bucket.rate
            ),
        };
        *self = Self {
            line: self.line,
            ..Self::default()
        };
        Some(marker)
    }
}

fn float(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 10 bytes a second, and 20 at once.
    fn bucket() -> (Bucket, Instant) {
        let now = Instant::now();
        let limit = LogLimit {
            rate: 10,
            burst: 20,
        };
        (Bucket::new(limit, 5, now), now)
    }

    fn piece(text: &str, full: bool) -> Piece<'_> {
        let text = text.as_bytes();
        Piece { text, full }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (mut bucket, now) = bucket();
        assert!(bucket.take(20, false));
        for millisecond in 1..=10_000 {
            bucket.fill(now + Duration::from_millis(millisecond));
        }
        // However often it is filled, and never beyond its brim.
        assert!(bucket.take(20, false) && !bucket.take(1, false));
        bucket.fill(now + Duration::from_millis(10_500));
        assert!(!bucket.take(1, false), "not before a second's worth");
        bucket.fill(now + Duration::from_secs(11));
        assert!(bucket.take(1, false) && bucket.take(9, false) && !bucket.take(1, false));
    }

    #[test]
    fn any_line_fits_in_the_end() {
        let limit = LogLimit { rate: 1, burst: 2 };
        let now = Instant::now();
        let mut bucket = Bucket::new(limit, 100, now);
        assert!(bucket.take(100, false) && !bucket.take(100, false));
        bucket.fill(now + Duration::from_secs(100));
        assert!(bucket.take(100, false));
    }

    #[test]
    fn a_line_ends_on_credit_but_not_one_without_end() {
        let (mut bucket, now) = bucket();
        let mut gap = Gap::default();
        for text in ["one", "two"] {
            assert!(gap.admits(&piece(text, false), 20, &mut bucket), "{text}");
        }
        // The debt is as large as the bucket.
        assert!(!gap.admits(&piece("three", false), 1, &mut bucket));
        bucket.fill(now + Duration::from_secs(60));
        assert!(!gap.admits(&piece("four", true), 1, &mut bucket));
        let marker = gap.close("stdout", &bucket).unwrap();
        assert!(marker.ends_line);
        assert!(
            marker.text.contains("1 line (10 bytes) of stdout"),
            "{}",
            marker.text
        );
        assert!(gap.admits(&piece("next", true), 1, &mut bucket));
        assert_eq!(gap.close("stdout", &bucket), None);
    }

    #[test]
    fn what_is_left_out_is_counted_line_by_line() {
        let (mut bucket, _) = bucket();
        let mut gap = Gap::default();
        bucket.charge(20);
        for (text, full) in [("a", true), ("", true), ("part", false), ("end", true)] {
            assert!(!gap.admits(&piece(text, full), 1, &mut bucket));
        }
        let marker = gap.close("stderr", &bucket).unwrap();
        let want =
            "corten: 3 lines (11 bytes) of stderr dropped: over the rate limit of 10 bytes/s";
        assert_eq!((marker.ends_line, &*marker.text), (false, want));
    }
}
