//! One blob's file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use corten_sys::private;

use super::Guard;
use super::ranges::Ranges;
use crate::error::{At as _, Error};

/// What the map tells apart, so that a kill costs each connection less than this. Unit: bytes.
const PIECE: u64 = 256 << 10;
const HERE: u8 = 1;

/// A blob of known size, of which some bytes are here.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    data: File,
    map: File,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
    doomed: AtomicBool,
    _in_use: Guard,
}

#[derive(Debug)]
struct State {
    here: Ranges,
    /// Nobody writes, or nobody reads.
    closed: bool,
    /// Some bytes are from an earlier pull.
    resumed: bool,
}

impl Partial {
    pub(super) fn open(path: PathBuf, size: u64, in_use: Guard) -> Result<Self, Error> {
        let open = |path: &Path| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.mode(private::FILE).open(path);
            file.at("open", path)
        };
        let data = open(&path)?;
        let map = open(&map_path(&path))?;
        data.set_len(size).at("size", &path)?;
        let mut marks = Vec::new();
        let mut read = (&map).take(size.div_ceil(PIECE));
        read.read_to_end(&mut marks).at("read", map_path(&path))?;
        let mut here = Ranges::default();
        for (mark, start) in marks.iter().zip((0..size).step_by(256 << 10)) {
            if *mark == HERE {
                here.insert(start..size.min(start + PIECE));
            }
        }
        let resumed = here.total() > 0;
        Ok(Self {
            path,
            data,
            map,
            size,
            state: Mutex::new(State {
                here,
                closed: false,
                resumed,
            }),
            changed: Condvar::new(),
            doomed: AtomicBool::new(false),
            _in_use: in_use,
        })
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.state().resumed
    }

    /// Unit: bytes.
    pub(crate) fn present(&self) -> u64 {
        self.state().here.total()
    }

    /// What has to be fetched, in order.
    pub(crate) fn missing(&self) -> Vec<Range<u64>> {
        self.state().here.missing(self.size)
    }

    /// Blocks. False when nobody wants them.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        self.data.write_all_at(bytes, at).at("write", &self.path)?;
        let end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let mut state = self.state();
        let whole = state.here.insert(at..end);
        let wanted = !state.closed;
        drop(state);
        self.changed.notify_all();
        // The pieces that these bytes have made whole. The last one ends with the blob.
        let first = (at / PIECE).max(whole.start.div_ceil(PIECE));
        let full = match whole.end {
            end if end >= self.size => self.size.div_ceil(PIECE),
            end => end / PIECE,
        };
        let full = full.min(end.div_ceil(PIECE));
        if first < full {
            let marks = vec![HERE; usize::try_from(full - first).unwrap_or(usize::MAX)];
            let marked = self.map.write_all_at(&marks, first);
            marked.at("write", map_path(&self.path))?;
        }
        Ok(wanted)
    }

    /// No byte is written or read any more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Blocks. Forgets all bytes, for the next try with another source.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        self.map.set_len(0).at("empty", map_path(&self.path))?;
        self.data.set_len(0).at("empty", &self.path)?;
        self.data.set_len(self.size).at("size", &self.path)?;
        *self.state() = State {
            here: Ranges::default(),
            closed: false,
            resumed: false,
        };
        Ok(())
    }

    /// Deletes the files when the last user is done.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// All of its bytes, once they are here. It may be renamed.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) {
        for path in [&map_path(&self.path), &self.path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::debug!(%error, path = %path.display(), "a partial blob is not deleted");
                }
                _ => {}
            }
        }
    }

    /// Opens it to writers and gives its bytes from the front on.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        self.state().closed = false;
        Reader {
            partial: Arc::clone(self),
            at: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed) {
            self.remove();
        }
    }
}

/// Blocks where bytes are not here yet; ends with the blob, or with [`io::ErrorKind::ConnectionAborted`] when it is closed
/// before that.
#[derive(Debug)]
pub(crate) struct Reader {
    partial: Arc<Partial>,
    at: u64,
}

impl Reader {
    /// How many bytes lie ahead.
    fn wait(&self) -> io::Result<u64> {
        let mut state = self.partial.state();
        loop {
            let here = state.here.front().saturating_sub(self.at);
            if here > 0 || self.at >= self.partial.size {
                return Ok(here);
            }
            if state.closed {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let woken = self.partial.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = usize::try_from(self.wait()?).unwrap_or(usize::MAX);
        let want = here.min(buffer.len());
        let read = self.partial.data.read_at(&mut buffer[..want], self.at)?;
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.partial.close();
    }
}

pub(super) fn map_path(path: &Path) -> PathBuf {
    path.with_extension("map")
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::Blob;

    const SIZE: u64 = 3 * PIECE + 100;

    fn open(dir: &Path) -> Arc<Partial> {
        let blob = Blob {
            digest: Digest::of(b"blob"),
            size: SIZE,
        };
        let content = Content::open(dir.join("content")).unwrap();
        content.partial(&Digest::of(b"chain"), &blob).unwrap()
    }

    #[test]
    fn whole_pieces_are_still_there_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let piece = vec![7; usize::try_from(PIECE).unwrap()];
        let partial = open(dir.path());
        assert!(!partial.is_resumed());
        // The last piece, all of the second, and half of the first, in two steps each.
        partial.write(3 * PIECE, &piece[..60]).unwrap();
        partial.write(3 * PIECE + 60, &piece[..40]).unwrap();
        partial.write(PIECE + 1, &piece[1..]).unwrap();
        partial.write(PIECE, &piece[..1]).unwrap();
        partial.write(0, &piece[..1000]).unwrap();
        assert_eq!(partial.missing(), [1000..PIECE, 2 * PIECE..3 * PIECE]);
        drop(partial);
        let partial = open(dir.path());
        assert!(partial.is_resumed());
        assert_eq!(partial.missing(), [0..PIECE, 2 * PIECE..3 * PIECE]);
        partial.reset().unwrap();
        drop(partial);
        assert_eq!(open(dir.path()).present(), 0);
    }

    #[test]
    fn a_reader_follows_and_is_told_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let partial = open(dir.path());
        let mut reader = partial.reader();
        let follower = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let outcome = reader.read_to_end(&mut bytes).map_err(|error| error.kind());
            (bytes.len(), outcome.is_ok())
        });
        partial.write(5, b"67890").unwrap();
        partial.write(0, b"12345").unwrap();
        while Arc::strong_count(&partial) > 1 && partial.present() < 10 {}
        partial.close();
        assert_eq!(follower.join().unwrap(), (10, false));
        assert!(!partial.write(10, b"x").unwrap(), "nobody reads");
    }
}
