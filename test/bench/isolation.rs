//! A machine within the machine: everything that a bench starts or makes ends with it.
//!
//! Three processes of this program:
//!
//! ```text
//!   guard   unshares mounts, network and process ids; removes the cgroups at the end, whatever happens
//!     init    process 1 of the new namespace: mounts, loopback, reaps; its end kills all that is left
//!       bench   measures
//! ```

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// How the processes of one bench know what they are.
const ROLE: &str = "CORTEN_BENCH_ROLE";
/// A bench's cgroups and its folder bear this and the guard's process id.
const PREFIX: &str = "corten-bench-";
const CGROUP_MOUNTS: &str = "/sys/fs/cgroup";
/// What daemons and plugins write outside of the directories that they are told.
const PRIVATE_DIRS: [&str; 2] = ["/run", "/var/lib"];

/// Runs `bench` as the innermost of the three processes; the others wait for it.
///
/// `bench` gets a name that is free in `root` and among cgroups, for what it makes there.
pub(crate) fn enter(root: &Path, bench: impl FnOnce(&str) -> Result<ExitCode>) -> Result<ExitCode> {
    let mut role = env::var(ROLE).unwrap_or_default();
    role.retain(|c| !c.is_whitespace());
    match role.split_once(':') {
        Some(("init", cgroup)) => init(cgroup),
        Some(("bench", cgroup)) => {
            SigSet::all().thread_unblock().context("unblock signals")?;
            bench(cgroup)
        }
        _ => guard(root),
    }
}

fn guard(root: &Path) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the bench makes namespaces: run it as root"
    );
    remove_orphans(root);
    let cgroup = format!("{PREFIX}{}", std::process::id());
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)
        .context("unshare mounts, network and process ids")?;
    let signals = block_signals()?;
    let mut init = become_child("init", &cgroup)?;
    let code = loop {
        let signal = signals.wait().context("wait for signals")?;
        if signal != Signal::SIGCHLD {
            init.kill().context("kill the bench")?;
        }
        if let Some(status) = init.try_wait().context("wait for the bench")? {
            break status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1);
        }
    };
    remove_cgroups(&cgroup);
    Ok(ExitCode::from(code))
}

fn init(cgroup: &str) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("follow the guard")?;
    make_mounts_private().context("set up the mount table")?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    ensure!(
        up.context("run ip")?.success(),
        "`ip link set lo up` did not work"
    );

    let signals = block_signals()?;
    let bench = become_child("bench", cgroup)?;
    let bench = Pid::from_raw(i32::try_from(bench.id())?);
    loop {
        signals.wait().context("wait for signals")?;
        if let Some(code) = reap(bench)? {
            return Ok(ExitCode::from(code));
        }
    }
}

/// Reaps every child that has ended; the bench's exit code when it is among them.
fn reap(bench: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == bench => {
                code = Some(u8::try_from(status).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid == bench => code = Some(1),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("reap"),
        }
    }
}

fn become_child(role: &str, cgroup: &str) -> Result<Child> {
    let program = env::current_exe().context("find this program")?;
    Command::new(program)
        .args(env::args_os().skip(1))
        .env(ROLE, format!("{role}:{cgroup}"))
        .spawn()
        .with_context(|| format!("start the bench's {role}"))
}

fn block_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ] {
        signals.add(signal);
    }
    signals
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .context("block signals")?;
    Ok(signals)
}

/// A table as hosts have it: the root shared, and nothing that the real host sees.
fn make_mounts_private() -> Result<()> {
    let none: Option<&str> = None;
    for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(none, "/", none, MsFlags::MS_REC | propagation, none).context("propagation of /")?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for dir in PRIVATE_DIRS {
        mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some("mode=755")).context(dir)?;
    }
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        flags | MsFlags::MS_NOEXEC,
        none,
    )
    .context("/proc")
}

/// Cgroups and folders of benches whose guard is gone: killed, or ended by an error.
fn remove_orphans(root: &Path) {
    for dir in hierarchies()
        .iter()
        .flat_map(|hierarchy| orphans(hierarchy))
    {
        remove_tree(&dir);
    }
    for dir in orphans(root) {
        if let Err(error) = fs::remove_dir_all(&dir) {
            crate::report::note(&format!("remove {}: {error}", dir.display()));
        }
    }
}

fn orphans(dir: &Path) -> Vec<PathBuf> {
    let is_orphan = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let guard = name.strip_prefix(PREFIX);
        guard.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(is_orphan)
        .collect()
}

fn remove_cgroups(cgroup: &str) {
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(cgroup));
    }
}

/// Mount points of cgroup hierarchies: one on a pure v2 host, one per controller elsewhere.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new(CGROUP_MOUNTS);
    if top.join("cgroup.controllers").exists() {
        return vec![top.to_owned()];
    }
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Children first. A cgroup cannot be emptied any further: all its processes are dead.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            crate::report::note(&format!("remove {}: {error}", cgroup.display()));
        }
        _ => {}
    }
}
