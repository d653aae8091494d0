//! A blob's bytes into its file: from each host in turn, over several connections where there is much to get, never a
//! piece twice.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Response, StatusCode, header::CONTENT_RANGE};
use hyper::body::{Bytes, Incoming};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::exchange::{Failure, Get};
use super::session::{Session, attempt, counted, pause};
use crate::blocking::blocking;
use crate::content::{Claim, Feed, Partial};
use crate::error::{Attempt, Error, ErrorKind};
use crate::manifest::Blob;
use crate::progress::Meter;

/// A transfer that breaks off again and again is given up even if each try brings some bytes.
const MAX_BREAKS: u32 = 20;
/// Below this a further connection costs more than it brings. Unit: bytes.
const MANY: u64 = 32 << 20;
/// What a connection takes at a time, so that the front of the blob comes first. Unit: bytes, whole pieces.
const SPAN: u64 = 8 << 20;
const CONNECTIONS: usize = 3;
/// An answer with less than this, of a part that was asked for, is counted as a break. Unit: bytes.
const CRUMB: u64 = 64 << 10;
/// Addresses of one layer that are tried, and what a message has of one.
const MAX_URLS: usize = 8;
const MAX_URL: usize = 256;
/// Chunks between network and disk. hyper's are at most about 400 KiB.
const CHUNKS: usize = 8;

/// A blob that one pull needs.
#[derive(Debug, Clone)]
pub(crate) struct Download {
    pub(crate) session: Arc<Session>,
    pub(crate) blob: Blob,
    pub(crate) partial: Arc<Partial>,
    pub(crate) claim: Arc<Claim>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) ranges: Arc<RangeUse>,
}

/// Whether parts of a blob were asked for, and may be.
#[derive(Debug, Default)]
pub(crate) struct RangeUse {
    has_parts: AtomicBool,
    is_forbidden: AtomicBool,
}

impl RangeUse {
    /// After all bytes came: true if some came as parts. What is fetched once more is fetched whole.
    fn forbid(&self) -> bool {
        let has_parts = self.has_parts.swap(false, Ordering::Relaxed);
        if has_parts {
            self.is_forbidden.store(true, Ordering::Relaxed);
        }
        has_parts
    }

    fn forget(&self) {
        self.has_parts.store(false, Ordering::Relaxed);
    }
}

/// What the workers of one transfer share.
struct Transfer {
    session: Arc<Session>,
    host: usize,
    download: Download,
    /// Ranges that are left. A worker takes `span` bytes at a time.
    spans: Mutex<VecDeque<Range<u64>>>,
    span: u64,
    /// The host knows no ranges, and one worker gets all of the blob.
    is_whole: AtomicBool,
    /// Answers with next to nothing in them.
    crumbs: AtomicU32,
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
        feed: &Arc<Feed>,
        first: usize,
    ) -> Result<Option<usize>, Error> {
        // From an earlier pull, or from another one.
        let found = feed.present() > 0;
        if feed.missing().is_empty() {
            return Ok(found.then_some(first));
        }
        let mut attempts = match self.blob_of_hosts(download, feed, first).await? {
            Ok(next) => return Ok(next),
            Err(attempts) => attempts,
        };
        // What a registry need not have. No image makes this machine ask a host that its operator did not name.
        for url in download.blob.urls.iter().take(MAX_URLS) {
            let outside = url.parse().ok().and_then(|url| self.outside(&url));
            let Some(outside) = outside.map(Arc::new) else {
                attempts.push(not_allowed(url, &attempts));
                continue;
            };
            match outside.blob_of_hosts(download, feed, 0).await? {
                Ok(_) => return Ok(found.then_some(first)),
                Err(more) => attempts.extend(more),
            }
        }
        Err(Error::Registry {
            what: format!("blob {} of {}", download.blob.digest, self.reference()),
            attempts,
        })
    }

    /// The inner error is what every host said.
    async fn blob_of_hosts(
        self: &Arc<Self>,
        download: &Download,
        feed: &Arc<Feed>,
        first: usize,
    ) -> Result<Result<Option<usize>, Vec<Attempt>>, Error> {
        let found = feed.present() > 0;
        let mut attempts = Vec::new();
        // The host whose bytes came first: if they were wrong, a later one must begin anew.
        let mut began = first;
        for (index, host) in self.hosts.iter().enumerate().skip(first) {
            if !host.entry.pull {
                continue;
            }
            match self.transfer_patiently(index, download, feed).await? {
                Ok(()) if found => {
                    download.ranges.forget();
                    return Ok(Ok(Some(first)));
                }
                Ok(()) if began < index => {
                    download.ranges.forget();
                    return Ok(Ok(Some(index)));
                }
                Ok(()) if download.ranges.forbid() => return Ok(Ok(Some(index))),
                Ok(()) => {
                    let next = index + 1;
                    let more = self.hosts[next..].iter().any(|host| host.entry.pull);
                    return Ok(Ok(more.then_some(next)));
                }
                Err(failure) => attempts.push(attempt(host, failure)),
            }
            if feed.present() == 0 {
                began = index + 1;
            }
        }
        Ok(Err(attempts))
    }

    /// The outer error is the disk's.
    async fn transfer_patiently(
        self: &Arc<Self>,
        host: usize,
        download: &Download,
        feed: &Arc<Feed>,
    ) -> Result<Result<(), Failure>, Error> {
        let mut in_parts = !download.ranges.is_forbidden.load(Ordering::Relaxed);
        let mut tries = 1;
        let mut breaks = 0;
        loop {
            let before = feed.present();
            let Err(failure) = self.transfer(host, download, feed, in_parts).await? else {
                return Ok(Ok(()));
            };
            if failure.is_of_range && in_parts {
                tracing::debug!(blob = %download.blob.digest, why = failure.text, "the blob is fetched whole");
                in_parts = false;
                continue;
            }
            breaks += 1;
            if feed.present() > before {
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

    /// Gets all that is missing, once, or all of the blob if it may not be had in parts. What arrived before a failure stays.
    async fn transfer(
        self: &Arc<Self>,
        host: usize,
        download: &Download,
        feed: &Arc<Feed>,
        in_parts: bool,
    ) -> Result<Result<(), Failure>, Error> {
        let missing = feed.missing();
        let left: u64 = missing.iter().map(|range| range.end - range.start).sum();
        let whole = 0..download.blob.size;
        let (workers, spans, span) = match left {
            _ if !in_parts => (1, VecDeque::from([whole]), u64::MAX),
            MANY.. => (CONNECTIONS, missing.into(), SPAN),
            _ => (1, missing.into(), u64::MAX),
        };
        let (sink, chunks) = mpsc::channel(CHUNKS);
        let transfer = Arc::new(Transfer {
            session: Arc::clone(self),
            host,
            download: download.clone(),
            spans: Mutex::new(spans),
            span,
            is_whole: AtomicBool::new(false),
            crumbs: AtomicU32::new(0),
            sink,
        });
        let mut work = JoinSet::new();
        for _ in 0..workers {
            let transfer = Arc::clone(&transfer);
            work.spawn(async move { transfer.work().await });
        }
        drop(transfer);
        let writer = Arc::clone(feed);
        let writer = blocking("writing a blob", move || write(&writer, chunks));
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

/// Blocks until all workers are done, or nothing reads any more.
fn write(feed: &Feed, mut chunks: mpsc::Receiver<(u64, Bytes)>) -> Result<(), Error> {
    while let Some((at, bytes)) = chunks.blocking_recv() {
        if !feed.write(at, &bytes)? {
            break;
        }
    }
    Ok(())
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
        take(&mut self.spans(), self.span)
    }

    /// False when the rest is not wanted, or in other hands.
    async fn fetch(&self, span: Range<u64>) -> Result<bool, Failure> {
        let size = self.download.blob.size;
        if span == (0..size) {
            let response = self.ask(None).await?;
            return self.whole(response).await;
        }
        let mut span = span;
        while span.start < span.end {
            let response = self.ask(Some(span.clone())).await?;
            if response.status() != StatusCode::PARTIAL_CONTENT {
                return self.instead(response).await;
            }
            let end = part_end(&response, &span, size)?;
            self.download
                .ranges
                .has_parts
                .store(true, Ordering::Relaxed);
            match self.part(response.into_body(), span.start..end).await? {
                None => return Ok(false),
                Some(at) => {
                    // A host may give less than it was asked for, but not for ever.
                    let is_crumb = at - span.start < CRUMB && at < span.end;
                    let is_too_much =
                        is_crumb && self.crumbs.fetch_add(1, Ordering::Relaxed) >= MAX_BREAKS;
                    if at == span.start || is_too_much {
                        let text = "it sends next to nothing of the range that was asked for";
                        return Err(Failure::of_range(text));
                    }
                    span.start = at;
                }
            }
        }
        Ok(true)
    }

    async fn ask(&self, range: Option<Range<u64>>) -> Result<Response<Incoming>, Failure> {
        let is_ranged = range.is_some();
        let get = Get {
            path: format!("blobs/{}", self.download.blob.digest),
            accept: None,
            range,
        };
        let answer = self.session.get(self.host, &get).await;
        answer.map_err(|failure| Failure {
            is_of_range: failure.is_of_range && is_ranged,
            ..failure
        })
    }

    /// The answer is all of the blob, though a part was asked for.
    async fn instead(&self, response: Response<Incoming>) -> Result<bool, Failure> {
        if self.is_whole.swap(true, Ordering::Relaxed) {
            return Ok(false);
        }
        self.spans().clear();
        self.whole(response).await
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<bool, Failure> {
        let size = self.download.blob.size;
        let mut body = response.into_body();
        let mut at = 0;
        while let Some(chunk) = self.session.next_chunk(&mut body).await? {
            let end = at + u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if end > size {
                let text = format!("it sent more than the {size} bytes announced");
                return Err(Failure::new(ErrorKind::InvalidContent, text));
            }
            if !self.give(at, chunk).await {
                return Ok(false);
            }
            at = end;
        }
        if at < size {
            let text = format!("it ended after {at} of {size} bytes");
            return Err(Failure::new(ErrorKind::InvalidContent, text).worth(3));
        }
        Ok(true)
    }

    /// Returns where the answer ends, `span`'s end at most; `None` when its bytes are not wanted.
    async fn part(&self, mut body: Incoming, span: Range<u64>) -> Result<Option<u64>, Failure> {
        let mut at = span.start;
        // To the end, so that the connection can be used again, but no further than was asked for.
        while let Some(mut chunk) = self.session.next_chunk(&mut body).await? {
            if at == span.end {
                break;
            }
            chunk.truncate(usize::try_from(span.end - at).unwrap_or(usize::MAX));
            let end = at + u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if !self.give(at, chunk).await {
                return Ok(None);
            }
            at = end;
        }
        Ok(Some(at))
    }

    /// False when nothing wants the bytes.
    async fn give(&self, at: u64, chunk: Bytes) -> bool {
        chunk.is_empty() || self.sink.send((at, chunk)).await.is_ok()
    }

    fn spans(&self) -> MutexGuard<'_, VecDeque<Range<u64>>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The front of the first range. A manifest may say that a blob has any size, so that a list of all parts could take all memory.
fn take(ranges: &mut VecDeque<Range<u64>>, most: u64) -> Option<Range<u64>> {
    let first = ranges.pop_front()?;
    let end = first.start.saturating_add(most).min(first.end);
    if end < first.end {
        ranges.push_front(end..first.end);
    }
    Some(first.start..end)
}

/// The error stays of the kind that the registry gave it.
fn not_allowed(url: &str, attempts: &[Attempt]) -> Attempt {
    Attempt {
        host: url.chars().take(MAX_URL).collect(),
        outcome: "where the image says that the layer lies, is none of image.layer_hosts"
            .to_owned(),
        kind: attempts
            .last()
            .map_or(ErrorKind::NotFound, |attempt| attempt.kind),
    }
}

/// Where the part ends that the answer has of `span`: from its start on, and as far as it goes. Anything else cannot be used.
///
/// Rule: RFC 9110, section 14.4, "Content-Range".
fn part_end(response: &Response<Incoming>, span: &Range<u64>, size: u64) -> Result<u64, Failure> {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok()).unwrap_or("");
    match content_range(range) {
        Some((start, last, whole))
            if start == span.start && last >= start && whole.is_none_or(|whole| whole == size) =>
        {
            Ok(last.saturating_add(1).min(span.end))
        }
        _ => Err(Failure::of_range(format!(
            "it sent the range {range:?} for one from {} to {}",
            span.start,
            span.end - 1
        ))),
    }
}

/// Shape: `bytes 0-99/1000`, with `*` for a size that the server does not know.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, whole) = rest.trim().split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let whole = match whole {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    unit.eq_ignore_ascii_case("bytes")
        .then_some((start.parse().ok()?, last.parse().ok()?, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_comes_first_in_parts() {
        let mut ranges = VecDeque::from([0..10, 20..24, 30..u64::MAX]);
        let mut next = || take(&mut ranges, 6);
        assert_eq!([next(), next()], [Some(0..6), Some(6..10)]);
        assert_eq!([next(), next()], [Some(20..24), Some(30..36)]);
        assert_eq!(take(&mut ranges, u64::MAX), Some(36..u64::MAX));
        assert_eq!(take(&mut ranges, 6), None);
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 9, Some(100))));
        assert_eq!(content_range("Bytes 5-9/*"), Some((5, 9, None)));
        for bad in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes */100",
            "bytes 5-9/x",
            "lines 1-2/3",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
