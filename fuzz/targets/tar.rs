//! Layers: the decoder by their first bytes, archives, names, and what an entry asks for.

#![no_main]

use corten_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::tar(input));
