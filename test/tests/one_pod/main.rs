//! What the processes of one pod do to stop the node: whatever they own or make, other pods start, run and go.
#![allow(clippy::unwrap_used, reason = "tests")]

mod files;
mod fuse;
mod processes;
mod site;
mod template;
mod terminals;
