//! `cargo xtask`: the project's own tasks. The tree's rules are this crate's tests.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tidy;

fn main() {}
