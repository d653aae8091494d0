//! Decodes gzip files from memory, each three times, and prints the best rate of output in MB/s.

#![forbid(unsafe_code)]

use std::time::Instant;
use std::{env, fs};

#[cfg(any(feature = "zlib-rs", feature = "zlib-ng"))]
fn decode(packed: &[u8]) -> u64 {
    drain(flate2::bufread::MultiGzDecoder::new(packed))
}

#[cfg(feature = "isal")]
fn decode(packed: &[u8]) -> u64 {
    drain(isal::read::Decoder::new(packed, isal::Codec::Gzip))
}

/// Needs all of the output in memory at once.
#[cfg(feature = "libdeflate")]
fn decode(packed: &[u8]) -> u64 {
    let last: [u8; 4] = packed[packed.len() - 4..].try_into().unwrap();
    let mut out = vec![0; u32::from_le_bytes(last) as usize];
    let mut decoder = libdeflater::Decompressor::new();
    decoder.gzip_decompress(packed, &mut out).unwrap() as u64
}

#[cfg(not(feature = "libdeflate"))]
fn drain(mut decoder: impl std::io::Read) -> u64 {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match decoder.read(&mut buffer).unwrap() {
            0 => return total,
            read => total += read as u64,
        }
    }
}

fn main() {
    for file in env::args().skip(1) {
        let packed = fs::read(&file).unwrap();
        let mut best = 0.0_f64;
        let mut size = 0;
        for _ in 0..3 {
            let began = Instant::now();
            size = decode(&packed);
            best = best.max(size as f64 / 1e6 / began.elapsed().as_secs_f64());
        }
        println!(
            "{best:.0} MB/s of {:.0} MB from {:.0} MB",
            size as f64 / 1e6,
            packed.len() as f64 / 1e6
        );
    }
}
