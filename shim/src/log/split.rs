//! Splits output into the lines of the CRI's log format: `<time> <stream> <P|F> <text>`.
//!
//! A line ends with a newline and is full (F). One that is longer than the limit is cut into parts (P) of that many bytes and
//! a full rest, which is never empty. Text without newline at the end of the stream is a part. Carriage returns are text.

use std::io::BufRead;

/// The lines of one stream.
#[derive(Debug)]
pub(crate) struct Splitter {
    /// The beginning of a line whose end has not come: at most `limit` bytes.
    rest: Vec<u8>,
    limit: usize,
}

/// What has a line of its own in the log.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) full: bool,
}

impl Splitter {
    /// `limit` is the longest text in bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            rest: Vec::new(),
            limit: limit.max(1),
        }
    }

    /// Gives the pieces that `bytes` completes to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut out: impl FnMut(Piece<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let line = take_line(&mut rest);
            match line.strip_suffix(b"\n") {
                Some(line) if self.rest.is_empty() => self.end(line, &mut out),
                Some(line) => {
                    let mut whole = std::mem::take(&mut self.rest);
                    whole.extend_from_slice(line);
                    self.end(&whole, &mut out);
                }
                None => self.keep(line, &mut out),
            }
        }
    }

    /// The stream has ended.
    pub(crate) fn finish(&mut self, mut out: impl FnMut(Piece<'_>)) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            out(part(&rest));
        }
    }

    fn end(&self, line: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        let (parts, text) = line.split_at(self.parts_of(line));
        parts.chunks(self.limit).map(part).for_each(&mut *out);
        out(Piece { text, full: true });
    }

    fn keep(&mut self, text: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        self.rest.extend_from_slice(text);
        let parts = self.parts_of(&self.rest);
        self.rest[..parts]
            .chunks(self.limit)
            .map(part)
            .for_each(&mut *out);
        self.rest.drain(..parts);
    }

    /// How many bytes of `text` are parts for certain. A newline right after the limit makes a line full, so that the last
    /// bytes are none before one more has come.
    fn parts_of(&self, text: &[u8]) -> usize {
        text.len().saturating_sub(1) / self.limit * self.limit
    }
}

/// Up to the first newline, or all. By memchr(3), a multiple faster than a loop over bytes, and which the standard library has
/// for readers alone; to read from memory does not fail.
fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let all = *rest;
    let length = rest.skip_until(b'\n').unwrap_or_default();
    &all[..length]
}

fn part(text: &[u8]) -> Piece<'_> {
    Piece { text, full: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&str], want: &str) {
        let mut splitter = Splitter::new(4);
        let mut seen = Vec::new();
        let mut out = |piece: Piece<'_>| {
            let mark = if piece.full { "F" } else { "P" };
            seen.push(format!("{mark}{}", String::from_utf8_lossy(piece.text)));
        };
        for chunk in chunks {
            splitter.push(chunk.as_bytes(), &mut out);
        }
        splitter.finish(&mut out);
        assert_eq!(seen.join(" "), want, "{chunks:?}");
    }

    #[test]
    fn lines_and_parts() {
        check(&["ab\n"], "Fab");
        check(&["\n\n"], "F F");
        check(&["ab"], "Pab");
        check(&["ab\ncd"], "Fab Pcd");
        check(&["a", "b\nc", "\n"], "Fab Fc");
        check(&["ab\r\n"], "Fab\r");
        check(&[""], "");
    }

    #[test]
    fn a_line_at_the_limit_is_one_and_full() {
        check(&["abcd\n"], "Fabcd");
        check(&["abcd", "\n"], "Fabcd");
        check(&["abcde\n"], "Pabcd Fe");
        check(&["abcdefgh\n"], "Pabcd Fefgh");
        check(&["abcdefgh", "\n"], "Pabcd Fefgh");
        check(&["abcdefghi"], "Pabcd Pefgh Pi");
    }

    #[test]
    fn how_output_is_cut_into_reads_does_not_show() {
        let text = "a\n\nabcd\nabcde\nabcdefgh\nabcdefghijklm";
        let want = "Fa F Fabcd Pabcd Fe Pabcd Fefgh Pabcd Pefgh Pijkl Pm";
        check(&[text], want);
        for at in 0..text.len() {
            let (first, second) = text.split_at(at);
            check(&[first, second], want);
        }
        let single: Vec<_> = (0..text.len()).map(|at| &text[at..=at]).collect();
        check(&single, want);
    }

    #[test]
    fn what_is_kept_is_no_longer_than_the_limit() {
        let mut splitter = Splitter::new(4);
        for _ in 0..100 {
            splitter.push(b"abcdefg", |_| ());
            assert!(splitter.rest.len() <= 4);
        }
    }
}
