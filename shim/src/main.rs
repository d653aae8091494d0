//! `corten-shim`: one process for each container. It makes the container, keeps its log, runs further processes in it,
//! ends it, and records its end. It outlives the daemon, and ends with the container.
//!
//! One thread, no async runtime, no JSON.
#![forbid(unsafe_code)]

mod connection;
mod container;
mod exit;
mod failure;
mod log;
mod note;
mod output;
mod pod;
mod poll;
mod supervisor;

use std::{io, path::Path, process::ExitCode};

use corten_sys::{prctl, socket};

use crate::{note::note, supervisor::Supervisor};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = match *args {
        ["container", _id] => supervise(),
        ["pod", pin] => socket::take_fd(0).and_then(|template| pod::run(&template, Path::new(pin))),
        _ => Err(io::Error::other(
            "this is corten's own: it is started as `corten-shim container ID` or `corten-shim pod PIN`",
        )),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("corten-shim: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> io::Result<()> {
    let listener = socket::take_fd(0)?;
    prctl::set_undumpable()?;
    nix::unistd::setsid().or_else(|errno| {
        if errno == nix::errno::Errno::EPERM {
            Ok(nix::unistd::getpid())
        } else {
            Err(errno)
        }
    })?;
    // The daemon's signals are not ours: it is told to end by its socket.
    corten_sys::process::ignore_terminal_signals();
    Supervisor::new(listener)?.run()
}
