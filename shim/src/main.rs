//! `corten-shim`: one process for each container. It makes the container, keeps its log, runs further processes in it,
//! ends it, and records its end. It outlives the daemon, and ends with the container.
//!
//! One thread, no async runtime, no JSON.
#![forbid(unsafe_code)]

mod attachments;
mod connection;
mod container;
mod exit;
mod failure;
mod input;
mod log;
mod note;
mod output;
mod pin;
mod pod;
mod poll;
mod probe;
mod supervisor;
mod userns;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use corten_sys::{memory, prctl, process, socket};
use nix::{
    errno::Errno,
    sys::stat::{Mode, umask},
    unistd::setsid,
};

use crate::{note::note, supervisor::Supervisor};

/// The exit code after a bug of ours.
const BUG: i32 = 70;

fn main() -> ExitCode {
    // Neither an unwinding nor an abort, whose raise(3) goes wrong in a child that libc does not know of.
    std::panic::set_hook(Box::new(|panic| {
        note(panic);
        process::exit_now(BUG)
    }));
    // The daemon keeps its own to itself; one of an earlier version may not, and whoever started that one had some, too.
    if let Err(error) = process::close_inherited() {
        note(format_args!(
            "corten-shim: close what was inherited: {error}"
        ));
        return ExitCode::FAILURE;
    }
    memory::keep_little();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = args.iter().map(|arg| arg.to_str()).collect();
    let ended = match (words.as_slice(), args.as_slice()) {
        ([Some("--version")], _) => writeln!(
            io::stdout(),
            concat!("corten-shim ", env!("CARGO_PKG_VERSION"))
        ),
        // The id is for those who look at the process table.
        ([Some("container"), Some(_id)], _) => supervise(),
        ([Some("pod"), _], [_, pin]) => {
            socket::take_fd(0).and_then(|socket| pod::run(&socket, Path::new(pin)))
        }
        // The path is for those who look at the process table, and for whoever has to end it.
        ([Some("pin"), _], _) => pin::run(),
        ([Some("probe"), _], [_, dir]) => probe::run(Path::new(dir)),
        _ => Err(io::Error::other(
            "this is corten's own: it is started as `corten-shim container ID`, `corten-shim pod PIN`, \
             `corten-shim pin PATH` or `corten-shim probe DIRECTORY`",
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

/// Descriptor 0 is the listening socket.
fn supervise() -> io::Result<()> {
    let listener = socket::take_fd(0)?;
    prctl::set_undumpable()?;
    // Started by descriptor, it would have the descriptor's number for a name.
    prctl::set_name(c"corten-shim")?;
    match setsid() {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    // The log's mode is 0640 and its directory's 0755, whatever the daemon's umask is; the child sets its own.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    // The daemon's signals are not ours: it is told to end by its socket.
    process::ignore_terminal_signals();
    Supervisor::new(listener)?.run()
}
