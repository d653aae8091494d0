//! A field block (RFC 7541, section 6), copied with another authority.
//!
//! The block is only walked: neither Huffman codes nor the dynamic table are looked into. Both ends' tables stay in step,
//! since the new value is the shortest there is: what the client's encoder takes for an entry, h2's decoder has not evicted,
//! and entries are counted from the newest.

use super::Malformed;

/// The authority that h2 sees: a host of one letter, coded as it is.
const AUTHORITY: &[u8] = &[1, b'x'];
/// Index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;
/// The name where a client spells it out: as it is, and by the Huffman code (RFC 7541, appendix B).
const AUTHORITY_NAMES: [&[u8]; 2] = [
    b"\x0a:authority",
    &[0x88, 0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f],
];
/// Most bytes of an integer after its prefix: more than h2 takes, and no overflow.
const MAX_INTEGER: usize = 4;

/// Copies `block` with each authority replaced.
pub(super) fn rewrite(block: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut copied = Vec::with_capacity(block.len());
    let mut rest = block;
    while let Some(first) = rest.first() {
        let begin = rest;
        // The first bits say what comes (RFC 7541, sections 6.1 to 6.3).
        let (prefix, is_literal) = match first {
            0b1000_0000.. => (7, false),
            0b0100_0000.. => (6, true),
            0b0010_0000.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut rest, prefix)?;
        let mut is_authority = index == AUTHORITY_INDEX;
        if is_literal && index == 0 {
            is_authority = AUTHORITY_NAMES.contains(&string(&mut rest)?);
        }
        copied.extend_from_slice(&begin[..begin.len() - rest.len()]);
        if is_literal {
            let value = string(&mut rest)?;
            // An empty one is as short as it can be.
            let replaced = is_authority && value.len() > 1;
            copied.extend_from_slice(if replaced { AUTHORITY } else { value });
        }
    }
    Ok(copied)
}

/// Takes an integer (RFC 7541, section 5.1) whose first byte has it in its lower `prefix` bits.
fn integer(rest: &mut &[u8], prefix: u8) -> Result<usize, Malformed> {
    let (first, mut after) = rest.split_first().ok_or(Malformed)?;
    let mask = (1_u8 << prefix) - 1;
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        for place in 0.. {
            let (byte, left) = after.split_first().ok_or(Malformed)?;
            if place == MAX_INTEGER {
                return Err(Malformed);
            }
            after = left;
            value += usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = after;
    Ok(value)
}

/// Takes a string with its length (RFC 7541, section 5.2), and returns both as they are.
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let mut after = *rest;
    let length = integer(&mut after, 7)?;
    let head = rest.len() - after.len();
    let (string, left) = rest.split_at_checked(head + length).ok_or(Malformed)?;
    *rest = left;
    Ok(string)
}
