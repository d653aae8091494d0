//! The outgoing direction of a session.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::{
    io::{self, AsyncWrite, AsyncWriteExt, BufWriter},
    sync::mpsc::{Receiver, error::TryRecvError},
};

use super::{
    frame,
    headers::empty_block,
    session::{INITIAL_WINDOW, Out, SESSION_WINDOW, STREAM_WINDOW, Shared},
};

/// Small frames are written together, bytes.
const BUFFER: usize = 16 << 10;

/// Writes until the farewell, or until nobody is there to read.
pub(super) async fn write_all(
    io: impl AsyncWrite + Unpin,
    mut control: Receiver<Out>,
    mut data: Receiver<Out>,
    shared: Arc<Shared>,
) {
    let mut writer = Writer {
        io: BufWriter::with_capacity(BUFFER, io),
        has_replied: false,
        shared: Arc::clone(&shared),
    };
    let mut result = writer.greet().await;
    while result.is_ok() {
        // Answers first: SYN_REPLY has to come before the stream's data.
        let next = match control.try_recv() {
            Err(TryRecvError::Empty) => data.try_recv(),
            next => next,
        };
        let next = match next {
            Ok(out) => Some(out),
            Err(_) => match writer.io.flush().await {
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
                let _ = writer.io.shutdown().await;
                break;
            }
            Some(out) => result = writer.write(out).await,
        }
    }
    shared.end();
}

struct Writer<T> {
    io: BufWriter<T>,
    has_replied: bool,
    shared: Arc<Shared>,
}

impl<T: AsyncWrite + Unpin> Writer<T> {
    /// How much we take.
    async fn greet(&mut self) -> io::Result<()> {
        let mut out = BytesMut::new();
        frame::put_initial_window(&mut out, STREAM_WINDOW);
        frame::put_window_update(&mut out, 0, SESSION_WINDOW - INITIAL_WINDOW);
        self.io.write_all(&out).await
    }

    async fn write(&mut self, frame: Out) -> io::Result<()> {
        let mut out = BytesMut::with_capacity(32);
        let mut body = None;
        match frame {
            Out::SynReply { stream } => {
                let block = empty_block(!self.has_replied);
                self.has_replied = true;
                frame::put_syn_reply(&mut out, stream, block);
            }
            Out::Rst { stream, why } => frame::put_rst_stream(&mut out, stream, why),
            Out::Pong { id } => frame::put_ping(&mut out, id),
            Out::WindowUpdate { stream, delta } => {
                frame::put_window_update(&mut out, stream, delta);
            }
            Out::Data { stream, data } => {
                frame::put_data_head(&mut out, stream, false, data.len());
                body = Some(data);
            }
            Out::Fin { stream } => frame::put_data_head(&mut out, stream, true, 0),
            Out::GoAway { failed } => {
                let last_stream = self.shared.lock().last_stream;
                frame::put_go_away(&mut out, last_stream, failed);
            }
        }
        self.shared.activity.touch();
        self.io.write_all(&out).await?;
        match body {
            Some(data) => self.io.write_all(&data).await,
            None => Ok(()),
        }
    }
}
