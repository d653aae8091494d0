//! A header block's fields, as Go's reader takes them, by which other runtimes unpack; GNU tar and libarchive agree where they
//! take a field at all.
//!
//! Rule: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"; package archive/tar of Go 1.26.

use std::ops::Range;

use tar::Header;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const MAGIC_AND_VERSION: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star's prefix is shorter, for two times that come behind it.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
/// Fields of times where GNU tar has them.
const ACCESS_TIME: Range<usize> = 345..357;
const CHANGE_TIME: Range<usize> = 357..369;

const SPARSE_FRAGMENTS: Range<usize> = 386..482;
const SPARSE_EXTENDED: usize = 482;
const SPARSE_SIZE: Range<usize> = 483..495;

/// A header block.
pub(super) struct Fields<'a>(&'a [u8; 512]);

impl<'a> Fields<'a> {
    pub(super) fn of(header: &'a Header) -> Self {
        Self(header.as_bytes())
    }

    /// Old tars summed signed bytes.
    pub(super) fn has_valid_checksum(&self) -> bool {
        let Some(want) = octal(&self.0[CHECKSUM]) else {
            return false;
        };
        let bytes = self.0.iter().enumerate();
        let bytes = bytes.map(|(at, byte)| match CHECKSUM.contains(&at) {
            true => b' ',
            false => *byte,
        });
        let unsigned: i64 = bytes.clone().map(i64::from).sum();
        let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
        want == unsigned || want == signed
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[KIND]
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        match self.prefix() {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    /// What stands before the name. Whatever says `ustar` has it, of whichever version; GNU's headers have times in its place,
    /// but for those of early Go, which had both in mind.
    fn prefix(&self) -> &'a [u8] {
        match &self.0[MAGIC] {
            b"ustar\0" if self.0[STAR_TRAILER] == *b"tar\0" => text(&self.0[STAR_PREFIX]),
            b"ustar\0" => text(&self.0[PREFIX]),
            _ if self.is_gnu() => {
                let is_time = |field: Range<usize>| {
                    self.0[field.start] == 0 || numeric(&self.0[field]).is_some()
                };
                let prefix = text(&self.0[PREFIX]);
                match is_time(ACCESS_TIME) && is_time(CHANGE_TIME) || !prefix.is_ascii() {
                    true => b"",
                    false => prefix,
                }
            }
            _ => b"",
        }
    }

    /// `None` where it is empty.
    pub(super) fn link(&self) -> Option<Vec<u8>> {
        let link = text(&self.0[LINK]);
        (!link.is_empty()).then(|| link.to_vec())
    }

    pub(super) fn mode(&self) -> Option<i64> {
        numeric(&self.0[MODE])
    }

    pub(super) fn uid(&self) -> Option<i64> {
        numeric(&self.0[UID])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        numeric(&self.0[GID])
    }

    pub(super) fn size(&self) -> Option<i64> {
        numeric(&self.0[SIZE])
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        numeric(&self.0[MTIME])
    }

    /// Fields of GNU's old form for sparse files: four fragments, whether more follow in blocks of their own, and the
    /// file's size.
    pub(super) fn gnu_sparse(&self) -> Option<(&'a [u8], bool, &'a [u8])> {
        let fields = (
            &self.0[SPARSE_FRAGMENTS],
            self.0[SPARSE_EXTENDED] != 0,
            &self.0[SPARSE_SIZE],
        );
        self.is_gnu().then_some(fields)
    }

    fn is_gnu(&self) -> bool {
        self.0[MAGIC_AND_VERSION] == *b"ustar  \0"
    }

    pub(super) fn major(&self) -> Option<i64> {
        numeric(&self.0[MAJOR])
    }

    pub(super) fn minor(&self) -> Option<i64> {
        numeric(&self.0[MINOR])
    }
}

/// Up to the first NUL, if there is one.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Number in octal digits, or in binary where the first bit is set: two's complement of as many bytes as the field has.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let inverted = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut number: u64 = 0;
    for (at, byte) in field.iter().enumerate() {
        let byte = byte ^ inverted;
        let byte = if at == 0 { byte & 0x7f } else { byte };
        if number >> 56 != 0 {
            return None;
        }
        number = number << 8 | u64::from(byte);
    }
    let number = i64::try_from(number).ok()?;
    Some(if inverted == 0 { number } else { !number })
}

/// Spaces and NULs around the digits count for nothing; a field without digits is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let is_filler = |byte: &u8| matches!(byte, 0 | b' ');
    let Some(start) = field.iter().position(|byte| !is_filler(byte)) else {
        return Some(0);
    };
    let digits = text(&field[start..]);
    let end = digits.iter().rposition(|byte| !is_filler(byte));
    let digits = std::str::from_utf8(&digits[..=end?]).ok()?;
    // A sign is no digit.
    let is_octal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    is_octal.then(|| i64::from_str_radix(digits, 8).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: &[u8], want: Option<i64>) {
        assert_eq!(numeric(field), want, "{}", field.escape_ascii());
    }

    #[test]
    fn numbers_come_in_many_spellings() {
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0 644\0\0", Some(0o644));
        check(b"00000000644", Some(0o644));
        check(b"644\0junk", Some(0o644));
        check(b"", None);
        check(b"        ", Some(0));
        check(&[0; 8], Some(0));
        check(b"77777777", Some(0o77_777_777));
        check(b"0000648\0", None);
        check(b"-000001\0", None);
        check(b"+000001\0", None);
        check(b"6 44\0", None);
        check(&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256));
        check(&[0xff; 12], Some(-1));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfb], Some(-5));
        check(
            &[
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            Some(i64::MAX),
        );
        check(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], None);
        check(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None);
        check(&[0xbf; 12], None);
    }

    fn header(edit: impl FnOnce(&mut [u8; 512])) -> Header {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        bytes[..4].copy_from_slice(b"name");
        edit(bytes);
        header
    }

    #[track_caller]
    fn check_name(edit: impl FnOnce(&mut [u8; 512]), want: &str) {
        let header = header(edit);
        let name = Fields::of(&header).name();
        assert_eq!(String::from_utf8(name).unwrap(), want);
    }

    fn magic(bytes: &mut [u8; 512], magic: &[u8; 8]) {
        bytes[257..265].copy_from_slice(magic);
        bytes[345..348].copy_from_slice(b"pre");
    }

    #[test]
    fn a_prefix_stands_where_its_format_has_one() {
        check_name(|bytes| magic(bytes, b"ustar\x0000"), "pre/name");
        check_name(|bytes| magic(bytes, b"ustar\0\0\0"), "pre/name");
        check_name(|bytes| magic(bytes, b"ustar\0  "), "pre/name");
        check_name(|bytes| magic(bytes, &[0; 8]), "name");
        check_name(|bytes| magic(bytes, b"ustar   "), "name");
        let star = |bytes: &mut [u8; 512]| {
            magic(bytes, b"ustar\x0000");
            bytes[345..476].fill(b'p');
            bytes[476..488].copy_from_slice(b"00000000001 ");
            bytes[508..512].copy_from_slice(b"tar\0");
        };
        check_name(star, &format!("{}/name", "p".repeat(131)));
        let times = |bytes: &mut [u8; 512]| {
            magic(bytes, b"ustar  \0");
            bytes[345..369].copy_from_slice(b"00000000001\x0000000000002\0");
        };
        check_name(times, "name");
        check_name(|bytes| magic(bytes, b"ustar  \0"), "pre/name");
    }

    #[test]
    fn checksums_are_signed_or_not_and_spelled_in_any_way() {
        let name = |bytes: &mut [u8; 512]| bytes[..2].copy_from_slice(b"\xe9\xff");
        let sums = |bytes: &[u8; 512]| {
            let rest = bytes
                .iter()
                .enumerate()
                .filter(|(at, _)| !CHECKSUM.contains(at));
            let unsigned: i64 = rest.clone().map(|(_, byte)| i64::from(*byte)).sum();
            let signed: i64 = rest.map(|(_, byte)| i64::from(byte.cast_signed())).sum();
            [unsigned + 256, signed + 256]
        };
        for sum in sums(header(name).as_bytes()) {
            for text in [
                format!("{sum:06o}\0 "),
                format!("{sum:06o} \0"),
                format!("{sum:07o}\0"),
                format!("{sum:08o}"),
                format!("{sum:>6o}\0 "),
                format!("\0\0{sum:06o}"),
            ] {
                let good = header(|bytes| {
                    name(bytes);
                    bytes[CHECKSUM].copy_from_slice(text.as_bytes());
                });
                assert!(Fields::of(&good).has_valid_checksum(), "{text:?}");
            }
            let bad = header(|bytes| {
                name(bytes);
                bytes[CHECKSUM].copy_from_slice(format!("{:06o}\0 ", sum + 1).as_bytes());
            });
            assert!(!Fields::of(&bad).has_valid_checksum());
        }
    }
}
