//! The root: the image's layers below, the container's own directory above (overlayfs.rst).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use corten_proto::shim::Rootfs;
use corten_sys::mount;
use nix::{
    libc,
    mount::{MsFlags, mount as mount_by_name},
    sched::{CloneFlags, unshare},
    unistd::{chdir, fchdir},
};

use crate::failure::{Doing, Result};

/// `volatile`: no sync calls, since nothing of a container outlives a crash of its host. `index=off`: layers may be used by
/// several containers at once.
const FLAGS: [(&str, Option<&str>); 2] = [("volatile", None), ("index", Some("off"))];

/// The detached overlay.
pub(super) fn open(rootfs: &Rootfs) -> Result<OwnedFd> {
    if rootfs.lower.is_empty() {
        return mount::clone_tree(Path::new(&rootfs.upper), false)
            .doing("open_tree", &rootfs.upper);
    }
    match by_options(rootfs) {
        // Before Linux 6.5 layers cannot be given one by one, and a value of fsconfig has at most 255 bytes.
        Err(error)
            if error
                .raw_os_error()
                .is_none_or(|errno| errno == libc::EINVAL) =>
        {
            let first = error.to_string();
            by_name(rootfs).map_err(|error| io::Error::other(format!("{error}; at first: {first}")))
        }
        result => result,
    }
    .doing(
        "mount overlay",
        format!("upper {}, {} layers", rootfs.upper, rootfs.lower.len()),
    )
}

fn by_options(rootfs: &Rootfs) -> io::Result<OwnedFd> {
    let layers = rootfs
        .lower
        .iter()
        .map(|lower| ("lowerdir+", Some(lower.as_str())));
    let own = [
        ("source", Some("overlay")),
        ("upperdir", Some(rootfs.upper.as_str())),
        ("workdir", Some(rootfs.work.as_str())),
    ];
    let options: Vec<_> = own.into_iter().chain(layers).chain(FLAGS).collect();
    mount::new_filesystem("overlay", &options, 0)
}

/// By mount(2), which needs a place: the upper directory itself, in a mount namespace of our own. Its options are a page
/// at most, so layers go by the shortest names there are: as descriptors, seen from where proc lists these.
fn by_name(rootfs: &Rootfs) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount_by_name(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let lower = rootfs.lower.iter().map(|path| open_directory(path));
    let lower: Vec<File> = lower.collect::<io::Result<_>>()?;
    let names = lower.iter().map(|layer| layer.as_raw_fd().to_string());
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile,index=off",
        names.collect::<Vec<_>>().join(":"),
        escaped(&rootfs.upper),
        escaped(&rootfs.work)
    );
    let before = open_directory(".")?;
    chdir("/proc/self/fd")?;
    let mounted = mount_by_name(
        Some("overlay"),
        rootfs.upper.as_str(),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    fchdir(&before)?;
    mounted?;
    let tree = mount::clone_tree(Path::new(&rootfs.upper), false)?;
    mount::set_attributes(tree.as_fd(), 0, MsFlags::MS_PRIVATE.bits(), false)?;
    Ok(tree)
}

fn open_directory(path: &str) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path)
}

/// `,` parts options.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(',', "\\,")
}
