//! Running a process in a container, on a connection of its own: the shim ends what was started on a connection that ends,
//! so that a caller who leaves takes the process along.

use std::path::Path;

use corten_proto::shim::{ExecDone, Exited};
use tokio::task::JoinHandle;

use super::{Client, Command, Error, client::Events};

/// Runs a command in the container whose shim has this state directory, until its first process ends.
pub(crate) async fn exec(state_dir: &Path, command: Command) -> Result<ExecDone, Error> {
    let (client, events) = Client::connect(state_dir).await?;
    let _reader = Reader::spawn(events);
    client.exec(command).await
}

/// Holds the other half of the connection, and drops it.
#[derive(Debug)]
pub(super) struct Reader(JoinHandle<Option<Exited>>);

impl Reader {
    pub(super) fn spawn(events: Events) -> Self {
        Self(tokio::spawn(events.end()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}
