//! `corten`: the daemon that serves the CRI, and its command line.
#![forbid(unsafe_code)]

mod admin;
mod apparmor;
mod blocking;
mod cdi;
mod cli;
mod clock;
mod config;
mod container;
mod context;
mod error;
mod identity;
mod limit;
mod log;
mod network;
mod operation;
mod pod;
mod record_file;
mod recovery;
mod rpc;
mod selinux;
mod serve;
mod shim;
mod spec;
mod stats;
mod store;
mod streaming;
mod systemd;

fn main() -> std::process::ExitCode {
    cli::run()
}
