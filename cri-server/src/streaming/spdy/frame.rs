//! Frames: what they say, and their bytes.
//!
//! Source: SPDY protocol, draft 3.1, section 2.2 ("Framing") and 2.6 ("Control frames").

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Streams are numbered with 31 bits; 0 is the session.
const STREAM_MASK: u32 = 0x7fff_ffff;
const CONTROL: u32 = 0x8000_0000;
const VERSION: u32 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const INITIAL_WINDOW_SIZE: u32 = 7;

const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const SETTINGS: u32 = 4;
const PING: u32 = 6;
const GOAWAY: u32 = 7;
const HEADERS: u32 = 8;
const WINDOW_UPDATE: u32 = 9;

/// Length of what begins every frame.
const HEAD: usize = 8;
/// The longest control frame that is taken, bytes. Headers of the protocols that run here are a tenth of it.
const MAX_CONTROL: usize = 16 << 10;

/// A frame of the peer's. Header blocks are as they came, compressed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        block: Bytes,
    },
    RstStream {
        stream: u32,
    },
    /// Of all settings, the one that matters here.
    Settings {
        initial_window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A piece of a data frame; `fin` comes with its last.
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    /// Of a type that is to be ignored.
    Unknown,
}

/// What a peer may not do. The session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(in crate::streaming) enum Violation {
    #[error("a frame of SPDY version {0}")]
    Version(u32),
    #[error("a control frame of {0} bytes, more than {MAX_CONTROL}")]
    Long(usize),
    #[error("a frame of type {0} that is too short, or too long, for what it says")]
    Malformed(u32),
    #[error("a frame for stream 0 or of an id out of order")]
    StreamId,
    #[error("headers that cannot be read: {0}")]
    Headers(&'static str),
    #[error("a window of more than 2 GiB")]
    Window,
    #[error("requests faster than their answers are read")]
    Flood,
}

/// Why a stream is reset (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub(in crate::streaming) enum Reset {
    InvalidStream = 2,
    Refused = 3,
    Cancel = 5,
}

/// Cuts a peer's bytes into frames. Data is given on as it comes: a frame of 16 MiB is never in memory as a whole.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The data frame that is being read: stream, whether it is the last, what is still to come.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// Takes the next frame, or piece of one, from `buffer`. `None`: there have to be more bytes.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        if let Some(data) = self.data {
            return Ok(self.piece(data, buffer));
        }
        let Some(mut head) = buffer.get(..HEAD) else {
            return Ok(None);
        };
        let (word, length) = (head.get_u32(), head.get_u32());
        let flags = u8::try_from(length >> 24).unwrap_or_default();
        let length = usize::try_from(length & 0x00ff_ffff).unwrap_or(usize::MAX);
        if word & CONTROL == 0 {
            if word == 0 {
                return Err(Violation::StreamId);
            }
            buffer.advance(HEAD);
            return Ok(self.piece((word, flags & FIN != 0, length), buffer));
        }
        if length > MAX_CONTROL {
            return Err(Violation::Long(length));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        control(word, flags, buffer.split_to(length).freeze()).map(Some)
    }

    fn piece(
        &mut self,
        (stream, fin, length): (u32, bool, usize),
        buffer: &mut BytesMut,
    ) -> Option<Frame> {
        let data = buffer.split_to(length.min(buffer.len())).freeze();
        let left = length - data.len();
        self.data = (left > 0).then_some((stream, fin, left));
        (left == 0 || !data.is_empty()).then_some(Frame::Data {
            stream,
            fin: fin && left == 0,
            data,
        })
    }
}

fn control(word: u32, flags: u8, mut body: Bytes) -> Result<Frame, Violation> {
    let (version, kind) = (word >> 16 & 0x7fff, word & 0xffff);
    if version != VERSION {
        return Err(Violation::Version(version));
    }
    let malformed = Violation::Malformed(kind);
    let fin = flags & FIN != 0;
    let exactly = |length: usize| (body.len() == length).then_some(()).ok_or(malformed);
    let at_least = |length: usize| (body.len() >= length).then_some(()).ok_or(malformed);
    match kind {
        SYN_STREAM => {
            at_least(10)?;
            let stream = stream_id(&mut body)?;
            // The stream that this one belongs to, its priority and its slot.
            body.advance(6);
            Ok(Frame::SynStream {
                stream,
                fin,
                unidirectional: flags & UNIDIRECTIONAL != 0,
                block: body,
            })
        }
        SYN_REPLY => {
            at_least(4)?;
            let stream = stream_id(&mut body)?;
            Ok(Frame::SynReply {
                stream,
                block: body,
            })
        }
        RST_STREAM => {
            exactly(8)?;
            let stream = stream_id(&mut body)?;
            Ok(Frame::RstStream { stream })
        }
        SETTINGS => {
            at_least(4)?;
            let count = usize::try_from(body.get_u32()).map_err(|_large| malformed)?;
            if count.checked_mul(8) != Some(body.len()) {
                return Err(malformed);
            }
            Ok(Frame::Settings {
                initial_window: initial_window(body),
            })
        }
        PING => {
            exactly(4)?;
            Ok(Frame::Ping { id: body.get_u32() })
        }
        GOAWAY => {
            exactly(8)?;
            Ok(Frame::GoAway)
        }
        HEADERS => {
            at_least(4)?;
            let stream = stream_id(&mut body)?;
            Ok(Frame::Headers {
                stream,
                fin,
                block: body,
            })
        }
        WINDOW_UPDATE => {
            exactly(8)?;
            Ok(Frame::WindowUpdate {
                stream: body.get_u32() & STREAM_MASK,
                delta: body.get_u32() & STREAM_MASK,
            })
        }
        _ => Ok(Frame::Unknown),
    }
}

fn stream_id(body: &mut Bytes) -> Result<u32, Violation> {
    match body.get_u32() & STREAM_MASK {
        0 => Err(Violation::StreamId),
        stream => Ok(stream),
    }
}

/// Entries are flags (8 bits), id (24) and value (32); of two with one id the first counts (section 2.6.4).
fn initial_window(mut entries: Bytes) -> Option<u32> {
    while entries.has_remaining() {
        let (id, value) = (entries.get_u32() & 0x00ff_ffff, entries.get_u32());
        if id == INITIAL_WINDOW_SIZE {
            return Some(value);
        }
    }
    None
}

fn head(out: &mut BytesMut, kind: u32, flags: u8, length: usize) {
    out.put_u32(CONTROL | VERSION << 16 | kind);
    put_length(out, flags, length);
}

/// Frames of ours are never as long as 24 bits can say.
fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(flags) << 24 | length);
}

/// `block`: the compressed headers.
pub(super) fn put_syn_reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    head(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

pub(super) fn put_rst_stream(out: &mut BytesMut, stream: u32, why: Reset) {
    head(out, RST_STREAM, 0, 8);
    out.put_u32(stream);
    out.put_u32(why as u32);
}

pub(super) fn put_initial_window(out: &mut BytesMut, size: u32) {
    head(out, SETTINGS, 0, 12);
    out.put_u32(1);
    out.put_u32(INITIAL_WINDOW_SIZE);
    out.put_u32(size);
}

pub(super) fn put_ping(out: &mut BytesMut, id: u32) {
    head(out, PING, 0, 4);
    out.put_u32(id);
}

/// `failed`: because of something that the peer did.
pub(super) fn put_go_away(out: &mut BytesMut, last_stream: u32, failed: bool) {
    head(out, GOAWAY, 0, 8);
    out.put_u32(last_stream);
    out.put_u32(u32::from(failed));
}

pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, delta: u32) {
    head(out, WINDOW_UPDATE, 0, 8);
    out.put_u32(stream);
    out.put_u32(delta);
}

/// What comes before `length` bytes of data.
pub(super) fn put_data_head(out: &mut BytesMut, stream: u32, fin: bool, length: usize) {
    out.put_u32(stream);
    put_length(out, u8::from(fin), length);
}
