//! Files and directories for root alone, whatever the umask is (umask(2)).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Mode of every file here.
pub const FILE: u32 = 0o600;
/// Mode of every directory here.
pub const DIRECTORY: u32 = 0o700;

/// Makes or empties a file, and opens it for writing. One that is there already is closed to others.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let file = options.mode(FILE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE))?;
    Ok(file)
}

/// Makes a file with this content, or gives it to the one that is there.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    create(path)?.write_all(content.as_ref())
}

/// Makes a directory.
///
/// # Errors
/// AlreadyExists, too.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)
}

/// Makes a directory where there is none. Those above it that are missing have the usual mode.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY).create(path)
}

/// Makes a directory as [`create_dir_all`] does. One that is there already is closed to others.
pub fn close_dir_all(path: &Path) -> io::Result<()> {
    create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_closed_and_what_is_above_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (above, below) = (dir.path().join("a"), dir.path().join("a/b"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        create_dir_all(&below).unwrap();
        assert_eq!(mode(&below), DIRECTORY);
        assert_ne!(mode(&above), DIRECTORY);
        fs::set_permissions(&below, Permissions::from_mode(0o755)).unwrap();
        create_dir_all(&below).unwrap();
        assert_eq!(mode(&below), 0o755);
        close_dir_all(&below).unwrap();
        assert_eq!(mode(&below), DIRECTORY);
        assert!(create_dir(&below).is_err());
        let file = below.join("file");
        fs::write(&file, "longer").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        write(&file, "new").unwrap();
        assert_eq!(
            (mode(&file), &*fs::read(&file).unwrap()),
            (FILE, &b"new"[..])
        );
    }
}
