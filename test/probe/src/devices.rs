//! What is in /dev, and which devices open: by the nodes that are there, and by nodes of one's own making.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    libc,
    sys::stat::{Mode, SFlag, major, makedev, minor, mknod},
};

use crate::report::{Report, outcome};

/// Deeper than /dev/snd or /dev/disk/by-id is.
const DEPTH: u32 = 3;
/// Major and minor numbers (Documentation/admin-guide/devices.txt), whose opening changes nothing. A `true` is a block
/// device.
const OPENED: [(&str, bool, u64, u64); 14] = [
    ("mem", false, 1, 1),
    ("null", false, 1, 3),
    ("zero", false, 1, 5),
    ("full", false, 1, 7),
    ("random", false, 1, 8),
    ("urandom", false, 1, 9),
    ("kmsg", false, 1, 11),
    ("tty", false, 5, 0),
    ("console", false, 5, 1),
    ("ptmx", false, 5, 2),
    ("loop-control", false, 10, 237),
    ("tun", false, 10, 200),
    ("fuse", false, 10, 229),
    ("loop0", true, 7, 0),
];
/// Where a node is made: in /dev it can be opened, if the file system is the runtime's.
const PLACE: &str = "/dev/made-by-the-probe";

pub(crate) fn all(report: &mut Report) {
    list(report, Path::new("/dev"), DEPTH);
    for (name, is_block, major, minor) in OPENED {
        let kind = if is_block {
            SFlag::S_IFBLK
        } else {
            SFlag::S_IFCHR
        };
        let letter = if is_block { 'b' } else { 'c' };
        let key = format!("device.{letter}{major}:{minor}.{name}");
        let node = mknod(
            PLACE,
            kind,
            Mode::S_IRUSR | Mode::S_IWUSR,
            makedev(major, minor),
        );
        report.add(
            format!("{key}.mknod"),
            outcome(node.map_err(io::Error::from)),
        );
        if node.is_err() {
            continue;
        }
        report.add(format!("{key}.read"), outcome(open(PLACE, true, false)));
        report.add(format!("{key}.write"), outcome(open(PLACE, false, true)));
        let _ = fs::remove_file(PLACE);
    }
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "fuse", "mine",
    ] {
        let path = format!("/dev/{name}");
        report.add(
            format!("open.{path}.read"),
            outcome(open(&path, true, false)),
        );
        report.add(
            format!("open.{path}.write"),
            outcome(open(&path, false, true)),
        );
    }
}

fn open(path: &str, read: bool, write: bool) -> io::Result<fs::File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new()
        .read(read)
        .write(write)
        .custom_flags(flags)
        .open(path)
}

fn list(report: &mut Report, directory: &Path, depth: u32) {
    let Ok(entries) = fs::read_dir(directory) else {
        return report.add(format!("dev.{}", directory.display()), "unreadable");
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = meta.file_type();
        let number = || format!("{}:{}", major(meta.rdev()), minor(meta.rdev()));
        let what = if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_default();
            format!("link to {}", target.display())
        } else if kind.is_char_device() {
            format!("c {}", number())
        } else if kind.is_block_device() {
            format!("b {}", number())
        } else if kind.is_dir() {
            "directory".to_owned()
        } else {
            "file".to_owned()
        };
        let owner = format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
        report.add(format!("dev.{}", path.display()), format!("{what} {owner}"));
        if kind.is_dir() && depth > 1 {
            list(report, &path, depth - 1);
        }
    }
}
