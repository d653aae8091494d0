//! passwd(5) and group(5) of an image, the name that is looked up first, then the file.
#![no_main]
#![allow(dead_code, reason = "what is included serves the shim")]

#[path = "../../shim/src/container/user/database.rs"]
mod database;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (name, file) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    if let Some(entry) = database::user_by_name(file, name) {
        assert_eq!(entry.name, name);
        assert!(database::user_by_id(file, entry.uid).is_some());
    }
    let _ = database::group_by_name(file, name);
    let _ = database::groups_of(file, name).count();
});
