//! Image references: what is parsed is spelled out to what parses the same.

#![no_main]

use corten_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::reference(input));
