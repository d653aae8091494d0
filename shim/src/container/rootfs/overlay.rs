//! Overlays of an image's layers (overlayfs.rst): the root, with the container's own directory above, and image volumes,
//! with nothing above.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use corten_proto::shim::Rootfs;
use corten_sys::mount::{self, Value};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount as mount_by_name, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, fchdir},
};

use super::{
    context,
    mapped::{self, Mapped},
};
use crate::failure::{Doing, Result};

/// `index=off`: layers may be used by several containers at once.
const FLAGS: [(&str, Value<'static>); 1] = [("index", Value::Text("off"))];

/// What an overlay is made of.
#[derive(Clone, Copy)]
struct Layers<'a> {
    /// Topmost first.
    lower: &'a [String],
    /// Upper and work directory; an overlay without is read-only.
    own: Option<(&'a str, &'a str)>,
    /// The layers with other ids than on disk; the upper directory never has any.
    mapped: &'a [Mapped],
    /// SELinux's, of every file; empty is none.
    label: &'a str,
}

/// The detached overlay of a container's root, its layers with the ids of the user namespace where there is one.
///
/// The upper directory is never mapped: overlayfs would find no owner for what it makes there, and be read-only. Who it
/// belongs to is looked up now, so it has to be the container's root already.
pub(crate) fn open(
    rootfs: &Rootfs,
    user_namespace: Option<BorrowedFd<'_>>,
    label: &str,
) -> Result<OwnedFd> {
    if rootfs.lower.is_empty() {
        return mount::clone_tree(Path::new(&rootfs.upper), false)
            .doing("open_tree", &rootfs.upper);
    }
    let mapped = mapped::layers(&rootfs.lower, &rootfs.upper, user_namespace)?;
    let layers = Layers {
        lower: &rootfs.lower,
        own: Some((&rootfs.upper, &rootfs.work)),
        mapped: &mapped,
        label,
    };
    layers.mount().doing(
        "mount overlay",
        format!("upper {}, {} layers", rootfs.upper, rootfs.lower.len()),
    )
}

/// The detached overlay of these layers alone. overlayfs takes no single one, so the lowest is an empty directory of the
/// daemon's; by itself it stands for an image without files, which is an empty file system of its own: root of a container
/// may change that of a mount (CAP_SYS_ADMIN), and the directory is in all image volumes.
pub(super) fn open_readonly(
    lower: &[String],
    user_namespace: Option<BorrowedFd<'_>>,
    label: &str,
) -> Result<OwnedFd> {
    if lower.len() < 2 {
        let options = [
            ("ro", None),
            ("size", Some("4k")),
            ("nr_inodes", Some("1")),
            ("mode", Some("755")),
        ];
        let options: Vec<_> = options.into_iter().chain(context::option(label)).collect();
        return mount::new_filesystem("tmpfs", &options, 0)
            .doing("mount", "an image without files");
    }
    let mapped = mapped::layers(lower, "", user_namespace)?;
    let layers = Layers {
        lower,
        own: None,
        mapped: &mapped,
        label,
    };
    layers
        .mount()
        .doing("mount overlay", format!("{} layers", lower.len()))
}

impl Layers<'_> {
    fn mount(self) -> io::Result<OwnedFd> {
        match self.by_options() {
            // Before Linux 6.5 layers cannot be given one by one, and a value of fsconfig has at most 255 bytes; before
            // 6.13 they cannot be given by descriptor, as what is not attached has to be.
            Err(error)
                if error
                    .raw_os_error()
                    .is_none_or(|errno| [libc::EINVAL, libc::EOPNOTSUPP].contains(&errno)) =>
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
        let opened = self
            .lower
            .iter()
            .map(|lower| mapped::open(self.mapped, lower));
        let opened: Vec<Option<OwnedFd>> = opened.collect::<io::Result<_>>()?;
        let layers = self.lower.iter().zip(&opened).map(|(lower, opened)| {
            let file = opened.as_ref().map(|file| Value::File(file.as_fd()));
            ("lowerdir+", file.unwrap_or(Value::Text(lower)))
        });
        let own = self.own.into_iter().flat_map(|(upper, work)| {
            [
                ("upperdir", Value::Text(upper)),
                ("workdir", Value::Text(work)),
                ("volatile", Value::Flag),
            ]
        });
        let source = [("source", Value::Text("overlay"))];
        let label = (!self.label.is_empty()).then_some(("context", Value::Text(self.label)));
        let options: Vec<_> = source
            .into_iter()
            .chain(own)
            .chain(layers)
            .chain(FLAGS)
            .chain(label)
            .collect();
        mount::new_filesystem_of("overlay", &options, 0)
    }

    /// By mount(2), which needs a place: a directory of the overlay itself, in a mount namespace of our own, where mapped
    /// layers cover for a moment what they are made of: overlayfs has copies of its own afterwards. Its options are a page at most, so layers go by the shortest names there are: as descriptors, seen from where proc lists these.
    fn by_name(self) -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount_by_name(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        for Mapped { path, tree } in self.mapped {
            mount::attach(tree.as_fd(), open_directory(path)?.as_fd())?;
        }
        let lower = self.lower.iter().map(|path| open_directory(path.as_ref()));
        let lower: Vec<File> = lower.collect::<io::Result<_>>()?;
        let names = lower.iter().map(|layer| layer.as_raw_fd().to_string());
        let mut options = format!("lowerdir={},index=off", names.collect::<Vec<_>>().join(":"));
        if let Some((upper, work)) = self.own {
            let (upper, work) = (escaped(upper), escaped(work));
            options += &format!(",upperdir={upper},workdir={work},volatile");
        }
        if !self.label.is_empty() {
            options += &format!(",context=\"{}\"", self.label);
        }
        let place = self.own.map_or(self.lower[0].as_str(), |(upper, _)| upper);
        let before = open_directory(".".as_ref())?;
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
        let covers = self.mapped.iter().rev().map(|mapped| &*mapped.path);
        for place in [Path::new(place)].into_iter().chain(covers) {
            umount2(place, MntFlags::MNT_DETACH)?;
        }
        mount::set_attributes(tree.as_fd(), 0, MsFlags::MS_PRIVATE.bits(), false)?;
        Ok(tree)
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path)
}

/// `,` parts options.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(',', "\\,")
}
