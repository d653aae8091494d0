//! Users, capabilities, filters, limits, devices.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use corten_proto::shim::{Capabilities, Device, FailureKind, Resources, Rlimit, User, mount::Kind};
use corten_sys::cgroup::Hierarchies;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Scenario, check, process, scenarios};
use crate::site::{CAPABILITIES, Site, bind, create, run};

pub(super) const ALL: &[(&str, Scenario)] = scenarios![
    the_user_comes_from_the_image,
    a_working_directory_behind_a_link_is_roots,
    a_working_directory_that_only_root_may_enter_is_entered,
    an_unknown_user_is_told,
    capabilities_and_no_new_privileges,
    a_filter_is_loaded,
    limits_are_set,
    devices_are_refused_unless_allowed,
    a_privileged_container_starts,
    an_oom_kill_is_counted,
];

fn the_user_comes_from_the_image(site: &Site) {
    let mut plan = site.plan("id -u; id -g; id -G; echo $HOME; echo out > /dev/stdout; touch /made-cwd/x && stat -c %u /made-cwd");
    let process = process(&mut plan);
    process.user = Some(User {
        spec: "web".into(),
        supplemental_groups: vec![1234],
        ..User::default()
    });
    process.cwd = "/made-cwd".into();
    let outcome = run(plan).unwrap();
    assert_eq!(outcome.out, "33\n44\n44 50 1234\n/www\nout\n33\n");
    let identity = outcome.created.identity.unwrap();
    assert_eq!(
        (identity.uid, identity.gid, identity.groups),
        (33, 44, vec![44, 50, 1234])
    );
}

fn a_working_directory_behind_a_link_is_roots(site: &Site) {
    let volume = site.dir.join("volume-of-root");
    fs::create_dir(&volume).unwrap();
    symlink("/volume", site.dir.join("lower/to-volume")).unwrap();
    let mut plan = site.plan("pwd -P; stat -c %u /volume/deep; stat -c %u /volume");
    let (mut mount, volume) = bind(&site.path("volume-of-root"), "/volume");
    mount.kind = Some(Kind::Bind(volume));
    plan.mounts.push(mount);
    let process = process(&mut plan);
    process.user = Some(User {
        spec: "web".into(),
        ..User::default()
    });
    process.cwd = "/to-volume/deep".into();
    assert_eq!(run(plan).unwrap().out, "/volume/deep\n0\n0\n");
}

fn a_working_directory_that_only_root_may_enter_is_entered(site: &Site) {
    let secret = site.dir.join("lower/secret");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let plan = |script: &str| {
        let mut plan = site.plan(script);
        let process = process(&mut plan);
        process.user = Some(User {
            spec: "web".into(),
            ..User::default()
        });
        process.capabilities = None;
        process.cwd = "/secret".into();
        plan
    };
    let seen = run(plan(
        "readlink /proc/self/cwd; ls . 2>/dev/null || echo closed",
    ))
    .unwrap();
    assert_eq!(seen.out, "/secret\nclosed\n");
    site.renew();
    let mut waiting = create(plan("sleep 1000")).unwrap();
    waiting.start().unwrap();
    let (code, seen) = waiting.exec("readlink /proc/self/cwd; id -u").unwrap();
    assert_eq!((code, &*seen), (0, "/secret\n33\n"));
    assert_eq!(waiting.kill().code, 137);
}

fn an_unknown_user_is_told(site: &Site) {
    let mut plan = site.plan("true");
    process(&mut plan).user = Some(User {
        spec: "ghost".into(),
        ..User::default()
    });
    let failure = run(plan).unwrap_err();
    assert_eq!(
        (failure.kind(), &*failure.subject),
        (FailureKind::FailureInvalid, "ghost")
    );
    assert!(failure.hint.contains("/etc/passwd"));
}

fn capabilities_and_no_new_privileges(site: &Site) {
    let mut plan =
        site.plan("grep -E 'Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status");
    let process = process(&mut plan);
    process.no_new_privileges = true;
    process.user = Some(User {
        spec: "33".into(),
        ..User::default()
    });
    let capabilities = process.capabilities.as_mut().unwrap();
    (capabilities.inheritable, capabilities.ambient) = (1 << 10, 1 << 10);
    let all = format!("{CAPABILITIES:016x}");
    let one = format!("{:016x}", 1 << 10);
    check(
        plan,
        &format!(
            "CapPrm:\t{one}\nCapEff:\t{one}\nCapBnd:\t{all}\nCapAmb:\t{one}\nNoNewPrivs:\t1\nSeccomp:\t0\n"
        ),
    );
}

/// Everything is allowed, save for `call`, which fails with EIO.
fn filter(call: i64) -> Vec<u8> {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()].concat()
    };
    // ld [nr]; jeq call, 0, 1; ret errno; ret allow (include/uapi/linux/seccomp.h).
    let number = u32::try_from(call).unwrap();
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number),
        instruction(0x06, 0, 0, 0x5_0005),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat()
}

fn a_filter_is_loaded(site: &Site) {
    fs::write(site.dir.join("lower/file"), "").unwrap();
    // As a user that is not root: each way of no_new_privs needs another order of steps.
    for (no_new_privileges, word) in [(false, 0), (true, 1)] {
        site.renew();
        let mut plan = site.plan(
            "chmod 600 /file 2>&1; grep -E '^(Seccomp:|NoNewPrivs|CapEff)' /proc/self/status",
        );
        let process = process(&mut plan);
        process.seccomp_filter = filter(nix::libc::SYS_chmod);
        process.no_new_privileges = no_new_privileges;
        process.user = Some(User {
            spec: "33".into(),
            ..User::default()
        });
        let want = "chmod: /file: Input/output error\nCapEff:\t0000000000000000\n";
        check(plan, &format!("{want}NoNewPrivs:\t{word}\nSeccomp:\t2\n"));
    }
}

fn limits_are_set(site: &Site) {
    let mut plan = site.plan("ulimit -n; cat /proc/self/oom_score_adj; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes \
        /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; exit 0");
    let process = process(&mut plan);
    process.oom_score_adj = 500;
    process.rlimits = vec![
        Rlimit {
            resource: 7,
            soft: 512,
            hard: 1024,
        },
        Rlimit {
            resource: 8,
            soft: u64::MAX,
            hard: u64::MAX,
        },
    ];
    plan.cgroup.as_mut().unwrap().resources = Some(Resources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit: 64 << 20,
        pids_limit: 100,
        ..Resources::default()
    });
    let outcome = run(plan).unwrap();
    let unified = Hierarchies::detect().unwrap().is_unified();
    let cgroup = if unified {
        String::new()
    } else {
        format!("100\n{}\n50000\n", 64 << 20)
    };
    assert_eq!(outcome.out, format!("512\n500\n{cgroup}"));
}

fn devices_are_refused_unless_allowed(site: &Site) {
    if Hierarchies::detect().unwrap().is_unified() {
        return println!("SKIP devices: no v1 devices controller");
    }
    let script = "head -c 1 /dev/kmsg-denied > /dev/null 2>&1 || echo refused; head -c 4 /dev/mine > /dev/null && echo read";
    let mut plan = site.plan(script);
    plan.mounts
        .retain(|mount| mount.destination != "/dev/mqueue");
    plan.devices = vec![
        Device {
            source: "/dev/kmsg".into(),
            destination: "/dev/kmsg-denied".into(),
            permissions: "w".into(),
            ..Default::default()
        },
        Device {
            source: "/dev/urandom".into(),
            destination: "/dev/mine".into(),
            permissions: "rwm".into(),
            ..Default::default()
        },
    ];
    check(plan, "refused\nread\n");
}

fn a_privileged_container_starts(site: &Site) {
    let mut plan = site.plan("stat -c %t:%T /dev/kmsg; head -c 1 /dev/kmsg > /dev/null && echo read; mount -t tmpfs t /mnt && echo mounted; \
        touch /sys/fs/cgroup/pids/x 2>/dev/null; ls -d /dev/pts/ptmx");
    fs::create_dir(site.dir.join("lower/mnt")).unwrap();
    let all = Capabilities {
        bounding: u64::MAX,
        effective: u64::MAX,
        permitted: u64::MAX,
        ..Default::default()
    };
    process(&mut plan).capabilities = Some(all);
    plan.cgroup.as_mut().unwrap().all_devices = true;
    plan.devices = vec![Device {
        source: "/dev".into(),
        destination: "/dev".into(),
        permissions: "rwm".into(),
        ..Default::default()
    }];
    let outcome = run(plan).unwrap();
    assert_eq!(outcome.out, "1:b\nread\nmounted\n/dev/pts/ptmx\n");
    // No machine has the capability 63.
    assert!(
        outcome
            .created
            .warnings
            .iter()
            .any(|warning| warning.contains("63")),
        "{:?}",
        outcome.created.warnings
    );
}

fn an_oom_kill_is_counted(site: &Site) {
    let mut plan = site.plan("dd if=/dev/zero of=/dev/null bs=200M count=1");
    plan.cgroup.as_mut().unwrap().resources = Some(Resources {
        memory_limit: 32 << 20,
        memory_and_swap_limit: 32 << 20,
        ..Resources::default()
    });
    let mut waiting = create(plan).unwrap();
    waiting.start().unwrap();
    let pidfd = waiting.container.init.child().pidfd.try_clone().unwrap();
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
    let oom = waiting.container.oom().unwrap();
    assert_eq!((oom.kills, oom.limit.unwrap().bytes), (1, 32 << 20));
    assert_eq!(waiting.finish().code, 137);
}
