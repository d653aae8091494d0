//! PAX extended headers: `<length> <key>=<value>\n`, repeated.
//!
//! Our own parser, since values are binary (capabilities may hold a newline) and the tar crate splits
//! at newlines. Rule: POSIX.1-2017, pax, "pax Header Block".

use rustix::fs::Timespec;

use super::Fault;

const XATTR: &[u8] = b"SCHILY.xattr.";
const BROKEN: Fault = Fault::Archive("a PAX header is broken");

/// The records of one entry, in order.
#[derive(Debug, Default)]
pub(super) struct Pax(Vec<(Vec<u8>, Vec<u8>)>);

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or(BROKEN)?;
            let length = decimal(&bytes[..space]).ok_or(BROKEN)?;
            let length = usize::try_from(length).map_err(|_| BROKEN)?;
            let (record, rest) = bytes.split_at_checked(length).ok_or(BROKEN)?;
            bytes = rest;
            let record = record.get(space + 1..).ok_or(BROKEN)?;
            let record = record.strip_suffix(b"\n").ok_or(BROKEN)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        }
        Ok(Self(records))
    }

    /// The last value counts; an empty one means: as if absent.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rfind(|(name, _)| name == key.as_bytes());
        found.map(|(_, value)| &value[..]).filter(|v| !v.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, Fault> {
        self.get(key)
            .map(|value| decimal(value).ok_or(BROKEN))
            .transpose()
    }

    /// Shape: seconds since the epoch, with a sign and a fraction: `-1.25`.
    pub(super) fn time(&self, key: &str) -> Result<Option<Timespec>, Fault> {
        self.get(key)
            .map(|value| time(value).ok_or(BROKEN))
            .transpose()
    }

    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named = self.0.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(XATTR)?;
            Some((name.to_vec(), value.clone()))
        });
        named.collect()
    }

    /// Every value of a key that may come many times.
    pub(super) fn all<'a>(&'a self, keys: &'a [&str]) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(|(name, _)| keys.iter().any(|key| name == key.as_bytes()))
            .map(|(_, value)| &value[..])
    }
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn time(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanos = 0;
    for at in 0..9 {
        let digit = *fraction.get(at).unwrap_or(&b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        nanos = nanos * 10 + i64::from(digit - b'0');
    }
    let (tv_sec, tv_nsec) = match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    };
    Some(Timespec { tv_sec, tv_nsec })
}

/// Builds records for tests, lengths and all.
#[cfg(test)]
pub(super) fn encode(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let length = (rest + 1..)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_survive() {
        let value = &b"\n\x00=y\n"[..];
        let bytes = encode(&[("path", b"a\nb"), ("SCHILY.xattr.user.x", value)]);
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.get("path"), Some(&b"a\nb"[..]));
        assert_eq!(pax.xattrs(), [(b"user.x".to_vec(), b"\n\x00=y\n".to_vec())]);
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_deletes() {
        let bytes = encode(&[("uid", b"10"), ("uid", b"11"), ("gid", b"")]);
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.number("uid").unwrap(), Some(11));
        assert_eq!(pax.number("gid").unwrap(), None);
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"99 a=b\n",
            b"6 a=bb",
            b"5 ab\n",
            b"0 a=b\n",
            b"1 ",
            b"99999999999999999999 a=b\n",
            b"+6 a=b\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let at = |text: &str| time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(at("12"), Some((12, 0)));
        assert_eq!(at("12.5"), Some((12, 500_000_000)));
        assert_eq!(at("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(at("1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(at("1.x"), None);
        assert_eq!(at(""), None);
    }
}
