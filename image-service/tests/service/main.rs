//! The image service from outside, against a real registry (Debian's `docker-registry`, filled by
//! skopeo) and against one that misbehaves. Needs root: layers hold devices and overlay's marks.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy takes a test's helpers for the product's code"
)]

mod archive;
mod bad;
mod corpus;
mod credentials;
mod fake;
mod hostile;
mod hosts;
mod image;
mod implied;
mod kept;
mod lengths;
mod load;
mod pull;
mod ranges;
mod recovery;
mod redirects;
mod registry;
mod resume;
mod shared;
mod site;
mod spellings;
mod tars;
mod trackers;
mod tree;
mod trust;
mod verify;
