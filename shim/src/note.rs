//! The shim's own log, on descriptor 2: one line for what nobody else is told.

use std::{
    fmt::Display,
    io::{Write, stderr},
};

/// Writes a line, in one call; a full disk is nobody's concern here.
pub(crate) fn note(text: impl Display) {
    let _ = stderr().write_all(format!("{text}\n").as_bytes());
}
