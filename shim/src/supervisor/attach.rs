//! Clients at the container's own streams.

use std::os::fd::{AsFd, OwnedFd};

use corten_proto::shim::Attach;
use corten_sys::socket;

use super::{Supervisor, descriptors::Descriptors};
use crate::failure::{Doing, Result, phase};

impl Supervisor {
    /// Shows the output to whom `connection` is from now on, and gives what it can write to.
    pub(super) fn attach(
        &mut self,
        connection: u64,
        request: &Attach,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut fds = Descriptors::of("attach", fds);
        let socket = fds.take(request.stdin)?;
        let (stdout, stderr) = (fds.take(request.stdout)?, fds.take(request.stderr)?);
        let Some(output) = &mut self.output else {
            return Err(phase("attach", self.stage.reason()));
        };
        if let Some(socket) = socket {
            let terminal = output.terminal().doing("duplicate", "the terminal")?;
            let input = match terminal {
                Some(terminal) => Some(terminal),
                None => self.input.give().doing("duplicate", "stdin")?,
            };
            let is_there = [u8::from(input.is_some())];
            socket::send(&socket, &is_there, input.as_ref().map(AsFd::as_fd))
                .doing("send", "stdin")?;
        }
        output.attachments.add(connection, stdout, stderr)
    }

    pub(super) fn detach(&mut self, connection: u64) {
        if let Some(output) = &mut self.output {
            output.attachments.remove(connection);
        }
    }
}
