//! What a layer's archive holds besides its files' bytes, so that the archive can be made again from
//! the unpacked layer, byte for byte: its digest then says whether the layer is as it was pulled.
//!
//! ```text
//! <root>/tar-split/<layer>    zstd( MAGIC, segments... )
//! ```
//!
//! A segment is a tag and its fields, numbers little-endian:
//!
//! ```text
//! 1 raw         length u32, bytes                                        headers, padding, the end
//! 2 file        path, fragments u32, (offset u64, length u64)..., crc32  bytes that lie in a file
//! 3 superseded  path                                                     what a later entry took away
//! 4 end
//! ```
//!
//! A path is its length as u16 and its bytes. The CRC, of all fragments together, names the file that
//! changed; the digest of the whole archive is what counts.

mod capture;

mod rebuild;

pub(crate) use capture::Capture;
pub(crate) use rebuild::{Event, Rebuilt};

const MAGIC: &[u8; 8] = b"cortents";
const RAW: u8 = 1;
const FILE: u8 = 2;
const SUPERSEDED: u8 = 3;
const END: u8 = 4;
/// Unit: bytes. A longer stretch takes several segments.
const MAX_RAW: usize = 64 << 10;
