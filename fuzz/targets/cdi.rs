//! Specs of the Container Device Interface, as JSON and as YAML.
#![no_main]
#![allow(dead_code, reason = "what is included serves the daemon")]

#[path = "../../cri-server/src/cdi/document.rs"]
mod document;
#[path = "../../cri-server/src/cdi/name.rs"]
mod name;
#[path = "../../cri-server/src/cdi/scalar.rs"]
mod scalar;
#[path = "../../cri-server/src/cdi/version.rs"]
mod version;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for is_yaml in [false, true] {
        let _ = document::parse(input, is_yaml);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = name::is_qualified(text);
    }
});
