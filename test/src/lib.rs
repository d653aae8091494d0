//! Black-box tests of the built binaries: a node of its own for each test, an image, a client, and a count of what is left.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod churn;
pub mod file_registry;
pub mod flood;
pub mod handler;
pub mod image;
pub mod leftovers;
pub mod log;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod registry;
pub mod streams;
pub mod terminal;
mod token_server;
pub mod tree;
pub mod vm;
pub mod wait;
pub mod write_log;

use std::{
    env,
    path::{Path, PathBuf},
};

/// Where the scripts and the data of the repository are, if not where it was built.
const REPOSITORY: &str = "CORTEN_REPOSITORY";

/// The repository that the tests belong to; in a virtual machine what of it is there.
#[must_use]
pub fn repository() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    env::var_os(REPOSITORY).map_or_else(built, PathBuf::from)
}
