//! The container's log file.

mod split;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use corten_proto::shim::{self, FailureKind};
use nix::{libc, time::ClockId};
use split::{Piece, Splitter};

use crate::{
    failure::{Doing, Result, failure},
    note::note,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Writes what a container prints. Never blocks it: what cannot be written is dropped, and counted.
#[derive(Debug)]
pub(crate) struct Log {
    /// `None`: output is dropped.
    path: Option<PathBuf>,
    file: Option<File>,
    stdout: Splitter,
    stderr: Splitter,
    line: Vec<u8>,
    dropped: u64,
}

impl Log {
    /// Opens the log.
    pub(crate) fn open(plan: &shim::Log) -> Result<Self> {
        let path = (!plan.path.is_empty()).then(|| PathBuf::from(&plan.path));
        let file = path.as_deref().map(open_file).transpose();
        let file = file.map_err(|error| {
            failure(
                FailureKind::FailureInvalid,
                "open the log",
                &plan.path,
                &error,
            )
        })?;
        let limit = usize::try_from(plan.max_line).unwrap_or(usize::MAX);
        let (stdout, stderr) = (Splitter::new(limit), Splitter::new(limit));
        Ok(Self {
            path,
            file,
            stdout,
            stderr,
            line: Vec::new(),
            dropped: 0,
        })
    }

    /// Goes on in a new file at the log's path; the old one has whole lines only.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        self.file = Some(open_file(path).doing("open the log", path.display())?);
        Ok(())
    }

    /// Writes the lines that `bytes` completes, in one call.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = timestamp();
        let (splitter, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "stdout"),
            Stream::Stderr => (&mut self.stderr, "stderr"),
        };
        let line = &mut self.line;
        splitter.push(bytes, |piece| add(line, &time, name, &piece));
        self.flush();
    }

    /// The stream has ended: what is left of it is a part of a line.
    pub(crate) fn finish(&mut self, stream: Stream) {
        let time = timestamp();
        let (splitter, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "stdout"),
            Stream::Stderr => (&mut self.stderr, "stderr"),
        };
        let line = &mut self.line;
        splitter.finish(|piece| add(line, &time, name, &piece));
        self.flush();
    }

    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&self.line)
        {
            self.dropped += 1;
            // The first one is told; a full disk must not fill the shim's own log, too.
            if self.dropped == 1 {
                note(format_args!(
                    "output was dropped, the log cannot be written: {error}"
                ));
            }
        }
        self.line.clear();
        // A burst must not stay in memory.
        if self.line.capacity() > 256 << 10 {
            self.line.shrink_to(0);
        }
    }
}

fn add(line: &mut Vec<u8>, time: &str, stream: &str, piece: &Piece<'_>) {
    line.extend_from_slice(time.as_bytes());
    line.push(b' ');
    line.extend_from_slice(stream.as_bytes());
    line.extend_from_slice(if piece.full { b" F " } else { b" P " });
    line.extend_from_slice(piece.text);
    line.push(b'\n');
}

/// A regular file, never one that a symlink leads to: the directory may belong to somebody else.
fn open_file(path: &std::path::Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// RFC 3339 with nine digits, in UTC.
fn timestamp() -> String {
    let now = nix::time::clock_gettime(ClockId::CLOCK_REALTIME)
        .unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    format_time(now.tv_sec(), now.tv_nsec())
}

/// Days to dates as in "days_from_civil" of the proleptic Gregorian calendar.
fn format_time(seconds: i64, nanos: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of year 0; an era has 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_fixed_width() {
        for (seconds, nanos, want) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (1_704_164_645, 123_456_789, "2024-01-02T03:04:05.123456789Z"),
            (4_102_444_799, 999_999_999, "2099-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(format_time(seconds, nanos), want);
        }
    }
}
