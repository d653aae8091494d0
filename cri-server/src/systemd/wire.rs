//! D-Bus messages, as far as a client of systemd needs them (D-Bus Specification, "Message Protocol"): calls are written,
//! everything else is read. Always little-endian, as sd-bus writes it here.

use std::io;

/// More than systemd says of anything that we ask for.
const MAX_MESSAGE: usize = 1 << 20;
/// Type, flags, version, two lengths and the serial, and the length of the fields.
pub(super) const HEADER: usize = 16;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const SIGNATURE: u8 = 8;

/// Values, one after the other, each at its alignment.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.align(4).0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.align(8).0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    fn signature(&mut self, text: &str) -> &mut Self {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// An array whose items are aligned as `alignment` says and written by `items`.
    pub(super) fn array(&mut self, alignment: usize, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        items(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }

    /// A structure of a name and a variant: `(sv)`.
    pub(super) fn property(
        &mut self,
        name: &str,
        signature: &str,
        value: impl FnOnce(&mut Self) -> &mut Self,
    ) -> &mut Self {
        self.align(8).string(name).signature(signature);
        value(self);
        self
    }

    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self) -> &mut Self) {
        self.align(8).0.push(code);
        self.signature(signature);
        value(self);
    }
}

/// What is called of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method<'a> {
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Of its arguments.
    pub(super) signature: &'a str,
}

/// A method call with these arguments, ready to be sent.
pub(super) fn call(method: Method<'_>, serial: u32, arguments: &Writer) -> Vec<u8> {
    let mut message = Writer(vec![b'l', 1, 0, 1]);
    message.u32(u32::try_from(arguments.0.len()).unwrap_or(u32::MAX));
    message.u32(serial);
    message.array(8, |fields| {
        fields.field(PATH, "o", |value| value.string(method.path));
        fields.field(INTERFACE, "s", |value| value.string(method.interface));
        fields.field(MEMBER, "s", |value| value.string(method.member));
        fields.field(SIGNATURE, "g", |value| value.signature(method.signature));
    });
    message.align(8);
    message.0.extend_from_slice(&arguments.0);
    message.0
}

/// What systemd says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The answer to the call with this serial: its strings and paths.
    Reply(u32, Vec<String>),
    /// The same, of a call that failed: the error's name, then its text.
    Error(u32, String, String),
    /// A signal's name, and its strings and paths.
    Signal(String, Vec<String>),
}

/// How many bytes follow the first [`HEADER`] ones.
pub(super) fn rest_length(header: &[u8; HEADER]) -> io::Result<usize> {
    if header[0] != b'l' || header[3] != 1 {
        return Err(bad("it is not a little-endian message of version 1"));
    }
    let number = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let (body, fields) = (number(4), number(12));
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(bad("it is too long"));
    }
    Ok(fields.next_multiple_of(8) + body)
}

/// Reads a whole message. None is one that has nothing to say to us.
pub(super) fn read(header: &[u8; HEADER], rest: &[u8]) -> io::Result<Option<Message>> {
    let bytes = [&header[..], rest].concat();
    let mut reader = Reader {
        bytes: &bytes,
        at: HEADER - 4,
    };
    let end = reader.length()? + HEADER;
    let (mut member, mut error, mut serial, mut signature) =
        (String::new(), String::new(), 0, String::new());
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (MEMBER, "s") => member = reader.string()?,
            (ERROR_NAME, "s") => error = reader.string()?,
            (REPLY_SERIAL, "u") => serial = reader.u32()?,
            (SIGNATURE, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            (_, other) => return Err(bad(&format!("it has a header field of type {other:?}"))),
        }
    }
    reader.align(8);
    let mut strings = || reader.strings(&signature);
    Ok(match header[1] {
        2 => Some(Message::Reply(serial, strings()?)),
        3 => {
            let text = strings()?.into_iter().next().unwrap_or_default();
            Some(Message::Error(serial, error, text))
        }
        // Most signals carry what nobody here reads.
        4 if member == "JobRemoved" => Some(Message::Signal(member, strings()?)),
        _ => None,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        self.at += length;
        bytes.ok_or_else(|| bad("it ends too early"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn length(&mut self) -> io::Result<usize> {
        Ok(usize::try_from(self.u32()?).unwrap_or(usize::MAX))
    }

    fn string(&mut self) -> io::Result<String> {
        let length = self.length()?;
        self.text(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()?.into();
        self.text(length)
    }

    /// And the NUL byte behind it.
    fn text(&mut self, length: usize) -> io::Result<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    /// The strings and paths of a body, up to the first value of another type than these and u32.
    fn strings(&mut self, signature: &str) -> io::Result<Vec<String>> {
        let mut strings = Vec::new();
        for kind in signature.chars() {
            match kind {
                's' | 'o' => strings.push(self.string()?),
                'u' => drop(self.u32()?),
                _ => break,
            }
        }
        Ok(strings)
    }
}

fn bad(reason: &str) -> io::Error {
    let text = format!("a message of systemd cannot be read: {reason}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(message: &[u8]) -> ([u8; HEADER], &[u8]) {
        (message[..HEADER].try_into().unwrap(), &message[HEADER..])
    }

    /// A message of this type, with fields and body as they are written.
    fn message(kind: u8, body: &Writer, fields: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.u32(body.0.len().try_into().unwrap()).u32(7);
        message.array(8, fields).align(8);
        message.0.extend_from_slice(&body.0);
        message.0
    }

    fn read_whole(bytes: &[u8]) -> io::Result<Option<Message>> {
        let (header, rest) = split(bytes);
        assert_eq!(rest_length(&header)?, rest.len());
        read(&header, rest)
    }

    #[test]
    fn a_call_is_as_the_specification_has_it() {
        let mut body = Writer::default();
        body.string("a").array(8, |list| {
            list.property("P", "b", |value| value.u32(1));
        });
        let method = Method {
            path: "/o",
            interface: "i",
            member: "m",
            signature: "sa(sv)",
        };
        let bytes = call(method, 5, &body);
        let want: &[u8] = b"l\x01\0\x01\x20\0\0\0\x05\0\0\0\x3c\0\0\0\
            \x01\x01o\0\x02\0\0\0/o\0\0\0\0\0\0\
            \x02\x01s\0\x01\0\0\0i\0\0\0\0\0\0\0\
            \x03\x01s\0\x01\0\0\0m\0\0\0\0\0\0\0\
            \x08\x01g\0\x06sa(sv)\0\0\0\0\0\
            \x01\0\0\0a\0\0\0\x10\0\0\0\0\0\0\0\
            \x01\0\0\0P\0\x01b\0\0\0\0\x01\0\0\0";
        assert_eq!(bytes, want);
    }

    #[test]
    fn answers_and_the_end_of_a_job_are_read() {
        let mut path = Writer::default();
        path.string("/job/1");
        let reply = message(2, &path, |fields| {
            fields.field(REPLY_SERIAL, "u", |value| value.u32(5));
            fields.field(SIGNATURE, "g", |value| value.signature("o"));
        });
        assert_eq!(
            read_whole(&reply).unwrap(),
            Some(Message::Reply(5, vec!["/job/1".into()]))
        );
        let error = message(3, &path, |fields| {
            fields.field(ERROR_NAME, "s", |value| value.string("e.Name"));
            fields.field(REPLY_SERIAL, "u", |value| value.u32(5));
            fields.field(SIGNATURE, "g", |value| value.signature("s"));
        });
        let want = Message::Error(5, "e.Name".into(), "/job/1".into());
        assert_eq!(read_whole(&error).unwrap(), Some(want));
        let mut body = Writer::default();
        body.u32(1)
            .string("/job/1")
            .string("a.scope")
            .string("done");
        let signal = message(4, &body, |fields| {
            fields.field(MEMBER, "s", |value| value.string("JobRemoved"));
            fields.field(SIGNATURE, "g", |value| value.signature("uoss"));
        });
        let words = ["/job/1", "a.scope", "done"].map(String::from);
        let want = Message::Signal("JobRemoved".into(), words.into());
        assert_eq!(read_whole(&signal).unwrap(), Some(want));
        let other = message(4, &body, |fields| {
            fields.field(MEMBER, "s", |value| value.string("UnitNew"));
        });
        assert_eq!(read_whole(&other).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let body = Writer::default();
        let good = message(2, &body, |fields| {
            fields.field(REPLY_SERIAL, "u", |value| value.u32(5));
        });
        for length in 0..good.len() - HEADER {
            let (header, rest) = split(&good);
            assert!(read(&header, &rest[..length]).is_err(), "{length}");
        }
        let mut big_endian = good.clone();
        big_endian[0] = b'B';
        assert!(read_whole(&big_endian).is_err());
        let mut long = good;
        long[7] = 1;
        assert!(rest_length(&split(&long).0).is_err());
    }
}
