//! The shim as the daemon sees it: the built binary, driven over its socket, with containers made from busybox.
//!
//! Needs root and a static busybox; says so and skips where they are missing.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod ends;
mod execs;
mod logs;
mod pods;
mod protocol;
mod site;
mod strangers;
