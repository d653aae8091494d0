//! Inflating on a thread of its own, so that one large layer keeps two processors busy.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

/// Unit: bytes.
const BUFFER: usize = 256 << 10;
/// Buffers between the threads.
const DEPTH: usize = 6;

/// What `source` inflates to, read ahead of the caller.
///
/// # Errors
/// If no thread can be made.
pub(super) fn ahead<'scope, R: Read + Send>(
    scope: &'scope Scope<'scope, '_>,
    source: &'scope mut BufReader<R>,
) -> io::Result<Inflated> {
    let (filled, next) = sync_channel(DEPTH);
    let (emptied, empty) = sync_channel(DEPTH);
    thread::Builder::new()
        .name("inflate".to_owned())
        .spawn_scoped(scope, move || {
            if let Err(error) = inflate(source, &filled, &empty) {
                // The reader may have had enough.
                filled.send(Err(error)).ok();
            }
        })?;
    Ok(Inflated {
        next,
        emptied,
        current: Vec::new(),
        at: 0,
    })
}

type Filled = io::Result<Vec<u8>>;

fn inflate(
    source: &mut BufReader<impl Read>,
    filled: &SyncSender<Filled>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut decoded = super::decode(source)?;
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let mut length = 0;
        while length < BUFFER {
            match decoded.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What came before it counts.
                    buffer.truncate(length);
                    filled.send(Ok(buffer)).ok();
                    return Err(error);
                }
            }
        }
        let is_last = length < BUFFER;
        buffer.truncate(length);
        if filled.send(Ok(buffer)).is_err() || is_last {
            return Ok(());
        }
    }
}

/// The other thread's work. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Inflated {
    next: Receiver<Filled>,
    emptied: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            // The other side is gone when all is told.
            let Ok(next) = self.next.recv() else {
                return Ok(0);
            };
            let used = std::mem::replace(&mut self.current, next?);
            self.at = 0;
            self.emptied.try_send(used).ok();
        }
        let ahead = &self.current[self.at..];
        let read = ahead.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ahead[..read]);
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn read(source: &[u8]) -> (Vec<u8>, io::Result<usize>) {
        let mut source = BufReader::new(source);
        thread::scope(|scope| {
            let mut inflated = ahead(scope, &mut source).unwrap();
            let mut bytes = Vec::new();
            let outcome = inflated.read_to_end(&mut bytes);
            (bytes, outcome)
        })
    }

    #[test]
    fn all_of_it_comes_and_then_the_error() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&content).unwrap();
        let packed = packed.finish().unwrap();
        let (bytes, outcome) = read(&packed);
        assert_eq!((bytes == content, outcome.unwrap()), (true, content.len()));
        let (bytes, outcome) = read(&packed[..packed.len() / 2]);
        assert!(outcome.is_err());
        assert!(!bytes.is_empty() && content.starts_with(&bytes));
        let (bytes, outcome) = read(b"plain");
        assert_eq!((&bytes[..], outcome.unwrap()), (&b"plain"[..], 5));
    }

    #[test]
    fn a_reader_that_leaves_is_not_waited_for() {
        let endless = io::repeat(7);
        let mut source = BufReader::new(endless);
        thread::scope(|scope| {
            let mut inflated = ahead(scope, &mut source).unwrap();
            inflated.read_exact(&mut [0; 1000]).unwrap();
        });
    }
}
