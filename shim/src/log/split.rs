//! Splits output into the lines of the CRI's log format: `<time> <stream> <P|F> <text>`.
//!
//! A line ends with a newline and is full (F). One that is longer than the limit is cut into parts (P) of that many bytes and
//! a full rest. Text without newline at the end of the stream is a part. Carriage returns are text.

/// The lines of one stream.
#[derive(Debug)]
pub(crate) struct Splitter {
    /// The beginning of a line whose end has not come.
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
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut out: impl FnMut(Piece<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.rest.is_empty() {
                self.line(line, &mut out);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole, &mut out);
            }
        }
        self.rest.extend_from_slice(bytes);
        // One byte over the limit shows that the line is longer; a newline right after the limit makes it full.
        while self.rest.len() > self.limit {
            out(Piece {
                text: &self.rest[..self.limit],
                full: false,
            });
            self.rest.drain(..self.limit);
        }
    }

    fn line(&self, mut line: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        while line.len() > self.limit {
            let (part, rest) = line.split_at(self.limit);
            out(Piece {
                text: part,
                full: false,
            });
            line = rest;
        }
        out(Piece {
            text: line,
            full: true,
        });
    }

    /// The stream has ended.
    pub(crate) fn finish(&mut self, mut out: impl FnMut(Piece<'_>)) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            out(Piece {
                text: &rest,
                full: false,
            });
        }
    }
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
}
