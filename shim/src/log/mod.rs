//! The container's log: what it prints, as the CRI's log format has it.

mod file;
mod split;
mod time;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use corten_proto::shim::{self, FailureKind};

use self::{
    file::LogFile,
    split::{Piece, Splitter},
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
    stdout: Splitter,
    stderr: Splitter,
    dropped: usize,
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
        let limit = match plan.max_line {
            0 => MAX_LINE,
            limit => limit,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self {
            file,
            stdout: Splitter::new(limit),
            stderr: Splitter::new(limit),
            dropped: 0,
        })
    }

    /// Goes on in a new file at the log's path. Only whole lines were written, so that none is in both files; of a long one
    /// the first parts may be in the old.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            *file = LogFile::open(path).doing("open the log", path.display())?;
        }
        Ok(())
    }

    /// Writes the lines that `bytes` completes, in one call.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.write_pieces(stream, bytes.len(), |splitter, out| {
            splitter.push(bytes, out)
        });
    }

    /// The stream has ended: what is left of it is a part of a line.
    pub(crate) fn finish(&mut self, stream: Stream) {
        self.write_pieces(stream, 0, |splitter, out| splitter.finish(out));
    }

    fn write_pieces(
        &mut self,
        stream: Stream,
        length: usize,
        split: impl FnOnce(&mut Splitter, &mut dyn FnMut(Piece<'_>)),
    ) {
        let Some((_, file)) = &mut self.file else {
            return;
        };
        let (splitter, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "stdout"),
            Stream::Stderr => (&mut self.stderr, "stderr"),
        };
        let begin = format!("{} {name} ", timestamp());
        // Enough for short lines: what is not needed is never touched, and growing would leave holes behind.
        let mut lines = Vec::with_capacity(4 * length);
        split(splitter, &mut |piece| add(&mut lines, &begin, &piece));
        if let Err((lost, error)) = file.write(&lines) {
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

fn add(lines: &mut Vec<u8>, begin: &str, piece: &Piece<'_>) {
    lines.extend_from_slice(begin.as_bytes());
    lines.extend_from_slice(if piece.full { b"F " } else { b"P " });
    lines.extend_from_slice(piece.text);
    lines.push(b'\n');
}
