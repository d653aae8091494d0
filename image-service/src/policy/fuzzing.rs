//! Parsers of this folder, opened to [`crate::fuzzing`].

use super::{search, signature};

pub(crate) fn signature(input: &[u8]) {
    let _ = search::parse(input);
    let _ = signature::parse(input);
}
