//! Whether a pod can have a user namespace here: the kernel, its limits, and the file system that layers are on are asked
//! by really making a root and a file in it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::chown,
    },
    path::Path,
};

use corten_proto::shim::{Failure, IdMapping, Rootfs, UserNamespace};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};

use crate::{container::open_overlay, userns};

/// Root of the user namespace that is tried out, on the host.
const ROOT: u32 = 65_536;

/// Tries it in the new directory `dir`, which is the caller's to remove.
pub(crate) fn run(dir: &Path) -> io::Result<()> {
    let user = namespace()?;
    let (layers, upper, work) = (dir.join("layers"), dir.join("upper"), dir.join("work"));
    for dir in [&layers.join("1"), &layers.join("2"), &upper, &work] {
        fs::create_dir_all(dir)?;
    }
    fs::write(layers.join("1/below"), "")?;
    chown(&upper, Some(ROOT), Some(ROOT))?;
    let text = |path: &Path| path.display().to_string();
    let rootfs = Rootfs {
        lower: ["1", "2"].map(|name| text(&layers.join(name))).to_vec(),
        upper: text(&upper),
        work: text(&work),
        readonly: false,
    };
    let root = open_overlay(&rootfs, Some(user.as_fd()), "").map_err(|failure| told(&failure))?;
    // Its path may be closed to the pod's root, which need not walk it.
    let upper = File::open(upper)?;
    setfsgid(Gid::from_raw(ROOT));
    setfsuid(Uid::from_raw(ROOT));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    openat(&root, "made", flags, Mode::from_raw_mode(0o644))
        .map_err(|errno| wrong("make a file in a root with mapped ids", &errno.into()))?;
    let owner = |dir: BorrowedFd<'_>, name: &str| {
        let found = statat(dir, name, AtFlags::empty());
        found
            .map(|found| found.st_uid)
            .map_err(|errno| wrong("see whose a file with mapped ids is", &errno.into()))
    };
    let (below, made) = (owner(root.as_fd(), "below")?, owner(upper.as_fd(), "made")?);
    if (below, made) == (ROOT, ROOT) {
        Ok(())
    } else {
        let text = format!("files with mapped ids belong to {below} and {made}, not to {ROOT}");
        Err(io::Error::other(text))
    }
}

fn namespace() -> io::Result<OwnedFd> {
    let map = || {
        vec![IdMapping {
            inside: 0,
            outside: ROOT,
            length: 65_536,
        }]
    };
    let ids = UserNamespace {
        uids: map(),
        gids: map(),
    };
    let opened = |pid| File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from);
    userns::with(&ids, || Ok(()), |child| opened(child.pid))
        .map_err(|error| wrong("make a user namespace", &error))
}

fn wrong(doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}

fn told(failure: &Failure) -> io::Error {
    let errno = io::Error::from_raw_os_error(failure.errno);
    let reason = if failure.hint.is_empty() {
        errno.to_string()
    } else {
        failure.hint.clone()
    };
    let (operation, subject) = (&failure.operation, &failure.subject);
    io::Error::other(format!("{operation} {subject}: {reason}"))
}
