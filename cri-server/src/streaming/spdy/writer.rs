//! The outgoing direction of a session.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{self, AsyncWrite, AsyncWriteExt},
    sync::mpsc::{Receiver, error::TryRecvError},
};

use super::{
    frame,
    headers::empty_block,
    session::{INITIAL_WINDOW, Out, SESSION_WINDOW, STREAM_WINDOW, Shared},
};

/// Small frames are written together, up to so many bytes.
const BUFFER: usize = 16 << 10;
/// Data of this length is not copied to them, but written as it is, bytes.
const LONG: usize = 4 << 10;

/// Writes until the farewell, or until nobody is there to read.
pub(super) async fn write_all(
    io: impl AsyncWrite + Unpin,
    mut control: Receiver<Out>,
    mut data: Receiver<Out>,
    shared: Arc<Shared>,
) {
    let mut writer = Writer {
        io,
        unwritten: BytesMut::new(),
        has_replied: false,
        shared: Arc::clone(&shared),
    };
    writer.greet();
    let mut result = Ok(());
    while result.is_ok() {
        // Answers first: SYN_REPLY has to come before the stream's data.
        let next = match control.try_recv() {
            Err(TryRecvError::Empty) => data.try_recv(),
            next => next,
        };
        let next = match next {
            Ok(out) => Some(out),
            Err(_) => match writer.flush().await {
                Err(_) => break,
                Ok(()) => tokio::select! {
                    biased;
                    out = control.recv() => out,
                    out = data.recv() => out,
                },
            },
        };
        match next {
            None => break,
            Some(out @ Out::GoAway { .. }) => {
                let _ = writer.write(out).await;
                let _ = writer.flush().await;
                let _ = writer.io.shutdown().await;
                break;
            }
            Some(out) => result = writer.write(out).await,
        }
    }
    shared.end();
}

struct Writer<T> {
    io: T,
    /// It has a buffer only as long as there is something in it.
    unwritten: BytesMut,
    has_replied: bool,
    shared: Arc<Shared>,
}

impl<T: AsyncWrite + Unpin> Writer<T> {
    /// How much we take.
    fn greet(&mut self) {
        let out = &mut self.unwritten;
        frame::put_initial_window(out, STREAM_WINDOW);
        frame::put_window_update(out, 0, SESSION_WINDOW - INITIAL_WINDOW);
    }

    async fn write(&mut self, frame: Out) -> io::Result<()> {
        self.shared.activity.touch();
        let out = &mut self.unwritten;
        match frame {
            Out::SynReply { stream } => {
                let block = empty_block(!self.has_replied);
                self.has_replied = true;
                frame::put_syn_reply(out, stream, block);
            }
            Out::Rst { stream, why } => frame::put_rst_stream(out, stream, why),
            Out::Pong { id } => frame::put_ping(out, id),
            Out::WindowUpdate { stream, delta } => {
                frame::put_window_update(out, stream, delta);
            }
            Out::Data { stream, data } => {
                frame::put_data_head(out, stream, false, data.len());
                match data.len() < LONG {
                    true => out.extend_from_slice(&data),
                    false => return self.write_with(data).await,
                }
            }
            Out::Fin { stream } => frame::put_data_head(out, stream, true, 0),
            Out::GoAway { failed } => {
                let last_stream = self.shared.lock().last_stream;
                frame::put_go_away(out, last_stream, failed);
            }
        }
        match self.unwritten.len() < BUFFER {
            true => Ok(()),
            false => self.write_with(Bytes::new()).await,
        }
    }

    /// Writes what is there and `data` at once: a head alone would be a packet, and in a tunnel a message.
    async fn write_with(&mut self, data: Bytes) -> io::Result<()> {
        let unwritten = self.unwritten.split();
        let mut all = (&unwritten[..]).chain(data);
        self.io.write_all_buf(&mut all).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let unwritten = std::mem::take(&mut self.unwritten);
        self.io.write_all(&unwritten).await?;
        self.io.flush().await
    }
}
