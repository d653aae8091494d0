//! The container's file system: an overlay and what is mounted in it, seen by nobody else.
//!
//! Everything that lies on the host is opened first, as detached mounts, in the host's mount namespace. Then the child
//! enters a copy of the template, which costs the same on a host with a thousand mounts, and puts the tree together.

mod bind;
mod bundle;
mod cgroup_view;
mod context;
mod copy_up;
mod device;
mod filesystem;
mod hidden;
mod image;
mod mapped;
mod overlay;
mod place;
mod proc;
mod volume;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use corten_proto::{
    layout,
    shim::{self, DeviceNode, Identity, Mount, MountAttributes, Plan, Rootfs, mount::Kind},
};
use corten_sys::{
    mount::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY},
    ns,
    open::Descriptors,
    process::CloneFlags,
    root::Root,
};
use nix::{
    mount::{MntFlags, umount2},
    sched::unshare,
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{chdir, fchdir, pivot_root},
};

pub(crate) use self::overlay::open as open_overlay;
pub(super) use self::{device::is_null, proc::Pids};
use super::{
    group::Group,
    ids::Ids,
    user::{self, User},
};
use crate::failure::{Doing, Result, invalid, of_mount};

/// Mode of directories that are made as mount points.
pub(super) const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// What has been opened on the host.
#[derive(Debug)]
pub(super) struct Sources {
    root: OwnedFd,
    mounts: Vec<Source>,
    nodes: Vec<device::Node>,
    /// By which files of the root are opened, where there is no /proc any more.
    descriptors: Descriptors,
}

/// Nodes that a runtime is to make.
#[derive(Debug)]
pub(super) struct Nodes(Vec<device::Node>);

impl Nodes {
    /// For a container of this user, without a user namespace.
    pub(super) fn describe(mut self, user: &Identity) -> Vec<DeviceNode> {
        device::give(&mut self.0, user, &Ids::default());
        self.0.iter().map(device::Node::describe).collect()
    }
}

#[derive(Debug)]
enum Source {
    Tree(bind::Tree),
    /// Made in the container's namespaces or cgroup.
    Later,
    Cgroup(cgroup_view::View),
}

impl Sources {
    /// Opens the layers, volumes and devices of `plan`, with the ids of the user namespace where there is one.
    pub(super) fn open(
        plan: &Plan,
        user_namespace: Option<BorrowedFd<'_>>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let Some(rootfs) = &plan.rootfs else {
            return Err(invalid("read", "rootfs", "is missing"));
        };
        let nodes = device::find(&plan.devices, &Ids::of(plan))?;
        let descriptors = Descriptors::of_self().doing("open", "/proc/self/fd")?;
        let mut open = |mount: &Mount| match &mount.kind {
            Some(Kind::Bind(bind)) => {
                bind::open(bind, mount, user_namespace, &plan.mount_label, warnings)
                    .map_err(of_mount(mount, "host_path"))
                    .map(Source::Tree)
            }
            Some(Kind::Declared(declared)) => volume::open(declared).map(Source::Tree),
            Some(Kind::Cgroup(_) | Kind::Filesystem(_) | Kind::Image(_)) => Ok(Source::Later),
            None => Err(invalid(
                "mount",
                &mount.destination,
                "the mount has no kind",
            )),
        };
        let mut mounts: Vec<_> = plan.mounts.iter().map(&mut open).collect::<Result<_>>()?;
        // After the volumes: an overlay may take us into a copy of the host's mount namespace, where nothing is shared.
        let root = overlay::open(rootfs, user_namespace, &plan.mount_label)?;
        for (mount, source) in plan.mounts.iter().zip(&mut mounts) {
            if let Some(Kind::Image(image)) = &mount.kind {
                *source = Source::Tree(image::open(
                    image,
                    mount,
                    user_namespace,
                    &plan.mount_label,
                )?);
            }
        }
        Ok(Self {
            root,
            mounts,
            nodes,
            descriptors,
        })
    }

    /// Allows the devices in the cgroup, and opens what shows it.
    pub(super) fn open_cgroup(&mut self, plan: &Plan, group: &Group) -> Result<()> {
        let all = plan
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.all_devices);
        group.allow_devices(&device::rules(&self.nodes), all)?;
        for (mount, source) in plan.mounts.iter().zip(&mut self.mounts) {
            if matches!(mount.kind, Some(Kind::Cgroup(_))) {
                *source = Source::Cgroup(cgroup_view::open(plan, group)?);
            }
        }
        Ok(())
    }

    /// Attaches the root and what is bound in it below `bundle`, for an external runtime that mounts the rest. To be called in
    /// a mount namespace that nobody else is in. Returns the user, and which mounts of the plan lie in the bundle.
    pub(super) fn lay_out(mut self, plan: &Plan, bundle: &Path) -> Result<(User, Vec<usize>)> {
        let path = bundle.join(layout::BUNDLE_ROOT);
        let place = bundle::make(&path, true)?;
        self.narrow(plan, &place, &path)?;
        mount::attach(self.root.as_fd(), place.as_fd()).doing("attach", "the root")?;
        let root = Root::from_fd(self.root);
        let mut places = volume::Places::of(&root)?;
        let mut bound = Vec::new();
        for (index, (mount, source)) in plan.mounts.iter().zip(&self.mounts).enumerate() {
            match (source, &mount.kind) {
                // Part of the root, as far as the runtime knows.
                (Source::Tree(tree), Some(Kind::Declared(_))) => {
                    places
                        .attach(&root, tree, &mount.destination, &plan.mount_label)
                        .map_err(of_mount(mount, ""))?;
                }
                (Source::Tree(tree), _) => {
                    if !is_below_another(mount, plan) {
                        tree.refuse_wrong(&root, &mount.destination)
                            .map_err(of_mount(mount, "container_path"))?;
                    }
                    tree.attach_in(&layout::bundle_mount(bundle, index))?;
                    bound.push(index);
                }
                _ => {}
            }
        }
        Ok((look_up_user(&root, &self.descriptors, plan)?, bound))
    }

    /// Takes the parts of images that are asked for; `place` is an empty directory, at `path`.
    fn narrow(&mut self, plan: &Plan, place: &OwnedFd, path: &Path) -> Result<()> {
        for (mount, source) in plan.mounts.iter().zip(&mut self.mounts) {
            if let (Some(Kind::Image(image)), Source::Tree(tree)) = (&mount.kind, &mut *source)
                && !image.sub_path.is_empty()
            {
                *tree = image::narrow(tree, &image.sub_path, place, path)?;
            }
        }
        Ok(())
    }

    /// The nodes of the plan's devices.
    pub(super) fn nodes(&self) -> Nodes {
        Nodes(self.nodes.clone())
    }

    /// Puts the tree together in a mount namespace of the caller's own, and looks up the user in it. `pids` is a PID namespace
    /// that is not the caller's.
    pub(super) fn assemble(
        mut self,
        plan: &Plan,
        template: &OwnedFd,
        pids: Option<Pids<'_>>,
    ) -> Result<(Root, User)> {
        ns::enter(template.as_fd(), CloneFlags::CLONE_NEWNS)
            .doing("enter", "the template mount namespace")?;
        unshare(CloneFlags::CLONE_NEWNS).doing("unshare", "the mount namespace")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, mount::TEMPLATE_ROOT, flags, Mode::empty())
            .doing("open", mount::TEMPLATE_ROOT)?;
        self.narrow(plan, &place, Path::new(mount::TEMPLATE_ROOT))?;
        mount::attach(self.root.as_fd(), place.as_fd()).doing("attach", "the root")?;
        let root = Root::from_fd(self.root);
        let mut places = volume::Places::of(&root)?;
        for (mount, source) in plan.mounts.iter().zip(self.mounts) {
            match (source, &mount.kind) {
                (Source::Tree(tree), Some(Kind::Declared(_))) => {
                    places
                        .attach(&root, &tree, &mount.destination, &plan.mount_label)
                        .map_err(of_mount(mount, ""))?;
                }
                (Source::Tree(tree), _) => tree
                    .attach(&root, &mount.destination)
                    .map_err(of_mount(mount, "container_path"))?,
                (Source::Cgroup(view), _) => view.attach(&root, mount, &plan.mount_label)?,
                (Source::Later, Some(Kind::Filesystem(kind))) => {
                    filesystem::attach(&root, mount, kind, plan, pids)?
                }
                (Source::Later, _) => {}
            }
        }
        let user = look_up_user(&root, &self.descriptors, plan)?;
        device::give(&mut self.nodes, &user.identity, &Ids::of(plan));
        device::make(&root, &self.nodes)?;
        if !plan.mounts.iter().any(|mount| {
            mount.destination == "/dev" && !matches!(mount.kind, Some(Kind::Filesystem(_)))
        }) {
            device::make_defaults(&root)?;
        }
        Ok((root, user))
    }
}

/// Whether its destination lies in what another mount covers.
fn is_below_another(mount: &Mount, plan: &Plan) -> bool {
    let path = Path::new(&mount.destination);
    let others = plan.mounts.iter().map(|other| &*other.destination);
    let mut others = others.filter(|other| *other != mount.destination);
    others.any(|other| path.starts_with(other))
}

fn look_up_user(root: &Root, descriptors: &Descriptors, plan: &Plan) -> Result<User> {
    let none = shim::User::default();
    let process = plan.process.as_ref();
    let wanted = process.and_then(|process| process.user.as_ref());
    user::look_up(root, descriptors, wanted.unwrap_or(&none))
}

/// Covers masked paths, makes read-only what has to be, and leaves everything else behind: `root` is then `/`.
pub(super) fn close(root: &Root, plan: &Plan) -> Result<()> {
    hidden::make_readonly(root, &plan.readonly_paths)?;
    hidden::mask(root, &plan.masked_paths, &plan.mount_label)?;
    if plan
        .rootfs
        .as_ref()
        .is_some_and(|rootfs: &Rootfs| rootfs.readonly)
    {
        mount::set_attributes(root.as_fd(), ATTR_RDONLY, 0, false).doing("make read-only", "/")?;
    }
    fchdir(root).doing("enter", "the root")?;
    pivot_root(".", ".").doing("pivot_root", "the root")?;
    umount2(".", MntFlags::MNT_DETACH).doing("leave", "the template")?;
    chdir("/").doing("chdir", "/")
}

/// As mount_setattr(2) has them.
fn attribute_bits(attributes: Option<MountAttributes>) -> u64 {
    let MountAttributes {
        readonly,
        nosuid,
        nodev,
        noexec,
    } = attributes.unwrap_or_default();
    let flags = [
        (readonly, ATTR_RDONLY),
        (nosuid, ATTR_NOSUID),
        (nodev, ATTR_NODEV),
        (noexec, ATTR_NOEXEC),
    ];
    flags
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |bits, (_, bit)| bits | bit)
}
