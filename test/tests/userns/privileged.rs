//! A privileged container in a user namespace: all rights there, none on the host.

use corten_test::pod;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_has_all_rights_inside_and_none_outside() {
    let mut config = pod::pod("privileged");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let mut site = Site::of(config).await;
    let id = site
        .run("privileged", |config| {
            pod::security(config).privileged = true
        })
        .await;
    let own = site.node.shell("grep CapEff /proc/self/status").unwrap();
    // As under containerd: every capability, no mask, /sys and cgroups writable, the host's devices as files of nobody.
    let seen = site
        .output(
            &id,
            "grep -E '^(CapEff|Seccomp):' /proc/self/status; grep -cE ' /proc/[^ ]+ ' /proc/self/mountinfo; \
             awk '$5 ~ \"^/sys\" { print $5, substr($6, 1, 2) }' /proc/self/mountinfo | sort -u; \
             stat -c '%F %u %t:%T' /dev/kmsg /dev/loop-control; mount -t tmpfs none /tmp && echo mounted",
        )
        .await;
    assert!(
        seen.starts_with(&format!("{own}Seccomp:\t0\n0\n/sys rw\n")),
        "{seen}"
    );
    let nobodys = "character special file 65534 1:b\ncharacter special file 65534 a:ed\nmounted\n";
    assert!(seen.ends_with(nobodys) && !seen.contains(" ro\n"), "{seen}");
    for script in [
        "echo 0 > /proc/sys/kernel/sysrq",
        "mknod /tmp/x c 1 3 && : > /tmp/x",
        "for d in $(find /dev -type b); do head -c 1 $d && exit 0; done; exit 1",
    ] {
        site.refused(&id, script).await;
    }
    site.end().await;
}
