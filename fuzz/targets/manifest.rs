//! Manifests, indexes and image configs.

#![no_main]

use corten_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::manifest(input));
