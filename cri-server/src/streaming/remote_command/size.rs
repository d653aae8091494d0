//! Sizes of a terminal, as a client sends them: one JSON object after the other, cut anywhere.

use bytes::{Buf, BytesMut};
use rustix::termios::Winsize;
use serde::Deserialize;

use super::Input;

/// An object is a tenth of it, bytes.
const MAX_OBJECT: usize = 512;

#[derive(Debug)]
pub(in crate::streaming) struct Sizes {
    input: Input,
    unread: BytesMut,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl Sizes {
    pub(super) fn new(input: Input) -> Self {
        Self {
            input,
            unread: BytesMut::new(),
        }
    }

    /// Waits for the next size. `None`: there will be no more, or nothing that can be understood.
    pub(in crate::streaming) async fn next(&mut self) -> Option<Winsize> {
        loop {
            match take(&mut self.unread) {
                Ok(Some(size)) => return Some(size),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client has sent a terminal's size that is none");
                    return None;
                }
            }
            // What is left is the beginning of one, or nonsense.
            if self.unread.len() > MAX_OBJECT {
                return None;
            }
            let data = self.input.receive().await.ok()??;
            self.unread.extend_from_slice(&data);
        }
    }
}

/// The first object in `unread`, if it is there as a whole.
fn take(unread: &mut BytesMut) -> serde_json::Result<Option<Winsize>> {
    let mut sizes = serde_json::Deserializer::from_slice(unread).into_iter::<Size>();
    let size = match sizes.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(size) => size?,
    };
    let taken = sizes.byte_offset();
    unread.advance(taken);
    Ok(Some(Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_may_be_cut_anywhere() {
        let text = br#"{"Width":80,"Height":24}{"Width":100,"Height":50}"#;
        let (first, second) = text.split_at(30);
        let mut unread = BytesMut::from(first);
        let size = take(&mut unread).unwrap().unwrap();
        assert_eq!((size.ws_col, size.ws_row), (80, 24));
        assert!(take(&mut unread).unwrap().is_none());
        unread.extend_from_slice(second);
        let size = take(&mut unread).unwrap().unwrap();
        assert_eq!((size.ws_col, size.ws_row), (100, 50));
        assert!(take(&mut unread).unwrap().is_none());
        assert!(take(&mut BytesMut::from(&b"[]"[..])).is_err());
        assert!(take(&mut BytesMut::from(&br#"{"Width":-1,"Height":2}"#[..])).is_err());
    }
}
