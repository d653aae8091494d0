//! Options of mounts, one a line: what is accepted is a bind mount, a tmpfs, or neither, and never more than was asked.
#![no_main]
#![allow(dead_code, reason = "what is included serves the daemon")]

#[path = "../../cri-server/src/spec/mounts/options.rs"]
mod options;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let asked: Vec<String> = text.lines().map(str::to_owned).collect();
    let Ok(parsed) = options::MountOptions::parse(&asked) else {
        return;
    };
    if let Ok(tmpfs) = parsed.tmpfs() {
        for option in tmpfs.options.split(',').filter(|option| !option.is_empty()) {
            assert!(asked.iter().any(|asked| asked == option), "{option:?} of {asked:?}");
        }
    }
    let _ = parsed.bind("/source");
});
