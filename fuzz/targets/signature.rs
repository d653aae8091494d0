//! The payload of a signature, and its manifest.

#![no_main]

use corten_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::signature(input));
