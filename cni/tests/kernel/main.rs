//! Networks on the kernel, with real packets. Every test has a host of its own: a network and a mount namespace.

mod bridge;
mod host;
mod port;
mod program;
