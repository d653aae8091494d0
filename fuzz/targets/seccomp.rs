//! Seccomp profiles of the node, from their JSON to the filter.
#![no_main]
#![allow(dead_code, reason = "what is included serves the daemon")]

/// Of the daemon's, what the default profile names: it is not made here.
mod capabilities {
    pub const DEFAULT: u64 = 0;
    pub const fn mask(_names: &[&str]) -> u64 {
        0
    }
    pub fn names(_mask: u64) -> Vec<String> {
        vec!["CAP_CHOWN".into()]
    }
}
#[path = "../../cri-server/src/spec/seccomp/mod.rs"]
mod seccomp;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(filter) = seccomp::Cache::default().profile(input, 0) {
        // Whole instructions, as many as the kernel takes.
        let length = filter.program.len();
        assert!(length % 8 == 0 && length <= 4096 * 8);
    }
});
