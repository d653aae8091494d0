//! Running a process in a container, on a connection of its own: the shim kills what was started on a connection that ends,
//! so that a caller who leaves takes the process along.

use std::{path::Path, time::Duration};

use corten_proto::shim::{ExecDone, Exited};
use tokio::task::JoinHandle;

use super::{Client, Error, ExecIo};

/// Runs `args` in the container whose shim has this state directory, until their first process ends.
pub(crate) async fn exec(
    state_dir: &Path,
    args: Vec<Vec<u8>>,
    io: ExecIo,
    limit: Duration,
) -> Result<ExecDone, Error> {
    let (client, events) = Client::connect(state_dir).await?;
    let _reader = Reader(tokio::spawn(events.end()));
    client.exec(args, io, limit).await
}

/// Holds the other half of the connection, and drops it.
struct Reader(JoinHandle<Option<Exited>>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}
