//! gzip, without its checksums: SHA-256 over both sides of it says more, and CRC-32 would be a tenth of inflating.
//!
//! Rule: RFC 1952, "Member format". Members follow each other; what follows the last and is no member is not read.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const DEFLATE: u8 = 8;
const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;
/// Unit: bytes of a name or comment, of which nobody needs one.
const MAX_TEXT: u64 = 64 << 10;
/// CRC-32 and size.
const TRAILER: usize = 8;

pub(super) struct Gzip<R> {
    source: R,
    inflate: Decompress,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    First,
    Inside,
    Between,
    Ended,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            inflate: Decompress::new(false),
            state: State::First,
        }
    }

    fn begin_member(&mut self) -> io::Result<()> {
        let [m1, m2, method, flags, ..] = self.array::<10>()?;
        if [m1, m2] != MAGIC || method != DEFLATE || flags & RESERVED != 0 {
            return Err(broken("the gzip header is broken"));
        }
        if flags & EXTRA != 0 {
            let length = u64::from(u16::from_le_bytes(self.array()?));
            io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                self.skip_text()?;
            }
        }
        if flags & HEADER_CRC != 0 {
            self.array::<2>()?;
        }
        self.inflate.reset(false);
        self.state = State::Inside;
        Ok(())
    }

    fn skip_text(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        let mut limited = self.source.by_ref().take(MAX_TEXT);
        limited.read_until(0, &mut text)?;
        match text.last() {
            Some(0) => Ok(()),
            _ => Err(broken("a text of the gzip header does not end")),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn next_member(&mut self) -> io::Result<()> {
        // A member's magic may be cut by the buffer's end; then more of it comes with the next read.
        if self.source.fill_buf()?.first() == Some(&MAGIC[0]) {
            return self.begin_member();
        }
        self.state = State::Ended;
        Ok(())
    }

    /// 0 where the member is over, or needs more room or input than there is.
    fn inflate(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = self.source.fill_buf()?;
        let is_end = input.is_empty();
        let (taken, given) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, buffer, FlushDecompress::None)
            .map_err(|_| broken("the gzip stream is broken"))?;
        let taken = length(self.inflate.total_in() - taken);
        let given = length(self.inflate.total_out() - given);
        self.source.consume(taken);
        if status == Status::StreamEnd {
            self.array::<TRAILER>()?;
            self.state = State::Between;
        } else if is_end && given == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(given)
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::Ended => return Ok(0),
                State::First => self.begin_member()?,
                State::Between => self.next_member()?,
                State::Inside => match self.inflate(buffer)? {
                    0 => {}
                    given => return Ok(given),
                },
            }
        }
    }
}

/// Of a buffer, so that it fits.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};

    use flate2::{Compression, GzBuilder};

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let builder = GzBuilder::new()
            .extra(vec![7; 300])
            .filename("name")
            .comment("comment");
        let mut packed = builder.write(Vec::new(), Compression::fast());
        packed.write_all(content).unwrap();
        packed.finish().unwrap()
    }

    /// With an input buffer of any size.
    fn read(packed: &[u8], room: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Gzip::new(BufReader::with_capacity(room, packed)).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn members_follow_each_other() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut packed = member(&content);
        packed.extend(member(b""));
        packed.extend(member(b"end"));
        let whole = [&content[..], b"end"].concat();
        for room in [1, 7, 512, 1 << 20] {
            assert!(read(&packed, room).unwrap() == whole, "{room}");
        }
        packed.extend([0; 100]);
        assert!(read(&packed, 512).unwrap() == whole);
    }

    #[test]
    fn what_is_cut_or_broken_is_an_error() {
        let packed = member(&[5; 100_000]);
        for end in 0..packed.len() {
            let cut = read(&packed[..end], 64);
            assert!(cut.is_err(), "{end} of {} bytes are enough", packed.len());
        }
        let mut flagged = packed.clone();
        flagged[3] |= 0x80;
        assert!(read(&flagged, 64).is_err());
        let mut endless = packed[..3].to_vec();
        endless.extend([NAME, 0, 0, 0, 0, 0, 0]);
        endless.resize(1 << 20, b'x');
        assert!(read(&endless, 64).is_err());
    }
}
