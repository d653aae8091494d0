//! The incoming direction of a session.

use std::{
    collections::hash_map::Entry,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt},
    sync::mpsc,
};

use super::{
    frame::{Decoder, Frame, Reset, Violation},
    headers::{Headers, Inflater},
    session::{Out, SESSION_WINDOW, Settings, Shared, cost},
    stream::{Broken, Link, NewStream, Receiver, Sender},
};

/// Bytes read at once.
const READ: usize = 32 << 10;
const MAX_WINDOW: i64 = i32::MAX as i64;

#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    buffer: BytesMut,
    decoder: Decoder,
    inflater: Inflater,
    incoming: mpsc::Sender<NewStream>,
    /// The peer will open no more streams.
    is_leaving: bool,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client has closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the client has sent {0}")]
    Violation(#[from] Violation),
    #[error("nothing came or went for too long")]
    Idle,
}

impl Reader {
    /// `buffer`: what is already read.
    pub(super) fn new(
        shared: Arc<Shared>,
        buffer: BytesMut,
        incoming: mpsc::Sender<NewStream>,
    ) -> Self {
        Self {
            shared,
            buffer,
            decoder: Decoder::default(),
            inflater: Inflater::new(),
            incoming,
            is_leaving: false,
        }
    }

    /// Reads until the session is over.
    pub(super) async fn run(
        mut self,
        io: impl AsyncRead + Unpin,
        settings: Settings,
        gone: impl Future<Output = ()>,
    ) {
        let shared = Arc::clone(&self.shared);
        let end = tokio::select! {
            end = self.read_all(io, settings, gone) => end,
            () = shared.activity.idle(settings.idle_timeout) => End::Idle,
            () = shared.flooded.notified() => End::Violation(Violation::Flood),
        };
        tracing::debug!(reason = %end, "a SPDY session ends");
        if let End::Violation(_) | End::Idle = end {
            // Where there is a place for it.
            let failed = matches!(end, End::Violation(_));
            shared.control(Out::GoAway { failed });
        }
        shared.end();
    }

    async fn read_all(
        &mut self,
        mut io: impl AsyncRead + Unpin,
        settings: Settings,
        gone: impl Future<Output = ()>,
    ) -> End {
        let mut gone = pin!(gone);
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.handle(frame, settings) {
                        return violation.into();
                    }
                }
                Ok(None) => {
                    tokio::select! {
                        biased;
                        () = self.room() => {}
                        () = &mut gone => return End::Closed,
                    }
                    self.buffer.reserve(READ);
                    match io.read_buf(&mut self.buffer).await {
                        Ok(0) => return End::Closed,
                        Ok(_) => self.shared.activity.touch(),
                        Err(error) => return error.into(),
                    }
                }
                Err(violation) => return violation.into(),
            }
            if self.is_leaving && self.shared.lock().streams.is_empty() {
                return End::Closed;
            }
        }
    }

    /// Waits until what was received is taken, but for a session's worth.
    async fn room(&self) {
        while self.shared.waiting.load(Ordering::Relaxed) >= SESSION_WINDOW as usize {
            self.shared.was_taken.notified().await;
        }
    }

    fn handle(&mut self, frame: Frame, settings: Settings) -> Result<(), Violation> {
        match frame {
            Frame::SynStream {
                stream,
                fin,
                unidirectional,
                block,
            } => {
                let headers = self.inflater.read(&block)?;
                self.open(stream, headers, (fin, unidirectional), settings)?;
            }
            // Their headers tell us nothing, but are part of the compressed stream.
            Frame::SynReply { block, .. } => drop(self.inflater.read(&block)?),
            Frame::Headers { stream, fin, block } => {
                self.inflater.read(&block)?;
                self.data(stream, Bytes::new(), fin);
            }
            Frame::Data { stream, fin, data } => self.data(stream, data, fin),
            Frame::RstStream { stream } => {
                if let Some(link) = self.shared.lock().streams.remove(&stream) {
                    link.break_off(Broken::Reset);
                }
            }
            Frame::Settings { initial_window } => self.set_initial_window(initial_window)?,
            Frame::WindowUpdate { stream, delta } => self.widen(stream, delta)?,
            // Even ids would be answers to pings of ours.
            Frame::Ping { id } if id % 2 == 1 => self.shared.control(Out::Pong { id }),
            Frame::GoAway => self.is_leaving = true,
            Frame::Ping { .. } | Frame::Unknown => {}
        }
        Ok(())
    }

    fn open(
        &self,
        stream: u32,
        headers: Headers,
        (fin, unidirectional): (bool, bool),
        settings: Settings,
    ) -> Result<(), Violation> {
        let mut state = self.shared.lock();
        if stream.is_multiple_of(2) || stream <= state.last_stream {
            return Err(Violation::StreamId);
        }
        state.last_stream = stream;
        let (window, count) = (state.initial_window, state.streams.len());
        let Entry::Vacant(entry) = state.streams.entry(stream) else {
            return Err(Violation::StreamId);
        };
        if count >= settings.max_streams || self.is_leaving {
            drop(state);
            let why = Reset::Refused;
            self.shared.control(Out::Rst { stream, why });
            return Ok(());
        }
        let link = Arc::new(Link::new(stream, window));
        link.lock().has_finished = unidirectional;
        entry.insert(Arc::clone(&link));
        drop(state);
        if fin {
            link.finish_receiving();
        }
        let receiver = Receiver {
            link: Arc::clone(&link),
            shared: Arc::clone(&self.shared),
        };
        let sender = Sender {
            link,
            shared: Arc::clone(&self.shared),
            is_refused: true,
        };
        // Streams that were reset wait there, too: without a place it is refused.
        let _ = self.incoming.try_send(NewStream {
            id: stream,
            headers,
            half: Some((receiver, sender)),
        });
        Ok(())
    }

    fn data(&self, stream: u32, data: Bytes, fin: bool) {
        let link = {
            let state = self.shared.lock();
            match state.streams.get(&stream) {
                Some(link) => Arc::clone(link),
                None => {
                    // One that was reset may have data on its way still; one that never was is a mistake.
                    if stream > state.last_stream {
                        let why = Reset::InvalidStream;
                        self.shared.control(Out::Rst { stream, why });
                    }
                    return;
                }
            }
        };
        let length = data.len();
        if length > 0 {
            self.shared
                .waiting
                .fetch_add(cost(length), Ordering::Relaxed);
            if !link.push(data) {
                self.shared.taken(&link, length);
            }
        }
        if fin {
            link.finish_receiving();
            self.shared.forget_if_over(&link);
        }
    }

    fn set_initial_window(&self, size: Option<u32>) -> Result<(), Violation> {
        let Some(size) = size else {
            return Ok(());
        };
        let size = i64::from(size);
        if size > MAX_WINDOW {
            return Err(Violation::Window);
        }
        let mut state = self.shared.lock();
        let change = size - state.initial_window;
        state.initial_window = size;
        state.has_windows = true;
        for link in state.streams.values() {
            link.lock().window += change;
            link.wake_sender();
        }
        Ok(())
    }

    /// Stream 0 is the session.
    fn widen(&self, stream: u32, delta: u32) -> Result<(), Violation> {
        let delta = i64::from(delta);
        let mut state = self.shared.lock();
        state.has_windows = true;
        if stream == 0 {
            state.window += delta;
            if state.window > MAX_WINDOW {
                return Err(Violation::Window);
            }
            state.streams.values().for_each(|link| link.wake_sender());
        } else if let Some(link) = state.streams.get(&stream) {
            let mut of_stream = link.lock();
            of_stream.window += delta;
            if of_stream.window > MAX_WINDOW {
                return Err(Violation::Window);
            }
            drop(of_stream);
            link.wake_sender();
        }
        Ok(())
    }
}
