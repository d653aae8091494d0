//! The `:authority` of requests over the Unix socket, made into one that h2 accepts.
//!
//! Over a Unix socket an authority means nothing, and clients send what they have: gRPC core, grpc-java and grpc-swift send
//! the socket's path, percent-encoded. h2 resets a stream whose authority is no host, and has no option for it. So each
//! authority is replaced on its way from the socket to h2 (docs/adr/0013).
//!
//! ```text
//!   Preface --24 bytes--> Head --HEADERS, CONTINUATION--> Fields --> Head; the block goes on at END_HEADERS
//!                          |  ^
//!                          |  +-- end of payload -- Body (any other frame, passed on)
//!                          +-- what may not come here --> Raw (passed on, so that h2 refuses it)
//! ```

mod fields;
mod stream;

use bytes::{Buf, BufMut, BytesMut};

pub(super) use self::stream::Stream;

/// Length of what a client begins with (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Length of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// Largest payload of a frame: hyper asks clients for no other limit than the protocol's (RFC 9113, section 6.5.2).
const MAX_PAYLOAD: usize = 16_384;
/// Most bytes of the frames of one field block. h2 refuses a request with more than 16 KiB of fields.
const MAX_BLOCK: usize = 64 << 10;

/// Types and flags of frames (RFC 9113, sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Length of the fields that the flag PRIORITY announces.
const PRIORITY_FIELDS: usize = 5;

/// Rewriter of what one client sends, in order.
#[derive(Debug)]
pub(crate) struct Rewriter {
    state: State,
    /// Bytes that have come and are not passed on.
    input: BytesMut,
    /// Frames of a field block whose end has not come, as they came.
    block: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface,
    Head,
    /// Bytes that are left of a frame which is passed on.
    Body(usize),
    /// A frame of fields, of `length` bytes in all.
    Fields {
        length: usize,
        is_last: bool,
    },
    Raw,
}

/// The head of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Rewriter {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Preface,
            input: BytesMut::new(),
            block: BytesMut::new(),
        }
    }

    /// Takes `input`, and appends to `output` what h2 is to read.
    pub(crate) fn feed(&mut self, input: &[u8], output: &mut BytesMut) {
        self.input.extend_from_slice(input);
        while let Some(state) = self.step(output) {
            self.state = state;
        }
    }

    /// Passes on what is there, and returns the next state. `None` when more bytes have to come first.
    fn step(&mut self, output: &mut BytesMut) -> Option<State> {
        match self.state {
            State::Preface => {
                output.put(self.take(PREFACE)?);
                Some(State::Head)
            }
            State::Head => {
                let head = Head::read(&self.input)?;
                Some(self.begin(head, output))
            }
            State::Body(left) => {
                let length = left.min(self.input.len());
                output.put(self.take(length)?);
                self.state = State::Body(left - length);
                (length == left).then_some(State::Head)
            }
            State::Fields { length, is_last } => {
                let frame = self.take(length)?;
                self.block.unsplit(frame);
                Some(self.end_frame(is_last, output))
            }
            State::Raw => {
                output.put(self.input.split());
                None
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<BytesMut> {
        (self.input.len() >= length).then(|| self.input.split_to(length))
    }

    /// What a frame with this head is: nothing comes between the frames of a field block.
    fn begin(&mut self, head: Head, output: &mut BytesMut) -> State {
        let continues = head.kind == CONTINUATION;
        let length = HEAD + head.length;
        if continues == self.block.is_empty() || head.length > MAX_PAYLOAD {
            self.give_up(output)
        } else if continues || head.kind == HEADERS {
            State::Fields {
                length,
                is_last: head.flags & END_HEADERS != 0,
            }
        } else {
            State::Body(length)
        }
    }

    /// Passes the field block on when its last frame has come.
    fn end_frame(&mut self, is_last: bool, output: &mut BytesMut) -> State {
        if !is_last && self.block.len() <= MAX_BLOCK {
            return State::Head;
        }
        match rewrite(&self.block) {
            Ok(frames) if is_last => {
                self.block.clear();
                output.unsplit(frames);
                State::Head
            }
            _ => self.give_up(output),
        }
    }

    /// Leaves it to h2 to say what is wrong.
    fn give_up(&mut self, output: &mut BytesMut) -> State {
        output.put(self.block.split());
        State::Raw
    }
}

/// Frame that h2 is to refuse.
#[derive(Debug, PartialEq)]
struct Malformed;

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.get(..HEAD)?;
        let (high, low) = (bytes.get_u8(), bytes.get_u16());
        Some(Self {
            length: usize::from(high) << 16 | usize::from(low),
            kind: bytes.get_u8(),
            flags: bytes.get_u8(),
            stream: bytes.get_u32(),
        })
    }

    fn write(self, output: &mut BytesMut) {
        let [.., high, middle, low] = self.length.to_be_bytes();
        output.put_slice(&[high, middle, low, self.kind, self.flags]);
        output.put_u32(self.stream);
    }
}

/// The frames of a whole field block, with another authority.
fn rewrite(mut frames: &[u8]) -> Result<BytesMut, Malformed> {
    let first = Head::read(frames).ok_or(Malformed)?;
    let mut block = Vec::with_capacity(frames.len());
    let mut priority: &[u8] = &[];
    while let Some(head) = Head::read(frames) {
        let (frame, rest) = frames
            .split_at_checked(HEAD + head.length)
            .ok_or(Malformed)?;
        frames = rest;
        if head.stream != first.stream {
            return Err(Malformed);
        }
        let mut fragment = &frame[HEAD..];
        if head.kind == HEADERS {
            fragment = unpadded(head, fragment)?;
            if head.flags & PRIORITY != 0 {
                (priority, fragment) = fragment
                    .split_at_checked(PRIORITY_FIELDS)
                    .ok_or(Malformed)?;
            }
        }
        block.extend_from_slice(fragment);
    }
    Ok(framed(
        first,
        &[priority, &fields::rewrite(&block)?].concat(),
    ))
}

fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Malformed> {
    if head.flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Malformed)?;
    let length = rest.len().checked_sub(usize::from(*padding));
    Ok(&rest[..length.ok_or(Malformed)?])
}

/// Frames of a field block, as many as it needs. `first` is the head of its first frame as it came.
fn framed(first: Head, block: &[u8]) -> BytesMut {
    let mut output = BytesMut::with_capacity(block.len() + HEAD);
    let mut kind = first.kind;
    let mut flags = first.flags & !(PADDED | END_HEADERS);
    let mut left = block;
    loop {
        let (chunk, after) = left.split_at(left.len().min(MAX_PAYLOAD));
        left = after;
        if left.is_empty() {
            flags |= END_HEADERS;
        }
        let head = Head {
            length: chunk.len(),
            kind,
            flags,
            stream: first.stream,
        };
        head.write(&mut output);
        output.put_slice(chunk);
        // Also a block without fields has a frame: its flags may end the stream.
        if left.is_empty() {
            return output;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests;
