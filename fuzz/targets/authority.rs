//! A client of the CRI socket that sends any bytes: however they are cut, h2 reads the same, and nothing that was rewritten is
//! rewritten again.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "what is included serves the daemon"
)]

#[path = "../../cri-server/src/serve/authority/mod.rs"]
mod authority;

use authority::Rewriter;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn rewritten(input: &[u8], piece: usize) -> BytesMut {
    let mut rewriter = Rewriter::new();
    let mut output = BytesMut::new();
    for piece in input.chunks(piece) {
        rewriter.feed(piece, &mut output);
    }
    output
}

fuzz_target!(|frames: &[u8]| {
    let input = [PREFACE, frames].concat();
    let output = rewritten(&input, usize::MAX);
    assert_eq!(rewritten(&input, 7), output);
    assert_eq!(rewritten(&output, usize::MAX), output);
});
