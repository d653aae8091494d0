//! The daemon's directories: made, locked against a second daemon, and the state on a tmpfs of its own.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread::sleep,
    time::Duration,
};

use corten_proto::layout;
use corten_sys::{cgroup::Cgroup, private};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{TMPFS_MAGIC, statfs},
};

use crate::{
    config::{CgroupDriver, Config},
    context::Context,
    error::{At, Error, Result},
};

const LOCK_TRIES: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Held as long as the daemon runs.
pub(crate) type Lock = Flock<File>;

/// Makes and locks the directories.
///
/// # Errors
/// [`Error::State`] when another daemon has this root.
pub(crate) fn prepare(config: &Config) -> Result<Lock> {
    for dir in [&config.root, &config.state] {
        private::close_dir_all(dir).at("create", dir)?;
    }
    for name in ["pods", "containers", "quarantine"] {
        let dir = config.root.join(name);
        private::close_dir_all(&dir).at("create", &dir)?;
    }
    let empty = layout::empty(&config.root);
    fs::create_dir_all(&empty).at("create", &empty)?;
    let lock = lock(&config.root)?;
    make_skeleton(&layout::skeleton(&config.root))?;
    private_tmpfs(&config.state)?;
    for name in ["pods", "containers"] {
        let dir = config.state.join(name);
        private::close_dir_all(&dir).at("create", &dir)?;
    }
    Ok(lock)
}

/// What every container has something mounted on. Found in a layer, it need not be made anew in each container's own.
fn make_skeleton(skeleton: &Path) -> Result<()> {
    for name in ["", "dev", "proc", "sys", "etc"] {
        let dir = skeleton.join(name);
        fs::create_dir_all(&dir).at("create", &dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).at("chmod", &dir)?;
    }
    for name in ["hostname", "hosts", "resolv.conf"] {
        let file = skeleton.join("etc").join(name);
        fs::write(&file, "").at("create", &file)?;
        fs::set_permissions(&file, Permissions::from_mode(0o644)).at("chmod", &file)?;
    }
    Ok(())
}

fn lock(root: &Path) -> Result<Lock> {
    let path = root.join("lock");
    let mut file = private::create(&path).at("create", &path)?;
    // A daemon that was killed in the middle of starting a shim holds it until that shim's exec.
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, _errno)) => file = same,
        }
        sleep(LOCK_PAUSE);
    }
    Err(Error::State {
        subject: format!("root directory {}", root.display()),
        state: "in use",
        need: "another corten serves it; give this one its own root and state",
    })
}

/// Pins on a shared mount cost a copy in every mount namespace, and files on a disk a journal entry.
fn private_tmpfs(state: &Path) -> Result<()> {
    if !is_own_tmpfs(state)? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("corten"),
            state,
            Some("tmpfs"),
            flags,
            Some("mode=700"),
        )
        .at("mount a tmpfs on", state)?;
    }
    // One that an earlier daemon has mounted.
    private::close_dir_all(state).at("close to others", state)?;
    mount(
        None::<&str>,
        state,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .at("make private", state)
}

/// A tmpfs that is mounted on the directory itself, not on one above.
fn is_own_tmpfs(dir: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = fs::metadata(dir).at("stat", dir)?.dev();
    let above = dir.parent().unwrap_or(dir);
    let above = fs::metadata(above).at("stat", above)?.dev();
    Ok(here != above && statfs(dir).at("statfs", dir)?.filesystem_type() == TMPFS_MAGIC)
}

/// Takes away the state directory's mount and the cgroup of a daemon that has no pods.
pub(super) fn clear(cx: &Context) -> Result<()> {
    if cx.config.cgroup_driver == CgroupDriver::Cgroupfs {
        let cgroup = cx.cgroup_root();
        Cgroup::new(&cx.undo.hierarchies, &cgroup).remove_empty();
        Cgroup::new(&cx.undo.hierarchies, "/corten").remove_empty();
    }
    let state = &cx.config.state;
    umount2(state, MntFlags::MNT_DETACH).at("unmount", state)
}
