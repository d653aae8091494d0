//! A session: the connection's two directions, its streams and their windows.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{
    super::activity::Activity,
    frame::Reset,
    reader::Reader,
    stream::{Broken, Link, NewStream},
    writer::write_all,
};

/// What a peer may send before it hears of more (section 2.6.8).
pub(super) const INITIAL_WINDOW: u32 = 64 << 10;
/// What we let a peer send on each stream, bytes.
pub(super) const STREAM_WINDOW: u32 = 256 << 10;
/// And in all: what a session keeps that nobody has taken yet.
pub(super) const SESSION_WINDOW: u32 = 2 << 20;
/// Data frames that wait to be written.
const QUEUE: usize = 8;
/// Answers that wait to be written.
const CONTROL_QUEUE: usize = 1024;
/// How long the last frames may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a piece of data costs a session while it waits: a thousand pieces of a byte are more than a thousand bytes.
pub(super) fn cost(bytes: usize) -> usize {
    bytes + 128
}

/// Bounds of one session.
#[derive(Clone, Copy, Debug)]
pub(in crate::streaming) struct Settings {
    /// Without a frame in either direction.
    pub(in crate::streaming) idle_timeout: Duration,
    /// That are open at once.
    pub(in crate::streaming) max_streams: usize,
}

/// An established session. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::streaming) struct Session {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    writer: Option<JoinHandle<()>>,
}

/// The streams that the client opens.
#[derive(Debug)]
pub(in crate::streaming) struct Incoming(mpsc::Receiver<NewStream>);

impl Incoming {
    /// `None` once the session is over.
    pub(in crate::streaming) async fn next(&mut self) -> Option<NewStream> {
        self.0.recv().await
    }
}

/// What the writer is to write.
#[derive(Debug)]
pub(super) enum Out {
    SynReply { stream: u32 },
    Rst { stream: u32, why: Reset },
    Pong { id: u32 },
    WindowUpdate { stream: u32, delta: u32 },
    Data { stream: u32, data: Bytes },
    Fin { stream: u32 },
    GoAway { failed: bool },
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    control: mpsc::Sender<Out>,
    data: mpsc::Sender<Out>,
    /// What received data that nobody has taken costs, all streams together ([`cost`]).
    pub(super) waiting: AtomicUsize,
    /// There is less of that.
    pub(super) was_taken: Notify,
    /// Taken since the peer was told so, bytes.
    untold: AtomicUsize,
    /// An answer found no place.
    pub(super) flooded: Notify,
    pub(super) activity: Activity,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) streams: HashMap<u32, Arc<Link>>,
    /// The last that the peer has opened.
    pub(super) last_stream: u32,
    /// The peer has named a window, so that it keeps them.
    pub(super) has_windows: bool,
    pub(super) initial_window: i64,
    pub(super) window: i64,
}

impl Session {
    /// Speaks SPDY on `io`, which both sides have agreed on. `unread`: what came behind the request for it. When `gone`
    /// resolves the client has hung up, which is not seen while its data is not read.
    pub(in crate::streaming) fn start<T>(
        io: T,
        unread: &[u8],
        settings: Settings,
        gone: impl Future<Output = ()> + Send + 'static,
    ) -> (Self, Incoming)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (data, data_queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                streams: HashMap::new(),
                last_stream: 0,
                has_windows: false,
                initial_window: i64::from(INITIAL_WINDOW),
                window: i64::from(INITIAL_WINDOW),
            }),
            control,
            data,
            waiting: AtomicUsize::new(0),
            was_taken: Notify::new(),
            untold: AtomicUsize::new(0),
            flooded: Notify::new(),
            activity: Activity::new(),
        });
        let (incoming, streams) = mpsc::channel(settings.max_streams);
        let (read, write) = tokio::io::split(io);
        let reader = Reader::new(Arc::clone(&shared), BytesMut::from(unread), incoming);
        let writer = write_all(write, control_queue, data_queue, Arc::clone(&shared));
        let session = Self {
            reader: tokio::spawn(reader.run(read, settings, gone)),
            writer: Some(tokio::spawn(writer)),
            shared,
        };
        (session, Incoming(streams))
    }

    /// Sends what is left, says goodbye and closes the connection. A client that does not read is not waited for.
    pub(in crate::streaming) async fn close(mut self) {
        let farewell = async {
            let open: Vec<u32> = self.shared.lock().streams.keys().copied().collect();
            for stream in open {
                let why = Reset::Cancel;
                self.shared.data(Out::Rst { stream, why }).await?;
            }
            self.shared.data(Out::GoAway { failed: false }).await?;
            if let Some(writer) = &mut self.writer {
                let _ = writer.await;
            }
            Ok::<_, Broken>(())
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.end();
        self.reader.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an answer. The session ends if there are too many.
    pub(super) fn control(&self, out: Out) {
        if self.control.try_send(out).is_err() {
            self.flooded.notify_one();
        }
    }

    pub(super) async fn data(&self, out: Out) -> Result<(), Broken> {
        self.data.send(out).await.map_err(|_over| Broken::Gone)
    }

    /// `None`: the peer takes nothing at present.
    pub(super) fn reserve(&self, link: &Link, wanted: usize) -> Option<usize> {
        let mut session = self.lock();
        let mut stream = link.lock();
        let window = session.window.min(stream.window);
        let length = match session.has_windows {
            true => usize::try_from(window).unwrap_or(0).min(wanted),
            false => wanted,
        };
        let taken = i64::try_from(length).unwrap_or(i64::MAX);
        session.window = session.window.saturating_sub(taken);
        stream.window = stream.window.saturating_sub(taken);
        (length > 0).then_some(length)
    }

    /// Somebody has received `bytes` of the stream: the peer may send as many more.
    pub(super) fn taken(&self, link: &Link, bytes: usize) {
        self.waiting.fetch_sub(cost(bytes), Ordering::Relaxed);
        self.was_taken.notify_one();
        let all = self.untold.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if all >= SESSION_WINDOW as usize / 2 {
            self.untold.fetch_sub(all, Ordering::Relaxed);
            self.tell_window(0, all);
        }
        if let Some(bytes) = link.to_tell(bytes, STREAM_WINDOW as usize / 2) {
            self.tell_window(link.id, bytes);
        }
    }

    /// Without a place for it, it is not told: so many are only unread by those who keep no windows.
    fn tell_window(&self, stream: u32, delta: usize) {
        let delta = u32::try_from(delta).unwrap_or(u32::MAX >> 1);
        let _ = self.control.try_send(Out::WindowUpdate { stream, delta });
    }

    /// Ends a stream in both directions.
    pub(super) fn reset(&self, stream: u32, why: Reset) {
        let link = self.lock().streams.remove(&stream);
        if let Some(link) = link {
            // The session's end would not find it any more.
            link.break_off(Broken::Reset);
            self.control(Out::Rst { stream, why });
        }
    }

    pub(super) fn forget_if_over(&self, link: &Link) {
        if link.is_over() {
            self.lock().streams.remove(&link.id);
        }
    }

    /// Wakes everybody who waits for what cannot come any more.
    pub(super) fn end(&self) {
        let streams = std::mem::take(&mut self.lock().streams);
        for link in streams.into_values() {
            link.break_off(Broken::Gone);
        }
    }
}
