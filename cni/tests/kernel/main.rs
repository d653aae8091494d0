//! Networks on the kernel, with real packets. Every test has a host of its own: a network and a mount namespace.
//!
//! Needs root, and iproute2 and nftables to look from outside; some need the reference plugins.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, which panics where it fails"
)]

mod bridge;
mod gone;
mod host;
mod life;
mod port;
mod program;
mod version;
