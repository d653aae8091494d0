//! Undoing: takes resources back, the newest first, and goes on after a step that fails.
//!
//! Every step succeeds on what is not there, so undoing may be repeated from any point.

use std::{fs, io, path::Path, sync::Arc};

use corten_cni::Cni;
use corten_proto::record::{Network, Resource, resource::Kind};
use corten_sys::cgroup::{Cgroup, Hierarchies};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use crate::{
    blocking::blocking,
    error::{At, Error, Result},
    network,
    selinux::Levels,
    shim, systemd,
};

/// What undoing needs.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    pub(crate) cni: Cni,
    pub(crate) hierarchies: Arc<Hierarchies>,
    pub(crate) selinux_levels: Arc<Levels>,
}

impl Undo {
    /// Undoes `resources`, the last one first.
    ///
    /// # Errors
    /// [`Error::Undo`] with every step that failed. Directories are then left as they are: something may be mounted there. So
    /// is a level: what is left has it.
    pub(crate) async fn run(&self, resources: &[Resource]) -> Result<()> {
        let mut failures = Vec::new();
        for resource in resources.iter().rev() {
            let Some(kind) = &resource.kind else { continue };
            let comes_last = matches!(kind, Kind::Directory(_) | Kind::SelinuxLevel(_));
            if comes_last && !failures.is_empty() {
                continue;
            }
            if let Err(error) = self.step(kind.clone()).await {
                failures.push(error.chain());
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Undo { failures })
        }
    }

    async fn step(&self, kind: Kind) -> Result<()> {
        if let Kind::Network(network) = kind {
            return self.detach(&network).await;
        }
        if let Kind::SelinuxLevel(pod) = kind {
            self.selinux_levels.release(&pod);
            return Ok(());
        }
        let hierarchies = Arc::clone(&self.hierarchies);
        blocking(move || match kind {
            Kind::Directory(path) => remove_tree(Path::new(&path)),
            Kind::Pin(path) => unpin(Path::new(&path)),
            Kind::Mount(path) => unmount(Path::new(&path)),
            Kind::PidPin(path) => {
                // Without the one that makes it the init ends by itself, unless it is pinned.
                kill_shim(&["pod", &path])?;
                let pin = Path::new(&path);
                shim::kill_init(pin).at("end the init of", pin)?;
                unpin(Path::new(&path))
            }
            Kind::UserPin(path) => {
                kill_shim(&["pin", &path])?;
                unpin(Path::new(&path))
            }
            Kind::Cgroup(path) => remove_cgroup(&hierarchies, &path),
            Kind::SharedCgroup(path) => {
                Cgroup::new(&hierarchies, &path).remove_empty();
                Ok(())
            }
            Kind::Scope(scope) => systemd::remove(&hierarchies, &scope),
            Kind::Shim(id) => kill_shim(&["container", &id]),
            Kind::Network(_) | Kind::SelinuxLevel(_) => Ok(()),
        })
        .await
    }

    async fn detach(&self, network: &Network) -> Result<()> {
        let pod = network::attachment(network);
        self.cni.del(pod).await.map_err(|source| Error::Network {
            pod: network.pod_name.clone(),
            source,
        })
    }
}

fn kill_shim(args: &[&str]) -> Result<()> {
    shim::kill(args).map_err(|source| Error::Io {
        doing: format!("kill corten-shim {}", args.join(" ")),
        source,
    })
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

fn unpin(path: &Path) -> Result<()> {
    unmount(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// A lazy unmount: what still uses the mount keeps it, and nobody else finds it.
fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount point, or not there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).at("unmount", path),
    }
}

fn remove_cgroup(hierarchies: &Hierarchies, path: &str) -> Result<()> {
    let cgroup = Cgroup::new(hierarchies, path);
    cgroup
        .kill()
        .at("kill everything in cgroup", Path::new(path))?;
    cgroup.remove().at("remove cgroup", Path::new(path))
}
