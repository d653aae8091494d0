//! The record of the container's end, for a daemon that may not be there to be told.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use corten_proto::{layout, shim::Exited};
use corten_sys::private;
use prost::Message;

/// Writes the exit file aside and renames it.
pub(crate) fn write(state_dir: &Path, exited: &Exited) -> io::Result<()> {
    let path = state_dir.join(layout::EXIT);
    let aside = path.with_extension("new");
    private::write(&aside, exited.encode_to_vec())?;
    fs::rename(aside, path)
}

/// Nanoseconds of Unix time.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
