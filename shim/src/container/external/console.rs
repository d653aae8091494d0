//! The socket over which a runtime hands a terminal's master to its caller (`--console-socket`).

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
};

use corten_sys::socket;
use rustix::process::chdir;

use super::{super::terminal, runtime::Runtime};
use crate::failure::{Doing, Result, invalid};

/// It lies in the bundle, where the runtime runs, so that its name there is short.
#[derive(Debug)]
pub(super) struct Console {
    listener: UnixListener,
    name: String,
    path: PathBuf,
}

impl Console {
    /// For the call of this name.
    pub(super) fn listen(runtime: &Runtime, call: &str) -> Result<Self> {
        let name = format!("{call}.sock");
        chdir(runtime.bundle()).doing("enter", "the bundle")?;
        let listener = UnixListener::bind(&name).doing("bind", &name);
        chdir("/").doing("enter", "/")?;
        Ok(Self {
            listener: listener?,
            path: runtime.bundle().join(&name),
            name,
        })
    }

    /// As the runtime is told of it.
    pub(super) fn option(&self) -> [Vec<u8>; 2] {
        ["--console-socket", &self.name].map(Into::into)
    }

    /// Takes the master, which the runtime has sent before its end.
    pub(super) fn accept(self) -> Result<OwnedFd> {
        let take = || -> io::Result<Vec<OwnedFd>> {
            self.listener.set_nonblocking(true)?;
            let (stream, _) = self.listener.accept()?;
            let mut fds = Vec::new();
            socket::receive(&stream, &mut [0; 4096], &mut fds)?;
            Ok(fds)
        };
        let what = "the terminal of the runtime";
        let none = || invalid("receive", what, "it sent none");
        let master = take().doing("receive", what)?.pop();
        // The runtime has opened what was there in the container.
        terminal::checked(master.ok_or_else(none)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
