//! Overlays of an image's layers (overlayfs.rst): the root, with the container's own directory above, and image volumes,
//! with nothing above.

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

/// `index=off`: layers may be used by several containers at once.
const FLAGS: [(&str, Option<&str>); 1] = [("index", Some("off"))];

/// What an overlay is made of.
#[derive(Clone, Copy)]
struct Layers<'a> {
    /// Topmost first.
    lower: &'a [String],
    /// Upper and work directory; an overlay without is read-only.
    own: Option<(&'a str, &'a str)>,
}

/// The detached overlay of a container's root.
pub(super) fn open(rootfs: &Rootfs) -> Result<OwnedFd> {
    if rootfs.lower.is_empty() {
        return mount::clone_tree(Path::new(&rootfs.upper), false)
            .doing("open_tree", &rootfs.upper);
    }
    let layers = Layers {
        lower: &rootfs.lower,
        own: Some((&rootfs.upper, &rootfs.work)),
    };
    layers.mount().doing(
        "mount overlay",
        format!("upper {}, {} layers", rootfs.upper, rootfs.lower.len()),
    )
}

/// The detached overlay of these layers alone. overlayfs takes no single one; that is seen as it is.
pub(super) fn open_readonly(lower: &[String]) -> Result<OwnedFd> {
    if let [layer] = lower {
        let tree = mount::clone_tree(Path::new(layer), false).doing("open_tree", layer)?;
        mount::set_attributes(tree.as_fd(), 0, MsFlags::MS_PRIVATE.bits(), false)
            .doing("set propagation", layer)?;
        return Ok(tree);
    }
    let layers = Layers { lower, own: None };
    layers
        .mount()
        .doing("mount overlay", format!("{} layers", lower.len()))
}

impl Layers<'_> {
    fn mount(self) -> io::Result<OwnedFd> {
        match self.by_options() {
            // Before Linux 6.5 layers cannot be given one by one, and a value of fsconfig has at most 255 bytes.
            Err(error)
                if error
                    .raw_os_error()
                    .is_none_or(|errno| errno == libc::EINVAL) =>
            {
                let first = error.to_string();
                self.by_name()
                    .map_err(|error| io::Error::other(format!("{error}; at first: {first}")))
            }
            result => result,
        }
    }

    /// `volatile`: no sync calls, since nothing of a container outlives a crash of its host.
    fn by_options(self) -> io::Result<OwnedFd> {
        let layers = self
            .lower
            .iter()
            .map(|lower| ("lowerdir+", Some(lower.as_str())));
        let own = self.own.into_iter().flat_map(|(upper, work)| {
            [
                ("upperdir", Some(upper)),
                ("workdir", Some(work)),
                ("volatile", None),
            ]
        });
        let source = [("source", Some("overlay"))];
        let options: Vec<_> = source
            .into_iter()
            .chain(own)
            .chain(layers)
            .chain(FLAGS)
            .collect();
        mount::new_filesystem("overlay", &options, 0)
    }

    /// By mount(2), which needs a place: a directory of the overlay itself, in a mount namespace of our own. Its options are
    /// a page at most, so layers go by the shortest names there are: as descriptors, seen from where proc lists these.
    fn by_name(self) -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount_by_name(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        let lower = self.lower.iter().map(|path| open_directory(path));
        let lower: Vec<File> = lower.collect::<io::Result<_>>()?;
        let names = lower.iter().map(|layer| layer.as_raw_fd().to_string());
        let mut options = format!("lowerdir={},index=off", names.collect::<Vec<_>>().join(":"));
        if let Some((upper, work)) = self.own {
            let (upper, work) = (escaped(upper), escaped(work));
            options += &format!(",upperdir={upper},workdir={work},volatile");
        }
        let place = self.own.map_or(self.lower[0].as_str(), |(upper, _)| upper);
        let before = open_directory(".")?;
        chdir("/proc/self/fd")?;
        let mounted = mount_by_name(
            Some("overlay"),
            place,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        fchdir(&before)?;
        mounted?;
        let tree = mount::clone_tree(Path::new(place), false)?;
        mount::set_attributes(tree.as_fd(), 0, MsFlags::MS_PRIVATE.bits(), false)?;
        Ok(tree)
    }
}

fn open_directory(path: &str) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path)
}

/// `,` parts options.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(',', "\\,")
}
