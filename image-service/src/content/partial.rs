//! One blob's file.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use corten_sys::private;

use super::ranges::Ranges;
use crate::error::{At as _, Error};
use crate::progress::Meter;

/// What the map tells apart, so that a kill costs each connection less than this. Unit: bytes.
const PIECE: u64 = 256 << 10;
const HERE: u8 = 1;

/// A blob of known size, of which some bytes are here. Several pulls may read it as it fills.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    data: File,
    map: File,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Writers share it; it is taken alone to forget all bytes, so that none of them comes late.
    writers: RwLock<()>,
}

#[derive(Debug)]
struct State {
    here: Ranges,
    /// Goes up when all bytes are forgotten: what began with the ones before has to begin anew.
    generation: u64,
    /// A reader has found the blob's digest: these are the bytes, and they stay.
    sealed: bool,
}

impl Partial {
    pub(super) fn open(path: PathBuf, size: u64) -> Result<Self, Error> {
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
        Ok(Self {
            path,
            data,
            map,
            size,
            state: Mutex::new(State {
                here,
                generation: 0,
                sealed: false,
            }),
            changed: Condvar::new(),
            writers: RwLock::default(),
        })
    }

    /// Unit: bytes.
    pub(crate) fn present(&self) -> u64 {
        self.state().here.total()
    }

    /// Ranges that have to be fetched, in order.
    pub(crate) fn missing(&self) -> Vec<Range<u64>> {
        self.state().here.missing(self.size)
    }

    /// Blocks. Bytes of an earlier generation are dropped.
    ///
    /// # Errors
    /// Of the disk.
    fn write(&self, at: u64, bytes: &[u8], generation: u64) -> Result<(), Error> {
        let end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let _writer = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        let is_current = |state: &State| state.generation == generation && !state.sealed;
        if !is_current(&self.state()) {
            return Ok(());
        }
        self.data.write_all_at(bytes, at).at("write", &self.path)?;
        let whole = self.state().here.insert(at..end);
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
        Ok(())
    }

    /// Blocks. Forgets all bytes of `generation`, for the next try with another source. False if a reader found them right.
    pub(crate) fn reset(&self, generation: u64) -> Result<bool, Error> {
        let alone = self.writers.write();
        let _alone = alone.unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if state.generation != generation || state.sealed {
            return Ok(!state.sealed);
        }
        self.map.set_len(0).at("empty", map_path(&self.path))?;
        self.data.set_len(0).at("empty", &self.path)?;
        self.data.set_len(self.size).at("size", &self.path)?;
        state.here = Ranges::default();
        state.generation += 1;
        drop(state);
        self.changed.notify_all();
        Ok(true)
    }

    /// The bytes are right, and nothing changes them any more.
    pub(crate) fn seal(&self) {
        self.state().sealed = true;
    }

    /// All of its bytes, once they are here. It may be linked.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Use by one pull of the bytes that are here now, and of those that come.
    pub(crate) fn feed(self: &Arc<Self>, meter: Arc<Meter>) -> Arc<Feed> {
        let generation = self.state().generation;
        Arc::new(Feed {
            partial: Arc::clone(self),
            generation,
            meter,
            closed: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writing side of a pull to a blob's file, tied to what it reads from there: the one ends with the other.
#[derive(Debug)]
pub(crate) struct Feed {
    partial: Arc<Partial>,
    generation: u64,
    meter: Arc<Meter>,
    /// The pull fetches no more, or reads no more.
    closed: AtomicBool,
}

impl Feed {
    /// Blocks. False when the pull wants no more of them.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        self.partial.write(at, bytes, self.generation)?;
        self.meter.set_fetched(self.partial.present());
        Ok(!self.closed.load(Ordering::Relaxed) && self.is_current())
    }

    /// Unit: bytes.
    pub(crate) fn present(&self) -> u64 {
        self.partial.present()
    }

    /// Ranges that have to be fetched, in order.
    pub(crate) fn missing(&self) -> Vec<Range<u64>> {
        self.partial.missing()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// False once the bytes that it began with are forgotten.
    pub(crate) fn is_current(&self) -> bool {
        self.partial.state().generation == self.generation
    }

    /// Ends the reader's waiting, for what is not here yet will not come.
    pub(crate) fn close(&self) {
        // Under the lock, lest a reader looks just before and waits just after.
        let state = self.partial.state();
        self.closed.store(true, Ordering::Relaxed);
        drop(state);
        self.partial.changed.notify_all();
    }

    /// Gives the bytes from the front on.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            feed: Arc::clone(self),
            at: 0,
        }
    }
}

/// Blocks where bytes are not here yet; ends with the blob, or with [`io::ErrorKind::ConnectionAborted`] when it is closed
/// before that, or begun anew.
#[derive(Debug)]
pub(crate) struct Reader {
    feed: Arc<Feed>,
    at: u64,
}

impl Reader {
    /// How many bytes lie ahead.
    fn wait(&self) -> io::Result<u64> {
        let Feed {
            partial,
            generation,
            ..
        } = &*self.feed;
        let mut state = partial.state();
        loop {
            if state.generation != *generation {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let here = state.here.front().saturating_sub(self.at);
            if here > 0 || self.at >= partial.size {
                self.feed.meter.set_fetched(state.here.total());
                return Ok(here);
            }
            if self.feed.closed.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let woken = partial.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = usize::try_from(self.wait()?).unwrap_or(usize::MAX);
        let want = here.min(buffer.len());
        let data = &self.feed.partial.data;
        let read = data.read_at(&mut buffer[..want], self.at)?;
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.close();
    }
}

pub(super) fn map_path(path: &Path) -> PathBuf {
    path.with_extension("map")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::progress::Progress;

    const SIZE: u64 = 3 * PIECE + 100;

    fn open(dir: &Path) -> Arc<Partial> {
        Arc::new(Partial::open(dir.join("blob"), SIZE).unwrap())
    }

    fn feed(partial: &Arc<Partial>) -> Arc<Feed> {
        partial.feed(Progress::default().layer(Digest::of(b"blob"), SIZE))
    }

    #[test]
    fn whole_pieces_are_still_there_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let piece = vec![7; usize::try_from(PIECE).unwrap()];
        let partial = open(dir.path());
        assert_eq!(partial.present(), 0);
        let writes = feed(&partial);
        // The last piece, all of the second, and half of the first, in two steps each.
        writes.write(3 * PIECE, &piece[..60]).unwrap();
        writes.write(3 * PIECE + 60, &piece[..40]).unwrap();
        writes.write(PIECE + 1, &piece[1..]).unwrap();
        writes.write(PIECE, &piece[..1]).unwrap();
        writes.write(0, &piece[..1000]).unwrap();
        assert_eq!(partial.missing(), [1000..PIECE, 2 * PIECE..3 * PIECE]);
        drop((partial, writes));
        let partial = open(dir.path());
        assert_eq!(partial.missing(), [0..PIECE, 2 * PIECE..3 * PIECE]);
        assert!(partial.reset(0).unwrap());
        drop(partial);
        assert_eq!(open(dir.path()).present(), 0);
    }

    #[test]
    fn a_reader_follows_and_is_told_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let partial = open(dir.path());
        let writes = feed(&partial);
        let mut reader = writes.reader();
        let follower = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let outcome = reader.read_to_end(&mut bytes).map_err(|error| error.kind());
            (bytes.len(), outcome.is_ok())
        });
        writes.write(5, b"67890").unwrap();
        writes.write(0, b"12345").unwrap();
        while Arc::strong_count(&writes) > 1 && partial.present() < 10 {}
        writes.close();
        assert_eq!(follower.join().unwrap(), (10, false));
        assert!(!writes.write(10, b"x").unwrap(), "nothing reads");
    }

    #[test]
    fn each_reader_ends_with_its_own_pull() {
        let dir = tempfile::tempdir().unwrap();
        let partial = open(dir.path());
        let (one, other) = (feed(&partial), feed(&partial));
        let mut reader = other.reader();
        drop(one.reader());
        assert!(!one.write(0, b"12").unwrap());
        let mut buffer = [0; 2];
        reader.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"12");
        assert!(other.write(2, b"3").unwrap());
    }

    #[test]
    fn what_is_forgotten_is_forgotten_once_and_what_is_right_stays() {
        let dir = tempfile::tempdir().unwrap();
        let partial = open(dir.path());
        let old = feed(&partial);
        let mut reader = old.reader();
        old.write(0, b"wrong").unwrap();
        assert!(partial.reset(old.generation()).unwrap());
        assert!(reader.read(&mut [0; 5]).is_err());
        assert!(!old.write(0, b"wrong").unwrap());
        assert_eq!(partial.present(), 0, "late bytes do not count");
        let new = feed(&partial);
        new.write(0, b"right").unwrap();
        assert!(partial.reset(old.generation()).unwrap());
        assert_eq!(partial.present(), 5, "it was begun anew before");
        partial.seal();
        assert!(!partial.reset(new.generation()).unwrap());
        new.write(0, b"wrong").unwrap();
        let mut buffer = [0; 5];
        new.reader().read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"right");
    }
}
