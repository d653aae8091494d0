//! Processes whose memory cannot be read without waiting for them.

use corten_proto::cri::NamespaceMode;
use corten_test::pod;
use nix::sys::signal::Signal;

use super::site::{Site, options};

/// A process that maps the server's file, and its parent that reads it there: meanwhile the kernel holds the lock of the
/// process's memory, which the process waits for, too, since it wants to map more. Its arguments are in that memory
/// (proc_pid_cmdline(5)).
const LOCK_MEMORY: &str = "perl -e 'my $d = \"/attack-shared\"; open F, \"<\", \"/tmp/file\" or die; \
    my $p = fork; \
    if (!$p) { open A, \">\", \"$d/address\"; print A syscall(9, 0, 4096, 1, 2, fileno F, 0); close A; \
        select undef, undef, undef, 0.1 until -e \"$d/waits\"; \
        open M, \">\", \"$d/maps\"; close M; syscall 9, 0, 4096, 1, 0x22, -1, 0; exit } \
    select undef, undef, undef, 0.1 until -s \"$d/address\"; \
    open A, \"<\", \"$d/address\"; my $a = <A>; \
    open M, \"<\", \"/proc/$p/mem\" or die; sysseek M, $a, 0; sysread M, my $b, 1'";

/// Runs a pod with such a process, and waits until whoever reads its arguments waits. Returns the pod's id.
async fn lock_memory(site: &Site, pid: NamespaceMode) -> String {
    let options = options(pid, false);
    let pod = site.run_pod("hostile", &options).await;
    let server = site.serve(&pod, &options, "/tmp/file").await;
    // In the server's container, where its file is.
    let mut runtime = site.runtime.clone();
    let background = format!("({LOCK_MEMORY}) >/dev/null 2>&1 &");
    pod::output(&mut runtime, &server, &background)
        .await
        .unwrap();
    site.wait_for("maps").await;
    let locked = "for p in /proc/[0-9]*; do grep -qx perl $p/comm 2>/dev/null || continue; \
        timeout 0.5 cat $p/cmdline >/dev/null || exit 0; done; exit 1";
    site.node.shell_until(locked).await.unwrap();
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_memory_is_locked_holds_up_no_other_pod() {
    let mut site = Site::new().await;
    let pod = lock_memory(&site, NamespaceMode::Container).await;
    site.others_live().await;
    site.soon(pod::remove_pod(&mut site.runtime.clone(), &pod))
        .await;
}

/// A shim that is lost is looked for among all processes.
#[tokio::test(flavor = "multi_thread")]
async fn locked_memory_in_the_hosts_pid_namespace_holds_up_no_search() {
    let mut site = Site::new().await;
    let own = options(NamespaceMode::Container, false);
    let other = site.run_pod("other", &own).await;
    let mut config = pod::container("other", "sleep 1000");
    pod::security(&mut config).namespace_options = Some(own);
    let id = site.run(&other, &config).await;
    let shim = format!("pgrep -f '^corten-shim container {id}'");
    let shim = site.node.shell(&shim).unwrap();
    let hostile = lock_memory(&site, NamespaceMode::Node).await;
    site.node.shell(&format!("kill -KILL {shim}")).unwrap();
    let mut runtime = site.runtime.clone();
    site.soon(pod::remove_pod(&mut runtime, &other)).await;
    // Plugins are looked for, too.
    site.node.end_daemon(Signal::SIGKILL).unwrap();
    site.node.start_daemon().await.unwrap();
    let mut runtime = site.node.runtime().await.unwrap();
    site.soon(pod::remove_pod(&mut runtime, &hostile)).await;
}
