//! The mount interface since Linux 5.2, with what rustix lacks, and the mount namespaces that Corten works with.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root},
};
pub use rustix::mount::{FsMountFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::{
    fs::CWD,
    mount::{
        fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
        move_mount, open_tree,
    },
};

use crate::thread;

/// include/uapi/linux/mount.h, since 5.12.
pub const ATTR_RDONLY: u64 = 0x1;
pub const ATTR_NOSUID: u64 = 0x2;
pub const ATTR_NODEV: u64 = 0x4;
pub const ATTR_NOEXEC: u64 = 0x8;
const ATTR_IDMAP: u64 = 0x10_0000;

/// Where a container's root is attached in the [`template`].
pub const TEMPLATE_ROOT: &str = "/root";

/// Changes attributes and propagation of a mount, of all below it where `recursive` (mount_setattr(2)).
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    mount_setattr(mount, &attr, recursive)
}

/// Makes a detached mount show its files' ids as `user_namespace` maps them, submounts left alone (mount_setattr(2),
/// MOUNT_ATTR_IDMAP).
///
/// # Errors
/// EINVAL where the file system cannot, or the mount is attached; EPERM where it is mapped already.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
    };
    mount_setattr(mount, &attr, false)
}

fn mount_setattr(
    mount: BorrowedFd<'_>,
    attr: &libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and `attr` is a whole mount_attr whose size is given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A detached copy of the mount at `path`, with what is mounted below it where `recursive`. A symlink is followed.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

/// As [`clone_tree`], of what a descriptor is open on.
pub fn clone_tree_at(file: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(file, "", flags)?)
}

/// Attaches a detached mount on what `target` is open on.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// The value of a file system's option.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Flag,
    Text(&'a str),
    File(BorrowedFd<'a>),
}

/// A new detached file system. `options` without a value are flags.
///
/// # Errors
/// As [`new_filesystem_of`].
pub fn new_filesystem(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    make_filesystem(open_filesystem(kind)?.as_fd(), options, attributes)
}

/// A new detached file system, also from what is open.
///
/// # Errors
/// With the kernel's own words (fsopen(2), "message retrieval") where it has any.
pub fn new_filesystem_of(
    kind: &str,
    options: &[(&str, Value<'_>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    make(open_filesystem(kind)?.as_fd(), options, attributes)
}

/// A file system to be made (fsopen(2)).
pub fn open_filesystem(kind: &str) -> io::Result<OwnedFd> {
    Ok(fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)?)
}

/// Sets an option of what [`open_filesystem`] has opened.
///
/// # Errors
/// EINVAL for one that the file system does not know.
pub fn set_option(fs: BorrowedFd<'_>, key: &str, value: Value<'_>) -> io::Result<()> {
    match value {
        Value::Text(text) => fsconfig_set_string(fs, key, text)?,
        Value::File(file) => fsconfig_set_fd(fs, key, file)?,
        Value::Flag => fsconfig_set_flag(fs, key)?,
    }
    Ok(())
}

/// Makes what [`open_filesystem`] has opened, detached.
///
/// # Errors
/// As [`new_filesystem_of`].
pub fn make_filesystem(
    fs: BorrowedFd<'_>,
    options: &[(&str, Option<&str>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let value = |value: Option<_>| value.map_or(Value::Flag, Value::Text);
    let options: Vec<_> = options
        .iter()
        .map(|(key, text)| (*key, value(*text)))
        .collect();
    make(fs, &options, attributes)
}

fn make(fs: BorrowedFd<'_>, options: &[(&str, Value<'_>)], attributes: u64) -> io::Result<OwnedFd> {
    configure(fs, options, attributes).map_err(|error| {
        let words = kernel_words(fs);
        if words.is_empty() {
            error
        } else {
            io::Error::new(error.kind(), format!("{error}: {words}"))
        }
    })
}

fn configure(
    fs: BorrowedFd<'_>,
    options: &[(&str, Value<'_>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    for (key, value) in options {
        set_option(fs, key, *value)?;
    }
    fsconfig_create(fs)?;
    let attributes = u32::try_from(attributes).unwrap_or_default();
    Ok(fsmount(
        fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes),
    )?)
}

/// The messages that a file system context holds, one line each, as in "e overlay: ...".
fn kernel_words(fs: BorrowedFd<'_>) -> String {
    let mut words = Vec::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(fs, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        words.push(text.trim_start_matches("e ").trim().to_owned());
    }
    words.join("; ")
}

/// A detached, read-only, nosuid, nodev copy of the one file `path`: nobody who finds it can write to it.
pub fn detached_readonly(path: &Path) -> io::Result<OwnedFd> {
    let copy = clone_tree(path, false)?;
    set_attributes(
        copy.as_fd(),
        ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV,
        0,
        false,
    )?;
    Ok(copy)
}

/// A mount namespace with one mount: a small tmpfs with the empty directory [`TEMPLATE_ROOT`]. A copy of it costs the same
/// however many mounts the host has.
pub fn template() -> io::Result<OwnedFd> {
    thread::disposable("template", || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let namespace = File::open("/proc/thread-self/ns/mnt")?;
        let tmpfs = new_filesystem("tmpfs", &[("size", Some("64k")), ("mode", Some("755"))], 0)?;
        let place = File::open("/proc")?;
        attach(tmpfs.as_fd(), place.as_fd())?;
        chdir("/proc")?;
        std::fs::create_dir(TEMPLATE_ROOT.trim_start_matches('/'))?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        Ok(OwnedFd::from(namespace))
    })?
}
