//! A blob's bytes into its file: from each host in turn, over several connections where there is much to get, never a
//! piece twice.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Response, StatusCode, header::CONTENT_RANGE};
use hyper::body::{Bytes, Incoming};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::exchange::{Failure, Get};
use super::session::{Session, attempt, counted, pause};
use crate::blocking::blocking;
use crate::content::Partial;
use crate::error::{Error, ErrorKind};
use crate::manifest::Blob;
use crate::progress::Meter;

/// A transfer that breaks off again and again is given up even if each try brings some bytes.
const MAX_BREAKS: u32 = 20;
/// Below this a further connection costs more than it brings. Unit: bytes.
const MANY: u64 = 32 << 20;
/// What a connection takes at a time, so that the front of the blob comes first. Unit: bytes, whole pieces.
const SPAN: u64 = 8 << 20;
const CONNECTIONS: usize = 3;
/// Chunks between network and disk. hyper's are at most about 400 KiB.
const CHUNKS: usize = 8;

/// A blob that is being fetched.
#[derive(Debug, Clone)]
pub(crate) struct Download {
    pub(crate) blob: Blob,
    pub(crate) partial: Arc<Partial>,
    pub(crate) meter: Arc<Meter>,
}

/// What the workers of one transfer share.
struct Transfer {
    session: Arc<Session>,
    host: usize,
    download: Download,
    spans: Mutex<VecDeque<Range<u64>>>,
    /// The host knows no ranges, and one worker gets all of the blob.
    is_whole: AtomicBool,
    sink: mpsc::Sender<(u64, Bytes)>,
}

impl Session {
    /// Fills the blob's file, from the next host where the last one broke off; hosts before `first` are passed over.
    /// Digests are for the reader to check. A reader that is gone ends it without an error.
    ///
    /// Returns the host to go on with, from an empty file, if the bytes were wrong; `None` if there is none.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        download: &Download,
        first: usize,
    ) -> Result<Option<usize>, Error> {
        let partial = &download.partial;
        let resumed = partial.is_resumed();
        let mut attempts = Vec::new();
        // The host whose bytes came first: if they were wrong, a later one must begin anew.
        let mut began = first;
        for (index, host) in self.hosts.iter().enumerate().skip(first) {
            if !host.entry.pull {
                continue;
            }
            match self.transfer_patiently(index, download).await? {
                Ok(()) if resumed => return Ok(Some(first)),
                Ok(()) if began < index => return Ok(Some(index)),
                Ok(()) => {
                    let next = index + 1;
                    let more = self.hosts[next..].iter().any(|host| host.entry.pull);
                    return Ok(more.then_some(next));
                }
                Err(failure) => attempts.push(attempt(host, failure)),
            }
            if partial.present() == 0 {
                began = index + 1;
            }
        }
        Err(Error::Registry {
            what: format!("blob {} of {}", download.blob.digest, self.reference()),
            attempts,
        })
    }

    /// The outer error is the disk's.
    async fn transfer_patiently(
        self: &Arc<Self>,
        host: usize,
        download: &Download,
    ) -> Result<Result<(), Failure>, Error> {
        let mut tries = 1;
        let mut breaks = 0;
        loop {
            let before = download.partial.present();
            let Err(failure) = self.transfer(host, download).await? else {
                return Ok(Ok(()));
            };
            breaks += 1;
            if download.partial.present() > before {
                tries = 1;
            } else if tries >= failure.tries {
                return Ok(Err(counted(failure, tries)));
            } else {
                tries += 1;
            }
            if breaks >= MAX_BREAKS {
                return Ok(Err(counted(failure, breaks)));
            }
            pause(tries, &failure).await;
        }
    }

    /// Gets all that is missing, once. What arrived before a failure stays.
    async fn transfer(
        self: &Arc<Self>,
        host: usize,
        download: &Download,
    ) -> Result<Result<(), Failure>, Error> {
        let missing = download.partial.missing();
        let left: u64 = missing.iter().map(|range| range.end - range.start).sum();
        let (workers, spans) = match left {
            MANY.. => (CONNECTIONS, missing.into_iter().flat_map(cut).collect()),
            _ => (1, missing.into()),
        };
        let (sink, chunks) = mpsc::channel(CHUNKS);
        let transfer = Arc::new(Transfer {
            session: Arc::clone(self),
            host,
            download: download.clone(),
            spans: Mutex::new(spans),
            is_whole: AtomicBool::new(false),
            sink,
        });
        let mut work = JoinSet::new();
        for _ in 0..workers {
            let transfer = Arc::clone(&transfer);
            work.spawn(async move { transfer.work().await });
        }
        drop(transfer);
        let writer = download.clone();
        let writer = blocking("writing a blob", move || writer.write(chunks));
        let network = async {
            let mut outcome = Ok(());
            while let Some(done) = work.join_next().await {
                if let Ok(Err(failure)) = done {
                    outcome = Err(failure);
                    // What the others have on the way is less than a piece each.
                    work.abort_all();
                }
            }
            outcome
        };
        let (written, outcome) = tokio::join!(writer, network);
        written?;
        Ok(outcome)
    }
}

impl Download {
    /// Blocks until all workers are done, or nobody reads any more.
    fn write(&self, mut chunks: mpsc::Receiver<(u64, Bytes)>) -> Result<(), Error> {
        while let Some((at, bytes)) = chunks.blocking_recv() {
            if !self.partial.write(at, &bytes)? {
                break;
            }
            self.meter.set_fetched(self.partial.present());
        }
        Ok(())
    }
}

impl Transfer {
    async fn work(&self) -> Result<(), Failure> {
        while let Some(span) = self.next() {
            if !self.fetch(span).await? {
                break;
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<Range<u64>> {
        self.spans().pop_front()
    }

    /// False when the rest is not wanted, or in other hands.
    async fn fetch(&self, span: Range<u64>) -> Result<bool, Failure> {
        let size = self.download.blob.size;
        let is_whole = span == (0..size);
        let get = Get {
            path: format!("blobs/{}", self.download.blob.digest),
            accept: None,
            range: (!is_whole).then(|| span.clone()),
        };
        let response = self.session.get(self.host, &get).await?;
        if is_whole || is_range(&response, &span)? {
            return self.stream(response.into_body(), span).await;
        }
        if self.is_whole.swap(true, Ordering::Relaxed) {
            return Ok(false);
        }
        self.spans().clear();
        self.stream(response.into_body(), 0..size).await
    }

    async fn stream(&self, mut body: Incoming, span: Range<u64>) -> Result<bool, Failure> {
        let mut at = span.start;
        while let Some(chunk) = self.session.next_chunk(&mut body).await? {
            let end = at + u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if end > span.end {
                let text = format!("it sent more than the {} bytes announced", span.end);
                return Err(Failure::new(ErrorKind::InvalidContent, text));
            }
            if !chunk.is_empty() && self.sink.send((at, chunk)).await.is_err() {
                return Ok(false);
            }
            at = end;
        }
        if at < span.end {
            let text = format!("it ended after {at} of {} bytes", span.end);
            return Err(Failure::new(ErrorKind::InvalidContent, text).worth(3));
        }
        Ok(true)
    }

    fn spans(&self) -> MutexGuard<'_, VecDeque<Range<u64>>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = (range.start..range.end).step_by(usize::try_from(SPAN).unwrap_or(usize::MAX));
    starts.map(move |start| start..(start + SPAN).min(range.end))
}

/// Whether the response is the range that was asked for; if not, it is all of the blob.
fn is_range(response: &Response<Incoming>, span: &Range<u64>) -> Result<bool, Failure> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(false);
    }
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok()).unwrap_or("");
    if range.starts_with(&format!("bytes {}-{}/", span.start, span.end - 1)) {
        return Ok(true);
    }
    let text = format!(
        "it sent the range {range:?} for one from {} to {}",
        span.start,
        span.end - 1
    );
    Err(Failure::new(ErrorKind::InvalidContent, text))
}
