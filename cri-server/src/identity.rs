//! Who is who: ids of objects, of this installation, of this boot.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use corten_proto::id::Id;
use corten_sys::private;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{At, Error, Result};

/// A new id of a pod or a container.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    // 32 bytes are never given in part (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| Error::Io {
        doing: "get random bytes".into(),
        source: errno.into(),
    })?;
    Ok(Id::from_bytes(bytes).to_string())
}

/// The id of this installation, 8 hexadecimal digits, made once under `root`. It marks all that lies outside of root
/// and state: network namespaces, cgroups, links, nftables.
pub(crate) fn instance(root: &Path) -> Result<String> {
    let path = root.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) if is_instance(text.trim()) => Ok(text.trim().to_owned()),
        Ok(text) => Err(Error::Record {
            path: path.display().to_string(),
            reason: format!(
                "{text:?} is not an instance id; restore the file, or remove everything below root"
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = random_id()?[..8].to_owned();
            keep(&path, root, &id)?;
            Ok(id)
        }
        Err(error) => Err(error).at("read", &path),
    }
}

/// All or nothing of it outlives a power cut: without it the daemon does not start.
fn keep(path: &Path, root: &Path, id: &str) -> Result<()> {
    let aside = root.join("instance.new");
    let mut file = private::create(&aside).at("create", &aside)?;
    writeln!(file, "{id}").at("write", &aside)?;
    file.sync_all().at("fsync", &aside)?;
    fs::rename(&aside, path).at("rename to instance", &aside)?;
    let root_dir = File::open(root).at("open", root)?;
    root_dir.sync_all().at("fsync", root)
}

fn is_instance(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The id of this boot (proc_sys_kernel(5), random/boot_id).
pub(crate) fn boot() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).at("read", path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            instance(root.path()).unwrap(),
            instance(root.path()).unwrap()
        );
    }

    #[test]
    fn another_text_is_not_an_instance_id() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("instance"), "../../etc").unwrap();
        assert!(instance(root.path()).is_err());
    }
}
