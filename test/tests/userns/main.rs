//! Pods with user namespaces (hostUsers: false): what is root inside is nobody of importance outside.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod mounts;
mod older_kernel;
mod owners;
mod pods;
mod privileged;
mod refusals;
mod site;
