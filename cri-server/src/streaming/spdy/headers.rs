//! Header blocks: names and values, compressed with a dictionary that both sides know.
//!
//! Source: SPDY protocol, draft 3.1, section 2.6.10 ("Name/Value Header Block").

use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::frame::Violation;

/// The longest block, once it is unpacked, bytes.
const MAX_BLOCK: usize = 16 << 10;
const MAX_PAIRS: usize = 64;

/// Words that header blocks often have, each behind its length.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// And what follows them, without lengths.
const TEXT: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025\
    04505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
    Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul \
    Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
    charset=iso-8859-1,utf-,*,enq=0.";
const DICTIONARY_LENGTH: usize = 1423;

pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(DICTIONARY_LENGTH);
    for word in WORDS {
        dictionary.put_u32(u32::try_from(word.len()).unwrap_or_default());
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(TEXT.as_bytes());
    dictionary
});

/// The headers of a stream; names are in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::streaming) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of that name.
    pub(in crate::streaming) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }
}

/// Unpacks the blocks of a session, all of which are one compressed stream.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Violation> {
        let mut plain = Vec::with_capacity(MAX_BLOCK + 1);
        let mut rest = block;
        while !rest.is_empty() {
            let before = self.0.total_in();
            let result = self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken.min(rest.len())..];
            match result {
                Ok(Status::StreamEnd) => return Err(Violation::Headers("their stream ends")),
                Ok(_) if plain.len() <= MAX_BLOCK => {}
                Ok(_) => return Err(Violation::Headers("they are too long")),
                Err(error) if error.needs_dictionary().is_some() => {
                    let dictionary = self.0.set_dictionary(&DICTIONARY);
                    dictionary.map_err(|_other| Violation::Headers("of another dictionary"))?;
                }
                Err(_) => return Err(Violation::Headers("they are not zlib's")),
            }
        }
        parse(&plain)
    }
}

/// A count, then each name and each value behind its length.
fn parse(mut plain: &[u8]) -> Result<Headers, Violation> {
    let count = number(&mut plain)?;
    if count > MAX_PAIRS {
        return Err(Violation::Headers("they are too many"));
    }
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, value) = (text(&mut plain)?.to_lowercase(), text(&mut plain)?);
        if name.is_empty() || pairs.iter().any(|(known, _)| *known == name) {
            return Err(Violation::Headers("a name is empty or there twice"));
        }
        pairs.push((name, value.to_owned()));
    }
    match plain {
        [] => Ok(Headers(pairs)),
        _ => Err(Violation::Headers("there is more than they say")),
    }
}

fn number(plain: &mut &[u8]) -> Result<usize, Violation> {
    let short = Violation::Headers("they end too early");
    let number = plain.try_get_u32().map_err(|_short| short)?;
    usize::try_from(number).map_err(|_large| short)
}

fn text<'a>(plain: &mut &'a [u8]) -> Result<&'a str, Violation> {
    let length = number(plain)?;
    let Some((text, rest)) = plain.split_at_checked(length) else {
        return Err(Violation::Headers("they end too early"));
    };
    *plain = rest;
    str::from_utf8(text).map_err(|_other| Violation::Headers("they are not UTF-8"))
}

/// A block without headers, the only one that a server of these protocols sends: stored blocks of deflate (RFC 1951, section
/// 3.2.4), which need no compressor and its memory. The second is empty: readers give on the first when it comes. The
/// session's first has zlib's head (RFC 1950, section 2.2).
pub(super) fn empty_block(is_first: bool) -> &'static [u8] {
    const WHOLE: &[u8] = &[
        0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, // head, and the dictionary's checksum
        0x00, 0x04, 0x00, 0xfb, 0xff, 0, 0, 0, 0, // no pairs
        0x00, 0x00, 0x00, 0xff, 0xff,
    ];
    if is_first { WHOLE } else { &WHOLE[6..] }
}
