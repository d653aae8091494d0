//! Frames and field blocks as clients send them, and what h2 reads of them.

use super::*;

/// Fields of a request: method POST, a literal of the static table, the authority, a path by an entry of the dynamic table.
const BEGIN: &[u8] = &[0x83, 0x86];
const END: &[u8] = &[0xbe];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    head.write(&mut frame);
    frame.put_slice(payload);
    frame.to_vec()
}

fn preface() -> Vec<u8> {
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
}

/// What h2 reads of `frames`, whether they come at once or byte by byte.
#[track_caller]
fn fed(frames: &[Vec<u8>]) -> Vec<u8> {
    let input = [preface(), frames.concat()].concat();
    let (mut at_once, mut by_byte) = (BytesMut::new(), BytesMut::new());
    Rewriter::new().feed(&input, &mut at_once);
    let mut rewriter = Rewriter::new();
    for byte in &input {
        rewriter.feed(std::slice::from_ref(byte), &mut by_byte);
    }
    assert_eq!(at_once, by_byte);
    at_once.strip_prefix(&*preface()).unwrap().to_vec()
}

/// A block with this representation of an authority.
fn block(authority: &[u8]) -> Vec<u8> {
    [BEGIN, authority, END].concat()
}

#[track_caller]
fn check(authority: &[u8], expected: &[u8]) {
    let request = frame(HEADERS, END_HEADERS, 1, &block(authority));
    let expected = frame(HEADERS, END_HEADERS, 1, &block(expected));
    let data = frame(0, 1, 1, &[7; 40]);
    assert_eq!(fed(&[request, data.clone()]), [expected, data].concat());
}

#[test]
fn every_way_to_say_an_authority_is_rewritten() {
    let path = b"\x11run%2Fcorten.sock";
    for (name, kind) in [
        (&[0x41][..], "indexed"),
        (&[0x01], "plain"),
        (&[0x11], "never indexed"),
    ] {
        eprintln!("{kind}");
        check(&[name, path].concat(), &[name, b"\x01x"].concat());
    }
    for first in [0x40, 0x00, 0x10] {
        check(
            &[&[first], &b"\x0a:authority"[..], path].concat(),
            &[&[first], &b"\x0a:authority\x01x"[..]].concat(),
        );
        let name = &[first, 0x88, 0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
        check(&[name, &path[..]].concat(), &[name, &b"\x01x"[..]].concat());
    }
    // The value by the Huffman code, two bytes of it.
    check(&[0x41, 0x82, 0x12, 0x34], b"\x41\x01x");
}

#[test]
fn other_fields_are_left_alone() {
    // A method, a field of two strings, an entry of the dynamic table, a new size of that table, an empty authority.
    for fields in [
        &b"\x42\x03PUT"[..],
        b"\x40\x01a\x11run%2Fcorten.sock",
        b"\x7f\x05\x01z",
        b"\x3f\xe1\x1f",
        b"\x41\x00",
    ] {
        check(fields, fields);
    }
}

#[test]
fn a_block_without_fields_ends_its_stream() {
    let end = frame(HEADERS, END_HEADERS | 1, 3, &[]);
    assert_eq!(fed(std::slice::from_ref(&end)), end);
}

#[test]
fn a_block_of_several_frames_is_one_frame() {
    let block = block(b"\x41\x05a%2Fb");
    let (head, tail) = block.split_at(4);
    let frames = [
        frame(HEADERS, 1, 3, head),
        frame(CONTINUATION, 0, 3, &[]),
        frame(CONTINUATION, END_HEADERS, 3, tail),
    ];
    let expected = frame(
        HEADERS,
        END_HEADERS | 1,
        3,
        &[BEGIN, b"\x41\x01x", END].concat(),
    );
    assert_eq!(fed(&frames), expected);
}

#[test]
fn a_block_that_is_longer_than_a_frame_stays_so() {
    let long = [&b"\x40\x01a\x7f\x81\x7f"[..], &[b'v'; 16_384]].concat();
    let block = block(&[b"\x41\x05a%2Fb", &long[..]].concat());
    let (head, tail) = block.split_at(MAX_PAYLOAD);
    let frames = [
        frame(HEADERS, 0, 3, head),
        frame(CONTINUATION, END_HEADERS, 3, tail),
    ];
    let expected = [BEGIN, b"\x41\x01x", &long, END].concat();
    let (head, tail) = expected.split_at(MAX_PAYLOAD);
    let expected = [
        frame(HEADERS, 0, 3, head),
        frame(CONTINUATION, END_HEADERS, 3, tail),
    ];
    assert_eq!(fed(&frames), expected.concat());
}

#[test]
fn padding_goes_and_priority_stays() {
    let block = block(b"\x41\x05a%2Fb");
    let payload = [&[2], &[1, 2, 3, 4, 5][..], &block, &[0, 0]].concat();
    let request = frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 5, &payload);
    let expected = [&[1, 2, 3, 4, 5], BEGIN, b"\x41\x01x", END].concat();
    let expected = frame(HEADERS, END_HEADERS | PRIORITY, 5, &expected);
    assert_eq!(fed(&[request]), expected);
}

#[test]
fn what_h2_is_to_refuse_is_passed_on_with_all_that_follows() {
    let good = frame(HEADERS, END_HEADERS, 1, &block(b"\x41\x05a%2Fb"));
    let cut = frame(HEADERS, 0, 1, BEGIN);
    let bad = [
        // Padding that is longer than the frame, and no fields for the priority.
        vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 1])],
        vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[1])],
        // Strings and integers that do not end.
        vec![frame(HEADERS, END_HEADERS, 1, b"\x41\x7f")],
        vec![frame(HEADERS, END_HEADERS, 1, b"\x41\x09a")],
        vec![frame(
            HEADERS,
            END_HEADERS,
            1,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        )],
        // Amid a block: another kind, another stream, another block; and no block.
        vec![cut.clone(), frame(0, 0, 1, &[1])],
        vec![cut.clone(), frame(CONTINUATION, END_HEADERS, 3, &[0x83])],
        vec![cut.clone(), cut.clone()],
        vec![frame(CONTINUATION, END_HEADERS, 1, BEGIN)],
        // Larger than any frame may be.
        vec![frame(0, 0, 1, &[0; MAX_PAYLOAD + 1])],
        vec![frame(HEADERS, END_HEADERS, 1, &[0x83; MAX_PAYLOAD + 1])],
    ];
    for mut frames in bad {
        frames.push(good.clone());
        assert_eq!(fed(&frames), frames.concat());
    }
}

#[test]
fn a_block_without_an_end_is_not_kept() {
    let mut rewriter = Rewriter::new();
    let mut output = BytesMut::new();
    rewriter.feed(&preface(), &mut output);
    rewriter.feed(&frame(HEADERS, 0, 1, &[0x83; 16_000]), &mut output);
    for _ in 0..8 {
        rewriter.feed(&frame(CONTINUATION, 0, 1, &[0x83; 16_000]), &mut output);
        assert!(rewriter.block.len() <= MAX_BLOCK);
    }
    assert_eq!(output.len(), PREFACE + 9 * (16_000 + HEAD));
}
