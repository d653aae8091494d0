//! Lines of one stream that are about to be written, each `<time> <stream> <P|F> <text>`.

use super::{
    limit::{Bucket, Gap},
    split::Piece,
};

#[derive(Debug)]
pub(super) struct Lines<'a> {
    pub(super) bytes: Vec<u8>,
    stream: &'static str,
    /// What full lines begin with, and parts.
    full: String,
    part: String,
    limited: Option<(&'a mut Bucket, &'a mut Gap)>,
}

impl<'a> Lines<'a> {
    /// For `length` bytes of output.
    pub(super) fn new(
        time: &str,
        stream: &'static str,
        length: usize,
        limited: Option<(&'a mut Bucket, &'a mut Gap)>,
    ) -> Self {
        Self {
            // Enough for short lines: what is not needed is never touched, and growing would leave holes behind.
            bytes: Vec::with_capacity(4 * length),
            stream,
            full: format!("{time} {stream} F "),
            part: format!("{time} {stream} P "),
            limited,
        }
    }

    /// The longest that a line can be whose text has `text` bytes.
    pub(super) fn longest(text: usize) -> usize {
        text.saturating_add(64)
    }

    /// Adds the piece, unless it is over the limit.
    pub(super) fn add(&mut self, piece: &Piece<'_>) {
        if self.admits(piece) {
            self.push(piece);
        }
    }

    fn admits(&mut self, piece: &Piece<'_>) -> bool {
        let length = self.length(piece);
        let Some((bucket, gap)) = &mut self.limited else {
            return true;
        };
        let admitted = gap.admits(piece, length, bucket);
        if admitted {
            self.mark_gap();
        }
        admitted
    }

    /// Says what was left out so far.
    pub(super) fn mark_gap(&mut self) {
        let Some((bucket, gap)) = &mut self.limited else {
            return;
        };
        let Some(marker) = gap.close(self.stream, bucket) else {
            return;
        };
        let full = |text| Piece { text, full: true };
        let end = marker.ends_line.then(|| full(b""));
        for piece in end.into_iter().chain([full(marker.text.as_bytes())]) {
            let length = self.length(&piece);
            if let Some((bucket, _)) = &mut self.limited {
                bucket.charge(length);
            }
            self.push(&piece);
        }
    }

    fn length(&self, piece: &Piece<'_>) -> usize {
        self.full.len() + piece.text.len() + b"\n".len()
    }

    fn push(&mut self, piece: &Piece<'_>) {
        let begin = if piece.full { &self.full } else { &self.part };
        self.bytes.extend_from_slice(begin.as_bytes());
        self.bytes.extend_from_slice(piece.text);
        self.bytes.push(b'\n');
    }
}
