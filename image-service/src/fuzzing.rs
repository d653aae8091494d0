//! Parsers of what strangers send, opened to `fuzz/`. Whatever comes, they end soon, and panic never.

use std::io::{self, BufReader, Read};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::{config, manifest, policy, registry, unpack};

/// More than this inflates to no other kind of trouble. Unit: bytes.
const MAX_LAYER: u64 = 4 << 20;

pub fn tar(input: &[u8]) {
    let mut source = BufReader::new(input);
    let Ok(decoded) = unpack::decode(&mut source) else {
        return;
    };
    let mut archive = unpack::Archive::new(decoded.take(MAX_LAYER));
    while let Ok(Some(member)) = archive.next() {
        // Both say what is wrong, or are right.
        let _ = unpack::change_of(&member);
        let mut buffer = [0; 4096];
        while let Ok(1..) = archive.read(&mut buffer) {}
    }
    let _ = io::copy(&mut archive.into_source(), &mut io::sink());
}

pub fn manifest(input: &[u8]) {
    let digest = Digest::of(input);
    let _ = manifest::parse(&digest, input);
    let _ = config::parse(&digest, input);
}

/// # Panics
/// If a reference is spelled out to another one.
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string());
        assert_eq!(again.ok(), Some(reference), "{text:?}");
    }
}

pub fn hosts(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        registry::fuzzing::hosts(text);
    }
}

pub fn challenge(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        registry::fuzzing::challenge(text);
    }
}

pub fn signature(input: &[u8]) {
    policy::fuzzing::signature(input);
}
