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
    unistd::{chdir, fchdir, pivot_root},
};
pub use rustix::mount::{FsMountFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{
        fsconfig_create, fsconfig_reconfigure, fsconfig_set_fd, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use crate::{ns, thread};

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

/// A read-only copy of one file, in a mount namespace where nothing else is.
#[derive(Debug)]
pub struct Sealed {
    /// Open as a place.
    pub file: OwnedFd,
    /// Keeps the mount attached.
    _namespace: OwnedFd,
}

/// A read-only, nosuid, nodev copy of the mount of the file `path`.
///
/// A process that runs the copy leads others to it, by /proc/<pid>/exe. Of a detached mount they could change the
/// attributes with CAP_SYS_ADMIN in their own mount namespace (mount_setattr(2)); of one that is attached in another
/// namespace nobody there can.
pub fn seal(path: &Path) -> io::Result<Sealed> {
    let copy = clone_tree(path, false)?;
    set_attributes(
        copy.as_fd(),
        ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV,
        0,
        false,
    )?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let namespace = namespace("sealed", || {
        let place = File::create(name)?;
        attach(copy.as_fd(), place.as_fd())
    })?;
    Ok(Sealed {
        file: copy,
        _namespace: namespace,
    })
}

/// A mount namespace with one mount: a small tmpfs with the empty directory [`TEMPLATE_ROOT`]. A copy of it costs the same
/// however many mounts the host has.
///
/// All copies have the same file system, so nothing can be changed in it.
pub fn template() -> io::Result<OwnedFd> {
    namespace("template", || {
        std::fs::create_dir(TEMPLATE_ROOT.trim_start_matches('/'))
    })
}

/// A mount namespace with a small tmpfs for its root, and what `fill` makes in the working directory, which is that root.
/// The file system is read-only afterwards, not its mount alone.
fn namespace(name: &str, fill: impl FnOnce() -> io::Result<()> + Send) -> io::Result<OwnedFd> {
    thread::disposable(name, || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let namespace = File::open("/proc/thread-self/ns/mnt")?;
        let context = open_filesystem("tmpfs")?;
        let options = [("size", Some("64k")), ("mode", Some("755"))];
        let tmpfs = make_filesystem(context.as_fd(), &options, 0)?;
        let place = File::open("/proc")?;
        attach(tmpfs.as_fd(), place.as_fd())?;
        chdir("/proc")?;
        fill()?;
        set_attributes(tmpfs.as_fd(), ATTR_RDONLY, 0, false)?;
        set_option(context.as_fd(), "ro", Value::Flag)?;
        fsconfig_reconfigure(context.as_fd())?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        Ok(OwnedFd::from(namespace))
    })?
}

/// Leaves the mounts of this process for an empty root of its own: a file system that no other process has, in a mount
/// namespace that no other process is in. `template` is a [`template`], `options` are of the new tmpfs.
///
/// For a process that others may look into, by /proc/<pid>/root: the template's root is everybody's.
pub fn enter_empty_root(
    template: BorrowedFd<'_>,
    options: &[(&str, Option<&str>)],
) -> io::Result<()> {
    ns::enter(template, CloneFlags::CLONE_NEWNS)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let empty = [
        ("ro", None),
        ("size", Some("4k")),
        ("nr_inodes", Some("1")),
        ("mode", Some("555")),
    ];
    let options = [&empty[..], options].concat();
    let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let root = new_filesystem("tmpfs", &options, attributes)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = openat(CWD, TEMPLATE_ROOT, flags, Mode::empty())?;
    attach(root.as_fd(), place.as_fd())?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs `attack` on a thread with a mount namespace of its own, as in a container whose root has every capability.
    fn apart<T: Send>(attack: impl FnOnce() -> T + Send) -> T {
        let own = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            attack()
        };
        thread::disposable("apart", own).unwrap()
    }

    fn by_descriptor(fd: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    #[test]
    fn a_sealed_file_is_changed_from_no_other_mount_namespace() {
        let file = std::env::temp_dir().join(format!("corten-sealed-{}", std::process::id()));
        std::fs::write(&file, "text").unwrap();
        let sealed = seal(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let path = by_descriptor(&sealed.file);
        let writable = libc::mount_attr {
            attr_set: 0,
            attr_clr: ATTR_RDONLY,
            propagation: 0,
            userns_fd: 0,
        };
        let errno = |error: io::Error| error.raw_os_error();
        apart(|| {
            let changed = mount_setattr(sealed.file.as_fd(), &writable, false);
            assert_eq!(changed.map_err(errno), Err(Some(libc::EINVAL)));
            let copied = clone_tree_at(sealed.file.as_fd(), false).map(drop);
            assert_eq!(copied.map_err(errno), Err(Some(libc::EINVAL)));
            let mode = std::fs::Permissions::from_mode(0o000);
            let closed = std::fs::set_permissions(&path, mode);
            assert_eq!(closed.map_err(errno), Err(Some(libc::EROFS)));
        });
        assert_eq!(std::fs::read_to_string(path).unwrap(), "text");
    }

    #[test]
    fn nothing_changes_in_a_template_or_in_an_empty_root() {
        let template = template().unwrap();
        let errno = |error: io::Error| error.raw_os_error();
        let try_all = |root: &str| {
            let below = |name: &str| format!("{root}{name}");
            let tries = [
                std::fs::create_dir(below("new")),
                std::fs::remove_dir(below("root")),
                std::fs::rename(below("root"), below("moved")),
                std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o777)),
            ];
            for tried in tries {
                let refused = tried.map_err(errno).unwrap_err();
                let allowed = [Some(libc::EROFS), Some(libc::ENOENT)];
                assert!(allowed.contains(&refused), "{root}: {refused:?}");
            }
        };
        apart(|| {
            ns::enter(template.as_fd(), CloneFlags::CLONE_NEWNS).unwrap();
            // One who may change the mount is kept by the file system.
            let none: Option<&str> = None;
            let writable = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(none, "/", none, writable, none).unwrap();
            try_all("/");
        });
        apart(|| {
            enter_empty_root(template.as_fd(), &[]).unwrap();
            assert_eq!(std::fs::read_dir("/").unwrap().count(), 0);
            try_all("/");
            umount2("/", MntFlags::MNT_DETACH).unwrap();
        });
        // The template has all that it had.
        apart(|| {
            ns::enter(template.as_fd(), CloneFlags::CLONE_NEWNS).unwrap();
            assert!(Path::new(TEMPLATE_ROOT).is_dir());
        });
    }
}
