//! Processes whose memory cannot be read without waiting for them.

use corten_proto::cri::NamespaceMode;
use corten_test::pod;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_memory_is_locked_holds_up_no_other_pod() {
    let mut site = Site::new().await;
    let options = options(NamespaceMode::Container, false);
    let pod = site.run_pod("hostile", &options).await;
    let server = site.serve(&pod, &options, "/tmp/file").await;
    // In the server's container, where its file is.
    let mut runtime = site.runtime.clone();
    let background = format!("({LOCK_MEMORY}) >/dev/null 2>&1 &");
    pod::output(&mut runtime, &server, &background)
        .await
        .unwrap();
    site.wait_for("maps").await;
    // Whoever reads its arguments waits.
    let locked = "for p in /proc/[0-9]*; do grep -qx perl $p/comm 2>/dev/null || continue; \
        timeout 0.5 cat $p/cmdline >/dev/null || exit 0; done; exit 1";
    site.node.shell_until(locked).await.unwrap();
    site.others_live().await;
    site.soon(pod::remove_pod(&mut runtime, &pod)).await;
}
