//! Thin, safe wrappers of kernel interfaces that nix and rustix lack: the only crate with unsafe code.
//!
//! What belongs here: one system call or one kernel file format, with the errors as the kernel gives them. What a container
//! is, is said elsewhere.

pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod command_line;
pub mod keyring;
mod making;
pub mod memory;
pub mod mount;
pub mod ns;
pub mod open;
pub mod prctl;
pub mod private;
pub mod process;
pub mod root;
pub mod seccomp;
pub mod sibling;
pub mod socket;
pub mod syscall;
pub mod terminal;
pub mod thread;
