//! Control groups, v1, v2 and both at once: one cgroup is a path below each hierarchy's root.

mod cpu;
mod cpuset;
mod device_program;
mod devices;
mod hierarchies;
mod hugetlb;
mod kill;
mod members;
mod memory;
mod oom;
mod pids;
mod pressure;
mod resources;
mod setting;
mod usage;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

pub use devices::{DeviceKind, DeviceRule};
pub use hierarchies::{Hierarchies, V1};
pub use oom::{MemoryLimit, Oom};
pub use resources::{HugepageLimit, Resources};
use rustix::{
    fs::{CWD, Mode, OFlags},
    process::Signal,
};
use setting::Setting;
pub use usage::{MemoryUsage, Pressure, Stall, SwapUsage, Usage};

/// How often a cgroup whose last process was just killed is tried again, and how long between.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// Controllers that systemd never enables nor disables.
const UNKNOWN_TO_SYSTEMD: [&str; 4] = ["hugetlb", "rdma", "misc", "dmem"];

/// One cgroup, in every hierarchy of the host.
#[derive(Clone, Debug)]
pub struct Cgroup<'a> {
    hierarchies: &'a Hierarchies,
    path: String,
}

impl<'a> Cgroup<'a> {
    /// `path` is absolute, below each hierarchy's root. Nothing is made yet.
    pub fn new(hierarchies: &'a Hierarchies, path: &str) -> Self {
        Self {
            hierarchies,
            path: path.trim_start_matches('/').to_owned(),
        }
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(&self.path)
    }

    /// Its directory in the v1 hierarchy of `controller`.
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self
            .hierarchies
            .v1
            .iter()
            .find(|hierarchy| hierarchy.has(controller))?;
        Some(self.below(&hierarchy.mount))
    }

    /// Its directory in the v2 hierarchy.
    fn v2(&self) -> Option<PathBuf> {
        self.hierarchies
            .v2
            .as_deref()
            .map(|mount| self.below(mount))
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.mounts().map(|mount| self.below(mount))
    }

    /// Whether it is there in some hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().any(|dir| dir.exists())
    }

    /// Makes it with its parents, in every hierarchy.
    pub fn create(&self) -> io::Result<()> {
        self.create_v2()?;
        self.create_v1()
    }

    /// Makes it in the v1 hierarchies.
    pub fn create_v1(&self) -> io::Result<()> {
        for hierarchy in &self.hierarchies.v1 {
            let dir = self.below(&hierarchy.mount);
            make(&dir)?;
            if hierarchy.has("cpuset") {
                cpuset::fill(&dir)?;
            }
        }
        Ok(())
    }

    /// Makes it in the v2 hierarchy.
    pub fn create_v2(&self) -> io::Result<()> {
        let Some(mount) = &self.hierarchies.v2 else {
            return Ok(());
        };
        // A host with both versions may have hugetlb here.
        self.enable_controllers(mount, |_, _| true)?;
        make(&self.below(mount))
    }

    /// As [`Self::create_v2`], below its ancestor `delegated`, which is there: what is above belongs to systemd, which
    /// hands down the controllers that it knows (systemd.resource-control(5), `Delegate=`), and leaves the others to us.
    pub fn create_v2_below(&self, delegated: &str) -> io::Result<()> {
        let Some(mount) = &self.hierarchies.v2 else {
            return Ok(());
        };
        let above = Path::new(delegated.trim_start_matches('/')).parent();
        let above = above.map_or(0, |above| above.components().count());
        self.enable_controllers(mount, |depth, controller| {
            depth > above || UNKNOWN_TO_SYSTEMD.contains(&controller)
        })?;
        make(&self.below(mount))
    }

    /// Makes it below a cgroup that exists, and gives it nothing: no controller is handed down to it, which could not be
    /// done where its parent has processes, and no limit of its own.
    pub fn create_below(&self) -> io::Result<()> {
        self.directories().try_for_each(|dir| make(&dir))
    }

    /// Hands controllers down the path (cgroup v2, "Enabling and Disabling"), where `allowed` says so for a depth and a
    /// controller. One that cannot be is left out: setting a limit of it says so.
    fn enable_controllers(
        &self,
        mount: &Path,
        allowed: impl Fn(usize, &str) -> bool,
    ) -> io::Result<()> {
        let mut dir = mount.to_owned();
        let parents = Path::new(&self.path).parent().unwrap_or(Path::new(""));
        for (depth, name) in std::iter::once(Path::new(""))
            .chain(parents.components().map(|name| Path::new(name.as_os_str())))
            .enumerate()
        {
            dir.push(name);
            make(&dir)?;
            let available = fs::read_to_string(dir.join("cgroup.controllers"))?;
            let wanted = available
                .split_whitespace()
                .filter(|controller| allowed(depth, controller));
            for controller in wanted {
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(())
    }

    /// Moves process `pid` into it, in the v2 hierarchy.
    pub fn attach(&self, pid: u32) -> io::Result<()> {
        let Some(dir) = self.v2() else { return Ok(()) };
        write(&dir.join("cgroup.procs"), &pid.to_string())
    }

    /// Its directory in the v2 hierarchy, for CLONE_INTO_CGROUP.
    pub fn open_v2(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.v2()
            .map(|dir| Ok(rustix::fs::open(dir, flags, Mode::empty())?))
            .transpose()
    }

    /// The files `tasks` of every v1 hierarchy, open for a single-threaded child to write `0` to: any other way to
    /// attach waits for an RCU grace period.
    pub fn open_tasks(&self) -> io::Result<Vec<OwnedFd>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let v1 = self.hierarchies.v1.iter();
        v1.map(|hierarchy| {
            let path = self.below(&hierarchy.mount).join("tasks");
            rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|errno| {
                io::Error::new(
                    io::Error::from(errno).kind(),
                    format!("{}: {errno}", path.display()),
                )
            })
        })
        .collect()
    }

    /// Its processes.
    pub fn procs(&self) -> io::Result<Vec<i32>> {
        let Some(dir) = self.directories().find(|dir| dir.exists()) else {
            return Ok(Vec::new());
        };
        let text = fs::read_to_string(dir.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// What it uses, with the cgroups below it.
    ///
    /// # Errors
    /// ENOENT or ENODEV when it is gone.
    pub fn usage(&self) -> io::Result<Usage> {
        Ok(Usage {
            cpu: cpu::usage(self)?,
            memory: memory::usage(self)?,
            cpu_pressure: pressure::of(self, "cpu")?,
            memory_pressure: pressure::of(self, "memory")?,
            io_pressure: pressure::of(self, "io")?,
        })
    }

    /// What the kernel has killed in it for want of memory, if anything.
    pub fn oom(&self) -> io::Result<Option<Oom>> {
        oom::of(self)
    }

    /// Sets limits; what is 0 or empty stays as it is.
    ///
    /// # Errors
    /// With the field and the file; those before it are set.
    pub fn apply(&self, resources: &Resources) -> io::Result<()> {
        let settings = self.settings(resources)?;
        settings.iter().try_for_each(Setting::write)
    }

    /// Changes all of these limits, or none; what is 0 or empty stays as it is. Period and quota go together, and so do
    /// both limits of memory.
    ///
    /// # Errors
    /// With the field and the file, after everything was set back. ResourceBusy: more memory is in use than the new limit
    /// allows.
    pub fn update(&self, resources: &Resources) -> io::Result<()> {
        memory::check_fits(self, resources)?;
        setting::change(&self.settings(resources)?)
    }

    fn settings(&self, resources: &Resources) -> io::Result<Vec<Setting>> {
        let mut settings = cpu::settings(self, resources)?;
        settings.extend(cpuset::settings(self, resources));
        settings.extend(memory::settings(self, resources)?);
        settings.extend(pids::settings(self, resources));
        settings.extend(hugetlb::settings(self, resources));
        if let (Some(dir), true) = (self.v2(), self.hierarchies.is_unified()) {
            for (file, value) in &resources.unified {
                let field = format!("unified[{file:?}]");
                if file.contains('/') || file.starts_with('.') {
                    let error = format!("{field}: not a cgroup file");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
                }
                settings.push(Setting::new(field, dir.join(file), value));
            }
        }
        Ok(settings)
    }

    /// The sizes of huge pages among these limits that this host cannot limit.
    pub fn unlimited_hugepages<'r>(&self, resources: &'r Resources) -> Vec<&'r str> {
        let limits = resources.hugepage_limits.iter();
        let wanted = limits.map(|limit| limit.page_size.as_str());
        wanted
            .filter(|size| hugetlb::is_missing(self, size))
            .collect()
    }

    /// Its processes, and those of the cgroups below it: to be counted, since an id may go to another process.
    pub fn all_procs(&self) -> io::Result<Vec<i32>> {
        match self.v1("pids").or_else(|| self.v2()) {
            Some(dir) => members::list(&dir),
            None => Ok(Vec::new()),
        }
    }

    /// Calls `act` with the id and the directory in /proc of each of its processes, and of those of the cgroups below it.
    /// What is opened below that directory is never another process's.
    pub fn each_process(&self, mut act: impl FnMut(i32, BorrowedFd<'_>)) -> io::Result<()> {
        let Some(dir) = self.v1("pids").or_else(|| self.v2()) else {
            return Ok(());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |pid: i32| {
            let opened = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?;
            Ok((pid, opened))
        };
        members::each(&dir, open, |(pid, opened)| act(pid, opened.as_fd()))
    }

    /// Allows these devices and no others: by v1's controller, or else by a program on the v2 cgroup.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> io::Result<()> {
        match (self.v1("devices"), self.v2()) {
            (Some(dir), _) => devices::allow(&dir, rules),
            (None, Some(dir)) => devices::allow_by_program(&dir, rules),
            (None, None) => Ok(()),
        }
    }

    /// Tells everything in it and below it that its terminal or client has gone.
    pub fn hang_up(&self) -> io::Result<()> {
        kill::signal(self, Signal::HUP)
    }

    /// Kills everything in it and below it.
    pub fn kill(&self) -> io::Result<()> {
        kill::kill(self)
    }

    /// Removes it and what is below it. One that is not there is removed already.
    ///
    /// # Errors
    /// EBUSY when a process stays in it for a second.
    pub fn remove(&self) -> io::Result<()> {
        self.directories().try_for_each(|dir| remove_tree(&dir))
    }

    /// Removes it where it has no process and nothing below it.
    pub fn remove_empty(&self) {
        for dir in self.directories() {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(|error| named(&error, "create", dir))
        }
        Err(error) => Err(named(&error, "create", dir)),
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for try_number in 1.. {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Children, or a process that is just leaving.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && try_number <= REMOVE_TRIES =>
            {
                let mut had_children = false;
                for child in fs::read_dir(dir).into_iter().flatten().flatten() {
                    if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                        remove_tree(&child.path())?;
                        had_children = true;
                    }
                }
                if !had_children {
                    sleep(REMOVE_PAUSE);
                }
            }
            Err(error) => return Err(named(&error, "remove", dir)),
        }
    }
    Ok(())
}

/// `None` where this kernel or this cgroup has no such file, or does not count what is in it.
fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            Ok(None)
        }
        Err(error) => Err(named(&error, "read", path)),
    }
}

/// The number of `key` in a file of lines "key number".
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == key).then(|| number.trim().parse().ok())?
    })
}

/// Writes a value to a cgroup file, with file and value in the error.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| named(&error, &format!("write {value:?} to"), path))
}

fn named(error: &io::Error, doing: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}
