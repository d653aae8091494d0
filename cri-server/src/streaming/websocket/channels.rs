//! Channels: each message begins with the number of the one that it is for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use super::{farewell, frames, verdict};
use crate::streaming::{activity::Activity, spdy::Broken};

/// In place of a channel's number: the one in the next byte ends (version 5).
const CLOSE: u8 = 255;
/// Messages that wait to be taken, a channel.
const INCOMING: usize = 4;
/// Messages that wait to be written.
const OUTGOING: usize = 8;
/// How long the last messages may take.
const FAREWELL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(in crate::streaming) struct Settings {
    /// Without a message in either direction.
    pub(in crate::streaming) idle_timeout: Duration,
    /// Numbers are digits, and data is base64.
    pub(in crate::streaming) is_base64: bool,
    pub(in crate::streaming) can_close_channels: bool,
}

/// It ends when this is dropped.
#[derive(Debug)]
pub(in crate::streaming) struct Session {
    outgoing: mpsc::Sender<Message>,
    is_base64: bool,
    reader: JoinHandle<CloseCode>,
    /// Why the reader has ended.
    end: Option<CloseCode>,
    writer: Option<JoinHandle<()>>,
}

/// What comes in on one channel.
#[derive(Debug)]
pub(in crate::streaming) struct Receiver {
    pub(in crate::streaming) channel: u8,
    incoming: mpsc::Receiver<Incoming>,
    is_closed: bool,
}

#[derive(Debug)]
enum Incoming {
    Data(Bytes),
    Close,
}

/// What goes out on one channel.
#[derive(Debug)]
pub(in crate::streaming) struct Sender {
    channel: u8,
    outgoing: mpsc::Sender<Message>,
    is_base64: bool,
}

impl Session {
    /// Speaks on `io`, which is past its handshake. `unread`: what came behind that. `inputs`: the channels that are received;
    /// what comes for others is dropped. When `gone` resolves the client has hung up, which is not seen while its data is not
    /// read.
    pub(in crate::streaming) async fn start<T>(
        io: T,
        unread: &[u8],
        settings: Settings,
        inputs: &[u8],
        gone: impl Future<Output = ()> + Send + 'static,
    ) -> (Self, Vec<Receiver>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, stream) = frames(io, unread).await.split();
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let (mut channels, mut receivers) = (HashMap::new(), Vec::new());
        for channel in inputs {
            let (sender, incoming) = mpsc::channel(INCOMING);
            channels.insert(*channel, sender);
            receivers.push(Receiver {
                channel: *channel,
                incoming,
                is_closed: false,
            });
        }
        let activity = Arc::new(Activity::new());
        let reader = Reader {
            stream,
            channels,
            settings,
            activity: Arc::clone(&activity),
        };
        let session = Self {
            outgoing,
            is_base64: settings.is_base64,
            reader: tokio::spawn(reader.run(settings.idle_timeout, gone)),
            end: None,
            writer: Some(tokio::spawn(write_all(sink, messages, activity))),
        };
        (session, receivers)
    }

    pub(in crate::streaming) fn sender(&self, channel: u8) -> Sender {
        Sender {
            channel,
            outgoing: self.outgoing.clone(),
            is_base64: self.is_base64,
        }
    }

    /// Resolves when the client has gone.
    pub(in crate::streaming) async fn gone(&mut self) {
        if self.end.is_none() {
            self.end = Some((&mut self.reader).await.unwrap_or(CloseCode::Error));
        }
    }

    /// Sends what is left and closes. A client that does not read is not waited for.
    pub(in crate::streaming) async fn close(mut self) {
        let frame = farewell(self.end.unwrap_or(CloseCode::Normal));
        let farewell = async {
            let _ = self.outgoing.send(Message::Close(Some(frame))).await;
            if let Some(writer) = &mut self.writer {
                let _ = writer.await;
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

impl Receiver {
    /// Waits for data; `None` is the end that the client has set. Nothing is lost when this is cancelled.
    pub(in crate::streaming) async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.is_closed {
            return Ok(None);
        }
        match self.incoming.recv().await {
            Some(Incoming::Data(data)) => Ok(Some(data)),
            Some(Incoming::Close) => {
                self.is_closed = true;
                Ok(None)
            }
            None => Err(Broken::Gone),
        }
    }
}

impl Sender {
    /// Queues a message, as fast as the client takes them.
    pub(in crate::streaming) async fn send(&self, data: Bytes) -> Result<(), Broken> {
        let message = if self.is_base64 {
            let channel = char::from(b'0' + self.channel);
            Message::text(format!("{channel}{}", STANDARD.encode(&data)))
        } else {
            let mut message = BytesMut::with_capacity(1 + data.len());
            message.put_u8(self.channel);
            message.put(data);
            Message::Binary(message.freeze())
        };
        self.outgoing
            .send(message)
            .await
            .map_err(|_over| Broken::Gone)
    }
}

struct Reader<T> {
    stream: SplitStream<WebSocketStream<T>>,
    channels: HashMap<u8, mpsc::Sender<Incoming>>,
    settings: Settings,
    activity: Arc<Activity>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    /// Reads until the session is over, and tells why it is.
    async fn run(mut self, idle_timeout: Duration, gone: impl Future<Output = ()>) -> CloseCode {
        let activity = Arc::clone(&self.activity);
        tokio::select! {
            end = self.read_all(gone) => end,
            () = activity.idle(idle_timeout) => {
                tracing::debug!("a WebSocket was idle for too long");
                CloseCode::Normal
            }
        }
    }

    async fn read_all(&mut self, gone: impl Future<Output = ()>) -> CloseCode {
        let mut gone = std::pin::pin!(gone);
        loop {
            let message = self.stream.next().await;
            self.activity.touch();
            let data = match message {
                Some(Ok(Message::Binary(data))) if !self.settings.is_base64 => data,
                Some(Ok(Message::Text(text))) if self.settings.is_base64 => text.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Binary(_) | Message::Text(_))) => return CloseCode::Unsupported,
                Some(Ok(_)) | None => return CloseCode::Normal,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a WebSocket broke");
                    return verdict(&error).unwrap_or(CloseCode::Normal);
                }
            };
            tokio::select! {
                biased;
                understood = self.deliver(data) => if !understood {
                    tracing::debug!("a client's message is of no channel");
                    return CloseCode::Protocol;
                },
                () = &mut gone => return CloseCode::Normal,
            }
        }
    }

    /// False: it is nonsense.
    async fn deliver(&mut self, data: Bytes) -> bool {
        let Some((number, rest)) = data.split_first() else {
            return true;
        };
        let (number, rest) = match self.settings.is_base64 {
            false => (*number, data.slice(1..)),
            true => match STANDARD.decode(rest) {
                Ok(rest) => (number.wrapping_sub(b'0'), rest.into()),
                Err(_) => return false,
            },
        };
        let (channel, incoming) = match (number, &*rest) {
            (CLOSE, [channel]) if self.settings.can_close_channels => (*channel, Incoming::Close),
            (CLOSE, _) if self.settings.can_close_channels => return false,
            // Some clients of version 4 send it as well: it is of no channel, and dropped.
            _ => (number, Incoming::Data(rest)),
        };
        if let Some(sender) = self.channels.get(&channel) {
            // One that nobody receives any more takes no harm.
            let _ = sender.send(incoming).await;
        }
        true
    }
}

async fn write_all<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut messages: mpsc::Receiver<Message>,
    activity: Arc<Activity>,
) {
    while let Some(message) = messages.recv().await {
        let is_last = matches!(message, Message::Close(_));
        activity.touch();
        // Those that are there already go out together.
        let sent = match messages.is_empty() {
            true => sink.send(message).await,
            false => sink.feed(message).await,
        };
        if sent.is_err() || is_last {
            break;
        }
    }
    let _ = sink.close().await;
}
