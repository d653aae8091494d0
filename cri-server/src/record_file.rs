//! One record a file: written aside and renamed, so that a reader sees the old one or the new one, and never synced, since
//! a reboot ends what it tells of.
//!
//! Layout: 8 bytes of magic with the format's number, 32 bytes SHA-256 of the rest, the rest a protobuf message.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use corten_sys::private;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::{At, Error, Result};

const MAGIC: &[u8; 8] = b"corten01";
const HEADER: usize = 40;
/// The CRI's requests are at most 16 MiB.
const MAX_BYTES: u64 = 32 << 20;

/// Writes `message` to `path`, whose directory is there.
pub(crate) fn write(path: &Path, message: &impl Message) -> Result<()> {
    let body = message.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend_from_slice(&body);
    let aside = path.with_extension("new");
    let mut file = private::create(&aside).at("create", &aside)?;
    file.write_all(&bytes).at("write", &aside)?;
    fs::rename(&aside, path).at("rename to", path)
}

/// Reads the record at `path`.
///
/// # Errors
/// [`Error::Record`] for content that is not a whole record of a format that this daemon knows.
pub(crate) fn read<M: Message + Default>(path: &Path) -> Result<M> {
    let broken = |reason: String| Error::Record {
        path: path.display().to_string(),
        reason,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .at("open", path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(broken(format!("larger than {MAX_BYTES} bytes")));
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(broken(format!(
            "{} bytes are too few for a record",
            bytes.len()
        )));
    };
    let (magic, checksum) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(broken("not a record, or of a newer corten".into()));
    }
    if checksum != Sha256::digest(body).as_slice() {
        return Err(broken("the checksum is wrong".into()));
    }
    M::decode(body).map_err(|error| broken(error.to_string()))
}

/// Removes the record; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use corten_proto::record::Operation;

    use super::*;

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write(
            &path,
            &Operation {
                name: "RunPodSandbox".into(),
                ..Operation::default()
            },
        )
        .unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, path) = written();
        assert_eq!(read::<Operation>(&path).unwrap().name, "RunPodSandbox");
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (_dir, path) = written();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(
            read::<Operation>(&path)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
    }

    #[test]
    fn an_empty_file_is_not_a_record() {
        let (_dir, path) = written();
        fs::write(&path, b"").unwrap();
        assert!(matches!(
            read::<Operation>(&path),
            Err(Error::Record { .. })
        ));
    }

    #[test]
    fn another_format_is_refused() {
        let (_dir, path) = written();
        let mut bytes = fs::read(&path).unwrap();
        bytes[7] = b'9';
        fs::write(&path, bytes).unwrap();
        assert!(
            read::<Operation>(&path)
                .unwrap_err()
                .to_string()
                .contains("newer")
        );
    }
}
