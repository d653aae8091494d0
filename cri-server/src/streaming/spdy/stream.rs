//! One stream: what comes in, and what goes out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    frame::Reset,
    headers::Headers,
    session::{Out, Shared},
};

/// The most that one data frame carries, so that streams take turns, bytes.
const MAX_DATA: usize = 32 << 10;

/// Why nothing more can be received or sent.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(in crate::streaming) enum Broken {
    #[error("the client has reset the stream")]
    Reset,
    #[error("the client takes nothing on this stream")]
    OneWay,
    #[error("the client has gone")]
    Gone,
}

/// A stream that the client opens. It is refused when this is dropped.
#[derive(Debug)]
pub(in crate::streaming) struct NewStream {
    pub(in crate::streaming) id: u32,
    pub(in crate::streaming) headers: Headers,
    pub(super) half: Option<(Receiver, Sender)>,
}

impl NewStream {
    /// Tells the client that the stream is open.
    pub(in crate::streaming) fn accept(mut self) -> Option<(Receiver, Sender)> {
        let (receiver, mut sender) = self.half.take()?;
        sender.shared.control(Out::SynReply { stream: self.id });
        sender.is_refused = false;
        Some((receiver, sender))
    }
}

/// What the session and the halves of a stream share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u32,
    state: Mutex<State>,
    /// There is something to receive.
    arrived: Notify,
    /// The window has grown, or there is no use in waiting for that.
    may_send: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    queue: VecDeque<Bytes>,
    /// No more will come: the client has finished, or why not.
    end: Option<Result<(), Broken>>,
    /// Nobody receives.
    is_deaf: bool,
    broken: Option<Broken>,
    pub(super) has_finished: bool,
    /// How much the peer takes, bytes.
    pub(super) window: i64,
    /// Received since the peer was told so, bytes.
    untold: usize,
}

impl Link {
    pub(super) fn new(id: u32, window: i64) -> Self {
        Self {
            id,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                end: None,
                is_deaf: false,
                broken: None,
                has_finished: false,
                window,
                untold: 0,
            }),
            arrived: Notify::new(),
            may_send: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what has come. False: nobody wants it.
    pub(super) fn push(&self, data: Bytes) -> bool {
        let mut state = self.lock();
        if state.is_deaf || state.end.is_some() {
            return false;
        }
        state.queue.push_back(data);
        drop(state);
        self.arrived.notify_one();
        true
    }

    pub(super) fn finish_receiving(&self) {
        self.lock().end.get_or_insert(Ok(()));
        self.arrived.notify_one();
    }

    /// Both directions are over. What came before can still be received.
    pub(super) fn break_off(&self, why: Broken) {
        let mut state = self.lock();
        state.end.get_or_insert(Err(why));
        state.broken.get_or_insert(why);
        drop(state);
        self.arrived.notify_one();
        self.may_send.notify_one();
    }

    /// How much the peer is to be told of, once that is enough.
    pub(super) fn to_tell(&self, bytes: usize, enough: usize) -> Option<usize> {
        let mut state = self.lock();
        if state.end.is_some() {
            return None;
        }
        state.untold += bytes;
        (state.untold >= enough).then(|| std::mem::take(&mut state.untold))
    }

    /// Whether there can still be sent. A stream that the client has opened in one direction never took anything, and its
    /// windows are forgotten once that direction is over.
    fn check_sender(&self) -> Result<(), Broken> {
        let state = self.lock();
        match state.broken {
            Some(broken) => Err(broken),
            None if state.has_finished => Err(Broken::OneWay),
            None => Ok(()),
        }
    }

    pub(super) fn wake_sender(&self) {
        self.may_send.notify_one();
    }

    /// Both sides have finished.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.broken.is_some() || state.has_finished && state.end.is_some()
    }
}

/// The incoming half.
#[derive(Debug)]
pub(in crate::streaming) struct Receiver {
    pub(super) link: Arc<Link>,
    pub(super) shared: Arc<Shared>,
}

impl Receiver {
    /// Waits for data; `None` is the end that the client has set. Nothing is lost when this is cancelled.
    pub(in crate::streaming) async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            {
                let mut state = self.link.lock();
                if let Some(data) = state.queue.pop_front() {
                    drop(state);
                    self.shared.taken(&self.link, data.len());
                    return Ok(Some(data));
                }
                if let Some(end) = state.end {
                    return end.map(|()| None);
                }
            }
            self.link.arrived.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        state.is_deaf = true;
        let unread = std::mem::take(&mut state.queue);
        drop(state);
        for data in unread {
            self.shared.taken(&self.link, data.len());
        }
    }
}

/// The outgoing half. Unless it has been finished, the stream is reset when this is dropped.
#[derive(Debug)]
pub(in crate::streaming) struct Sender {
    pub(super) link: Arc<Link>,
    pub(super) shared: Arc<Shared>,
    pub(super) is_refused: bool,
}

impl Sender {
    /// Queues `data` behind what was sent before, as fast as the peer takes it.
    pub(in crate::streaming) async fn send(&self, mut data: Bytes) -> Result<(), Broken> {
        while !data.is_empty() {
            let length = self.reserve(data.len().min(MAX_DATA)).await?;
            let piece = data.split_to(length);
            self.shared
                .data(Out::Data {
                    stream: self.link.id,
                    data: piece,
                })
                .await?;
        }
        Ok(())
    }

    /// Ends our direction, after all that was sent.
    pub(in crate::streaming) async fn finish(self) -> Result<(), Broken> {
        let stream = self.link.id;
        if self.link.lock().has_finished {
            return Ok(());
        }
        self.shared.data(Out::Fin { stream }).await?;
        self.link.lock().has_finished = true;
        self.shared.forget_if_over(&self.link);
        Ok(())
    }

    /// Waits until the peer takes something, up to `wanted` bytes.
    async fn reserve(&self, wanted: usize) -> Result<usize, Broken> {
        loop {
            self.link.check_sender()?;
            if let Some(length) = self.shared.reserve(&self.link, wanted) {
                return Ok(length);
            }
            self.link.may_send.notified().await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let state = self.link.lock();
        if state.has_finished || state.broken.is_some() {
            return;
        }
        drop(state);
        let why = match self.is_refused {
            true => Reset::Refused,
            false => Reset::Cancel,
        };
        self.shared.reset(self.link.id, why);
    }
}
