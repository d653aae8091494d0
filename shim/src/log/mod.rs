//! The container's log: what it prints, as the CRI's log format has it.

mod file;
mod limit;
mod lines;
mod split;
mod time;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use corten_proto::shim::{self, FailureKind};

use self::{
    file::LogFile,
    limit::{Bucket, Gap},
    lines::Lines,
    split::Splitter,
    time::timestamp,
};
use crate::{
    failure::{Doing, Result, failure},
    note::note,
};

/// The longest text of a line where the plan has no limit, bytes.
const MAX_LINE: u32 = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Writes what a container prints. Never blocks it: what cannot be written is dropped, and counted.
#[derive(Debug)]
pub(crate) struct Log {
    /// `None`: output is dropped.
    file: Option<(PathBuf, LogFile)>,
    stdout: PerStream,
    stderr: PerStream,
    limit: Option<Bucket>,
    dropped: usize,
}

#[derive(Debug)]
struct PerStream {
    name: &'static str,
    splitter: Splitter,
    gap: Gap,
}

impl Log {
    /// Opens the log.
    ///
    /// # Errors
    /// When its directory cannot be made, or the path is not a regular file's.
    pub(crate) fn open(plan: &shim::Log) -> Result<Self> {
        let file = match &*plan.path {
            "" => None,
            path => {
                let file = open_with_parents(Path::new(path)).map_err(|error| {
                    failure(FailureKind::FailureInvalid, "open the log", path, &error)
                })?;
                Some((PathBuf::from(path), file))
            }
        };
        let max_line = match plan.max_line {
            0 => MAX_LINE,
            length => length,
        };
        let max_line = usize::try_from(max_line).unwrap_or(usize::MAX);
        let per_stream = |name| PerStream {
            name,
            splitter: Splitter::new(max_line),
            gap: Gap::default(),
        };
        let bucket = |limit| Bucket::new(limit, Lines::longest(max_line), Instant::now());
        Ok(Self {
            file,
            stdout: per_stream("stdout"),
            stderr: per_stream("stderr"),
            limit: plan.limit.map(bucket),
            dropped: 0,
        })
    }

    /// Goes on in a new file at the log's path. Only whole lines were written, so that none is in both files; of a long one
    /// the first parts may be in the old.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            *file = open_with_parents(path).doing("open the log", path.display())?;
        }
        Ok(())
    }

    /// Writes the lines that `bytes` completes, in one call.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.write_lines(stream, bytes.len(), |splitter, lines| {
            splitter.push(bytes, |piece| lines.add(&piece));
        });
    }

    /// The stream has ended: what is left of it is a part of a line.
    pub(crate) fn finish(&mut self, stream: Stream) {
        self.write_lines(stream, 0, |splitter, lines| {
            splitter.finish(|piece| lines.add(&piece));
            lines.mark_gap();
        });
    }

    fn write_lines(
        &mut self,
        stream: Stream,
        length: usize,
        split: impl FnOnce(&mut Splitter, &mut Lines<'_>),
    ) {
        let Some((_, file)) = &mut self.file else {
            return;
        };
        let of_stream = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if let Some(bucket) = &mut self.limit {
            bucket.fill(Instant::now());
        }
        let limited = self
            .limit
            .as_mut()
            .map(|bucket| (bucket, &mut of_stream.gap));
        let mut lines = Lines::new(&timestamp(), of_stream.name, length, limited);
        split(&mut of_stream.splitter, &mut lines);
        if let Err((lost, error)) = file.write(&lines.bytes) {
            // The first is told, and at the end how many: a full disk must not fill the shim's own log, too.
            if self.dropped == 0 {
                note(format_args!("the log cannot be written: {error}"));
            }
            self.dropped += lost;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.dropped > 0 {
            note(format_args!(
                "{} lines of the log could not be written",
                self.dropped
            ));
        }
    }
}

/// The kubelet makes the directory of a pod's logs; others expect it to be made, as containerd does.
fn open_with_parents(path: &Path) -> io::Result<LogFile> {
    match (LogFile::open(path), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            LogFile::open(path)
        }
        (result, _) => result,
    }
}
