//! Sparse files: where the stored bytes belong in the file.
//!
//! Three forms exist: GNU's old header, and GNU's two families of PAX records (0.x in records, 1.0 at
//! the start of the data). Rule: GNU tar manual, "Storing Sparse Files".

use std::io::Read;

use super::Fault;
use super::header::{Fields, numeric};
use super::pax::{Pax, decimal};

/// A fragment a block is the worst that tar writes; this is 4 GiB of it.
const MAX_FRAGMENTS: usize = 1 << 20;
const BLOCK: usize = 512;
/// Offset and length, as numbers in a header are written. Unit: bytes.
const FRAGMENT: usize = 24;
const BROKEN: Fault = Fault::Archive("a sparse file's map is broken");

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) real_size: u64,
    /// Offset and length, ascending, apart from each other.
    pub(super) fragments: Vec<(u64, u64)>,
}

impl Map {
    fn new(real_size: u64, fragments: Vec<(u64, u64)>, stored: u64) -> Result<Self, Fault> {
        let mut end = 0;
        let mut sum = 0u64;
        for (offset, length) in &fragments {
            if *offset < end {
                return Err(BROKEN);
            }
            end = offset.checked_add(*length).ok_or(BROKEN)?;
            sum = sum.checked_add(*length).ok_or(BROKEN)?;
        }
        if end > real_size || sum != stored {
            return Err(BROKEN);
        }
        Ok(Self {
            real_size,
            fragments,
        })
    }
}

/// The old form: four fragments in the header, more in blocks that follow it.
pub(super) fn from_gnu(
    fields: &Fields<'_>,
    stored: u64,
    reader: &mut impl Read,
) -> Result<Map, Fault> {
    let number = |field: &[u8]| numeric(field).and_then(|number| u64::try_from(number).ok());
    let (entries, is_extended, real_size) = fields.gnu_sparse().ok_or(BROKEN)?;
    let real_size = number(real_size).ok_or(BROKEN)?;
    let mut fragments = Vec::new();
    let mut add = |entries: &[u8]| {
        let (entries, _) = entries.as_chunks::<FRAGMENT>();
        for entry in entries.iter().take_while(|entry| entry[0] != 0) {
            let (offset, length) = entry.split_at(FRAGMENT / 2);
            fragments.push((number(offset).ok_or(BROKEN)?, number(length).ok_or(BROKEN)?));
        }
        if fragments.len() > MAX_FRAGMENTS {
            return Err(BROKEN);
        }
        Ok(())
    };
    add(entries)?;
    let mut more = is_extended;
    while more {
        let mut block = [0; BLOCK];
        reader.read_exact(&mut block).map_err(Fault::Stream)?;
        add(&block[..21 * FRAGMENT])?;
        more = block[21 * FRAGMENT] != 0;
    }
    Map::new(real_size, fragments, stored)
}

/// The PAX forms. Form 1.0 takes its map off `reader`; the bytes taken come off `stored`.
pub(super) fn from_pax(
    pax: &Pax,
    stored: &mut u64,
    reader: &mut impl Read,
) -> Result<Option<Map>, Fault> {
    if pax.get("GNU.sparse.major") == Some(b"1") {
        let real_size = pax.number("GNU.sparse.realsize")?.ok_or(BROKEN)?;
        let fragments = leading_map(stored, reader)?;
        return Map::new(real_size, fragments, *stored).map(Some);
    }
    let Some(real_size) = pax.number("GNU.sparse.size")? else {
        return Ok(None);
    };
    let numbers: Option<Vec<u64>> = match pax.get("GNU.sparse.map") {
        Some(map) => map.split(|byte| *byte == b',').map(decimal).collect(),
        None => pax
            .all(&["GNU.sparse.offset", "GNU.sparse.numbytes"])
            .map(decimal)
            .collect(),
    };
    Map::new(real_size, pairs(&numbers.ok_or(BROKEN)?)?, *stored).map(Some)
}

fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, Fault> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > MAX_FRAGMENTS {
        return Err(BROKEN);
    }
    Ok(pairs
        .iter()
        .map(|[offset, length]| (*offset, *length))
        .collect())
}

/// Decimal lines, the number of fragments first, in whole blocks.
fn leading_map(stored: &mut u64, reader: &mut impl Read) -> Result<Vec<(u64, u64)>, Fault> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut line = Vec::new();
    loop {
        let mut block = [0; BLOCK];
        *stored = stored.checked_sub(BLOCK as u64).ok_or(BROKEN)?;
        reader.read_exact(&mut block).map_err(Fault::Stream)?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            numbers.push(decimal(&line).ok_or(BROKEN)?);
            line.clear();
            let wanted = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
            if wanted > MAX_FRAGMENTS {
                return Err(BROKEN);
            }
            if numbers.len() == 1 + 2 * wanted {
                return pairs(&numbers[1..]);
            }
        }
        if line.len() > BLOCK {
            return Err(BROKEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::pax::encode;

    fn records(list: &[(&str, &[u8])]) -> Pax {
        Pax::parse(&encode(list)).unwrap()
    }

    #[test]
    fn the_newest_form_begins_with_its_map() {
        let pax = records(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"100000"),
        ]);
        let mut data = b"2\n0\n10\n4096\n5\n".to_vec();
        data.resize(512, 0);
        let mut stored = 512 + 15;
        let map = from_pax(&pax, &mut stored, &mut &data[..])
            .unwrap()
            .unwrap();
        assert_eq!(stored, 15);
        assert_eq!(map.real_size, 100_000);
        assert_eq!(map.fragments, [(0, 10), (4096, 5)]);
    }

    #[test]
    fn older_forms_hold_it_in_records() {
        let map = records(&[("GNU.sparse.size", b"50"), ("GNU.sparse.map", b"0,1,10,2")]);
        let map = from_pax(&map, &mut 3, &mut &b""[..]).unwrap().unwrap();
        assert_eq!(map.fragments, [(0, 1), (10, 2)]);
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for (fragments, stored) in [
            (vec![(10, 5), (0, 1)], 6),
            (vec![(0, 5), (4, 1)], 6),
            (vec![(0, 5)], 6),
            (vec![(98, 5)], 5),
            (vec![(u64::MAX, 5)], 5),
        ] {
            assert!(Map::new(100, fragments, stored).is_err());
        }
    }
}
