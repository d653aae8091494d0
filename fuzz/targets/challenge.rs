//! `WWW-Authenticate` headers, and the token server's address in them.

#![no_main]

use corten_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::challenge(input));
