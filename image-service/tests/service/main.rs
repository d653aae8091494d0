//! The image service from outside, against a real registry (Debian's `docker-registry`, filled by
//! skopeo) and against one that misbehaves. Needs root: layers hold devices and overlay's marks.

mod archive;
mod bad;
mod fake;
mod hostile;
mod hosts;
mod image;
mod load;
mod pull;
mod recovery;
mod registry;
mod site;
mod tree;
