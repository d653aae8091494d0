//! Calls that wait for a disk, counted by strace in the daemon and all that it starts.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::NamespaceMode;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    daemon::{Runtime, Setup},
    latency::one_pod,
};

const SYNC_CALLS: [&str; 6] = [
    "fsync",
    "fdatasync",
    "sync",
    "syncfs",
    "sync_file_range",
    "msync",
];
/// Traced as well: a trace without one exec a pod saw nothing.
const WITNESS: &str = "execve";
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Starts and removes `n` bridge pods; how many sync calls that made.
pub(crate) async fn count(setup: &Setup, runtime: Runtime, n: usize) -> Result<usize> {
    let mut daemon = setup.start(runtime).await?;
    one_pod(&mut daemon, NamespaceMode::Pod, "untraced").await?;
    let trace = setup.root.join("strace.txt");
    let strace = Strace::attach(daemon.pid(), &trace).await?;
    for i in 0..n {
        one_pod(&mut daemon, NamespaceMode::Pod, &format!("traced-{i}")).await?;
    }
    strace.detach()?;
    daemon.stop().await?;

    let trace = fs::read_to_string(&trace).context("read the trace")?;
    let execs = calls(&trace, &[WITNESS]);
    ensure!(execs >= n, "the trace has {execs} execs for {n} pods");
    Ok(calls(&trace, &SYNC_CALLS))
}

/// Lines that begin one of `names`, after the process id. Resumed calls are not counted again.
fn calls(trace: &str, names: &[&str]) -> usize {
    let name = |line: &str| -> Option<String> {
        let (_, call) = line.split_once(' ')?;
        Some(call.trim_start().split_once('(')?.0.to_owned())
    };
    trace
        .lines()
        .filter_map(name)
        .filter(|name| names.contains(&name.as_str()))
        .count()
}

/// A running strace. Dropping it ends it, which detaches it.
struct Strace(Child);

impl Strace {
    async fn attach(pid: u32, output: &Path) -> Result<Self> {
        let traced = format!("{},{WITNESS}", SYNC_CALLS.join(","));
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-e"])
            .arg(format!("trace={traced}"))
            .arg("-o")
            .arg(output)
            .arg("-p")
            .arg(pid.to_string())
            .stdin(Stdio::null())
            .spawn()
            .context("start strace: it is in the Debian package of that name")?;
        let strace = Strace(strace);
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        while !is_traced(pid)? {
            ensure!(
                Instant::now() < deadline,
                "strace did not attach in {ATTACH_TIMEOUT:?}"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(strace)
    }

    fn detach(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), Signal::SIGINT).context("stop strace")?;
        self.0.wait().context("wait for strace")?;
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Both fail only after it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether every thread of the process has a tracer.
fn is_traced(pid: u32) -> Result<bool> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the traced daemon is gone")?;
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begun_calls_are_counted_once() {
        let trace = "12    fsync(3)                        = 0\n\
                     13    execve(\"/proc/self/fd/9\", [\"corten-shim\"], 0x7f) = 0\n\
                     12    msync(0x7f, 4096, MS_SYNC <unfinished ...>\n\
                     14    sync_file_range(4, 0, 0, 2)     = 0\n\
                     12    <... msync resumed>)            = 0\n\
                     12    +++ exited with 0 +++\n";
        assert_eq!(calls(trace, &SYNC_CALLS), 3);
        assert_eq!(calls(trace, &[WITNESS]), 1);
    }
}
