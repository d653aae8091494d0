//! What has to hold in a container. Each scenario panics where it does not.

use std::{fs, process::ExitCode};

use corten_proto::shim::{
    Device, FailureKind, Mount, MountAttributes, Plan, Process, Propagation, Resources, Rlimit,
    User, mount::Kind,
};
use corten_sys::cgroup::Hierarchies;

use crate::site::{CAPABILITIES, Site, bind, create, run as run_plan};

type Scenario = fn(&Site);

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("a_container_is_isolated", a_container_is_isolated),
    ("devices_and_links_are_there", devices_and_links_are_there),
    (
        "the_user_comes_from_the_image",
        the_user_comes_from_the_image,
    ),
    ("an_unknown_user_is_told", an_unknown_user_is_told),
    (
        "a_missing_program_is_told_at_start",
        a_missing_program_is_told_at_start,
    ),
    ("volumes_are_mounted", volumes_are_mounted),
    ("a_missing_volume_is_told", a_missing_volume_is_told),
    (
        "destinations_stay_in_the_root",
        destinations_stay_in_the_root,
    ),
    (
        "paths_are_masked_and_read_only",
        paths_are_masked_and_read_only,
    ),
    (
        "a_read_only_root_is_read_only",
        a_read_only_root_is_read_only,
    ),
    (
        "capabilities_and_no_new_privileges",
        capabilities_and_no_new_privileges,
    ),
    ("a_filter_is_loaded", a_filter_is_loaded),
    ("limits_are_set", limits_are_set),
    (
        "devices_are_refused_unless_allowed",
        devices_are_refused_unless_allowed,
    ),
    ("exec_runs_in_the_container", exec_runs_in_the_container),
    (
        "an_exec_is_killed_with_its_children",
        an_exec_is_killed_with_its_children,
    ),
    ("an_oom_kill_is_counted", an_oom_kill_is_counted),
    (
        "the_hosts_files_cannot_be_reached",
        the_hosts_files_cannot_be_reached,
    ),
    ("a_terminal_is_the_streams", a_terminal_is_the_streams),
];

pub(crate) fn run(name: &str) -> ExitCode {
    let Some((_, scenario)) = ALL.iter().find(|(known, _)| known == &name) else {
        return ExitCode::FAILURE;
    };
    let site = Site::new();
    scenario(&site);
    ExitCode::SUCCESS
}

fn process(plan: &mut Plan) -> &mut Process {
    plan.process.as_mut().unwrap()
}

/// Runs `script` and compares what it prints.
#[track_caller]
fn check(plan: Plan, want: &str) {
    let outcome = run_plan(plan).unwrap();
    assert_eq!((outcome.out.as_str(), outcome.code), (want, 0));
}

fn a_container_is_isolated(site: &Site) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script =
        "echo $$; cat /proc/self/cgroup | head -3; ls /; ls /sys/fs/cgroup | head -2; exit 7";
    let outcome = run_plan(site.plan(script)).unwrap();
    let hierarchies = Hierarchies::detect().unwrap();
    let in_own_cgroup = outcome
        .out
        .lines()
        .filter(|line| line.ends_with(":/"))
        .count();
    assert!(outcome.out.starts_with("1\n"), "{}", outcome.out);
    assert_eq!(
        in_own_cgroup,
        3.min(hierarchies.v1.len() + 1),
        "{}",
        outcome.out
    );
    assert!(
        !outcome.out.contains("root\n"),
        "the template's root is seen: {}",
        outcome.out
    );
    assert_eq!(outcome.code, 7);
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
    // The writable layer has what mounting has made, and nothing of the host.
    assert!(fs::metadata(site.dir.join("upper/proc")).unwrap().is_dir());
}

fn devices_and_links_are_there(site: &Site) {
    let script = "for n in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$n; done; \
        readlink /dev/fd; readlink /dev/ptmx; cat /dev/stdin; echo x > /dev/stdout; ls /dev/pts";
    let nodes = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\n";
    check(
        site.plan(script),
        &format!("{nodes}/proc/self/fd\npts/ptmx\nx\nptmx\n"),
    );
}

fn the_user_comes_from_the_image(site: &Site) {
    let mut plan = site.plan("id -u; id -g; id -G; echo $HOME; echo out > /dev/stdout; touch /made-cwd/x && stat -c %u /made-cwd");
    let process = process(&mut plan);
    process.user = Some(User {
        spec: "web".into(),
        supplemental_groups: vec![1234],
        ..User::default()
    });
    process.cwd = "/made-cwd".into();
    let outcome = run_plan(plan).unwrap();
    assert_eq!(outcome.out, "33\n44\n44 50 1234\n/www\nout\n33\n");
    let identity = outcome.created.identity.unwrap();
    assert_eq!(
        (identity.uid, identity.gid, identity.groups),
        (33, 44, vec![44, 50, 1234])
    );
}

fn an_unknown_user_is_told(site: &Site) {
    let mut plan = site.plan("true");
    process(&mut plan).user = Some(User {
        spec: "ghost".into(),
        ..User::default()
    });
    let failure = run_plan(plan).unwrap_err();
    assert_eq!(
        (failure.kind(), &*failure.subject),
        (FailureKind::FailureInvalid, "ghost")
    );
    assert!(failure.hint.contains("/etc/passwd"));
}

fn a_missing_program_is_told_at_start(site: &Site) {
    let mut plan = site.plan("");
    process(&mut plan).args = vec![b"no-such-program".to_vec()];
    let mut waiting = create(plan).unwrap();
    let failure = waiting.start().unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno),
        (FailureKind::FailureExec, nix::libc::ENOENT)
    );
    assert_eq!(failure.subject, "no-such-program");
    assert_eq!(waiting.finish().code, 127);
}

fn mounted(
    source: &str,
    destination: &str,
    change: impl FnOnce(&mut Mount, &mut corten_proto::shim::Bind),
) -> Mount {
    let (mut mount, mut bind) = bind(source, destination);
    change(&mut mount, &mut bind);
    Mount {
        kind: Some(Kind::Bind(bind)),
        ..mount
    }
}

fn volumes_are_mounted(site: &Site) {
    fs::write(site.dir.join("volume/file"), "hello\n").unwrap();
    std::os::unix::fs::symlink(site.path("volume"), site.dir.join("volume-link")).unwrap();
    let readonly = |mount: &mut Mount, _: &mut _| {
        mount.attributes = Some(MountAttributes {
            readonly: true,
            ..Default::default()
        })
    };
    let mut plan = site.plan(
        "cat /data/deep/file; touch /data/deep/new && echo wrote; touch /ro/new 2>&1; cat /etc/one; ls -d /made; \
         touch /data/deep/../../link/x; grep -c shared: /proc/self/mountinfo",
    );
    plan.mounts.extend([
        mounted(&site.path("volume-link"), "/data/deep", |_, _| ()),
        mounted(&site.path("volume"), "/ro", readonly),
        mounted(&site.path("volume/file"), "/etc/one", |_, _| ()),
        mounted(&site.path("missing/dir"), "/made", |_, bind| {
            bind.create_source = true
        }),
    ]);
    let outcome = run_plan(plan).unwrap();
    assert_eq!(
        outcome.out,
        "hello\nwrote\ntouch: /ro/new: Read-only file system\nhello\n/made\n0\n"
    );
    assert!(site.dir.join("volume/new").exists() && site.dir.join("missing/dir").is_dir());
}

fn a_missing_volume_is_told(site: &Site) {
    let mut plan = site.plan("true");
    plan.mounts
        .push(mounted("/no/such/volume", "/data", |_, _| ()));
    let failure = run_plan(plan).unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno),
        (FailureKind::FailureInvalid, nix::libc::ENOENT)
    );
    assert_eq!(failure.subject, "/no/such/volume on /data");

    site.renew();
    let mut plan = site.plan("true");
    fs::write(site.dir.join("volume/file"), "").unwrap();
    plan.mounts
        .push(mounted(&site.path("volume/file"), "/bin", |_, _| ()));
    let failure = run_plan(plan).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid, "{failure:?}");

    site.renew();
    let mut plan = site.plan("true");
    let two_way = |_: &mut Mount, bind: &mut corten_proto::shim::Bind| {
        bind.set_propagation(Propagation::Bidirectional)
    };
    plan.mounts
        .push(mounted(&site.path("volume"), "/data", two_way));
    match run_plan(plan) {
        Ok(_) => assert!(
            fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains("shared:")
        ),
        Err(failure) => assert!(failure.hint.contains("make-rshared"), "{failure:?}"),
    }
}

fn destinations_stay_in_the_root(site: &Site) {
    let outside = site.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, site.dir.join("lower/escape")).unwrap();
    let mut plan = site.plan("ls /link-target/in; ls -d /escape/in");
    plan.mounts.extend([
        mounted(&site.path("volume"), "/link/in", |_, _| ()),
        mounted(&site.path("volume"), "/escape/in", |_, _| ()),
        mounted(&site.path("volume"), "/../../escape/up", |_, _| ()),
    ]);
    check(plan, "/escape/in\n");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

fn paths_are_masked_and_read_only(site: &Site) {
    fs::copy("/usr/bin/busybox", site.dir.join("lower/bin/own")).unwrap();
    let mut plan = site.plan(
        "ls /proc/acpi /etc; /bin/own 2>&1; cat /bin/own; echo x 2>&1 > /proc/sys/kernel/domainname; touch /etc/x 2>&1; exit 0",
    );
    plan.masked_paths = [
        "/proc/acpi",
        "/etc",
        "/bin/own",
        "/not/there",
        "/proc/kcore",
    ]
    .map(Into::into)
    .into();
    plan.readonly_paths = ["/proc/sys", "/not/there"].map(Into::into).into();
    let out = run_plan(plan).unwrap().out;
    assert!(out.contains("sh: /bin/own: Permission denied\n"), "{out}");
    assert!(
        out.contains("/proc/sys/kernel/domainname: Read-only file system"),
        "{out}"
    );
    assert!(
        out.contains("touch: /etc/x: Read-only file system"),
        "{out}"
    );
    assert!(!out.contains("passwd"), "{out}");
}

fn a_read_only_root_is_read_only(site: &Site) {
    let mut plan = site.plan("touch test.go 2>&1; echo fine > /dev/null && echo ok");
    plan.rootfs.as_mut().unwrap().readonly = true;
    check(plan, "touch: test.go: Read-only file system\nok\n");
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

/// Everything is allowed, save for `call`, which fails with EPERM.
fn filter(call: i64) -> Vec<u8> {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()].concat()
    };
    // ld [nr]; jeq call, 0, 1; ret errno; ret allow (include/uapi/linux/seccomp.h).
    let number = u32::try_from(call).unwrap();
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number),
        instruction(0x06, 0, 0, 0x5_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat()
}

fn a_filter_is_loaded(site: &Site) {
    // As a user that is not root, without and with no_new_privs: each needs another order of steps.
    let mut plan = site.plan("chmod 600 /tmp-file 2>&1; grep -E '^(Seccomp|NoNewPrivs|CapEff)' /proc/self/status; cat /proc/self/uid_map");
    fs::write(site.dir.join("lower/tmp-file"), "").unwrap();
    let process = process(&mut plan);
    process.seccomp_filter = [filter(nix::libc::SYS_chmod), Vec::new()].concat();
    process.user = Some(User {
        spec: "33".into(),
        ..User::default()
    });
    let out = run_plan(plan).unwrap().out;
    assert!(out.contains("Operation not permitted"), "{out}");
    assert!(
        out.contains("CapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"),
        "{out}"
    );
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
    let outcome = run_plan(plan).unwrap();
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
        },
        Device {
            source: "/dev/urandom".into(),
            destination: "/dev/mine".into(),
            permissions: "rwm".into(),
        },
    ];
    check(plan, "refused\nread\n");
}

fn exec_runs_in_the_container(site: &Site) {
    // The last number is how many namespaces differ from those of init.
    const SCRIPT: &str = "echo $COLOUR $HOME; cat /proc/1/comm; readlink /proc/self/cwd; id -G; \
        n=0; for s in mnt net ipc uts pid cgroup; do [ $(readlink /proc/1/ns/$s) = $(readlink /proc/self/ns/$s) ] || n=$((n+1)); done; \
        echo $n; exit 5";
    let mut plan = site.plan("touch /ready; sleep 1000");
    process(&mut plan).env.push(b"COLOUR=blue".to_vec());
    let mut waiting = create(plan).unwrap();
    waiting.start().unwrap();
    while !site.dir.join("upper/ready").exists() {
        std::thread::yield_now();
    }
    let (code, out) = waiting.exec(SCRIPT).unwrap();
    assert_eq!((out.as_str(), code), ("blue /root\nsleep\n/\n0 10\n0\n", 5));
    for number in 0..3 {
        assert_eq!(waiting.exec(&format!("exit {number}")).unwrap().0, number);
    }
    let outcome = waiting.kill();
    assert_eq!(outcome.code, 137);
}

fn an_exec_is_killed_with_its_children(site: &Site) {
    let mut waiting = create(site.plan("sleep 1000")).unwrap();
    waiting.start().unwrap();
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let script = "(sleep 1000 & ) ; (sleep 1000 &); echo; sleep 1000";
    let args = ["sh", "-c", script]
        .map(|arg| arg.as_bytes().to_vec())
        .to_vec();
    let stdio = crate::container::Stdio {
        stdin: None,
        stderr: stdout.try_clone().unwrap(),
        stdout,
    };
    let exec = crate::container::exec(&mut waiting.container, args, stdio).unwrap();
    rustix::io::read(&out, &mut [0; 1]).unwrap();
    exec.kill().unwrap();
    let ended = corten_sys::process::wait(std::os::fd::AsFd::as_fd(&exec.child.pidfd)).unwrap();
    assert_eq!(ended.code(), 137);
    // The pipe ends when nobody holds it any more.
    assert_eq!(rustix::io::read(&out, &mut [0; 1]).unwrap(), 0);
    exec.remove_cgroup();
    let (_, left) = waiting
        .exec("cat /proc/[0-9]*/stat | grep -c ' (sleep) [^Z]'")
        .unwrap();
    // That of init, which does not reap what it has inherited.
    assert_eq!(left.trim(), "1");
    assert_eq!(waiting.kill().code, 137);
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
    let pidfd = waiting.container.init.pidfd.try_clone().unwrap();
    rustix::event::poll(
        &mut [rustix::event::PollFd::new(
            &pidfd,
            rustix::event::PollFlags::IN,
        )],
        None,
    )
    .unwrap();
    assert_eq!(waiting.container.oom_kills(), 1);
    assert_eq!(waiting.finish().code, 137);
}

fn the_hosts_files_cannot_be_reached(site: &Site) {
    for cwd in ["/proc/self/fd/3", "/proc/1/cwd", "/proc/self/fd/5/.."] {
        let mut plan = site.plan("true");
        process(&mut plan).cwd = cwd.into();
        let failure = run_plan(plan).unwrap_err();
        assert_eq!(
            failure.operation, "open working directory",
            "{cwd}: {failure:?}"
        );
        site.renew();
    }
    // Nothing but the streams and the directory that ls itself reads.
    check(site.plan("ls /proc/self/fd"), "0\n1\n2\n3\n");
}

fn a_terminal_is_the_streams(site: &Site) {
    let mut plan = site.plan("readlink /proc/self/fd/0; test -t 0 && test -t 1 && test -t 2 && echo tty > /dev/tty; stat -c %t:%T /dev/console");
    process(&mut plan).terminal = true;
    let mut waiting = create(plan).unwrap();
    let master = waiting.report.take_terminal().expect("a terminal");
    waiting.start().unwrap();
    assert_eq!(waiting.finish().code, 0);
    let mut text = [0; 256];
    let length = rustix::io::read(&master, &mut text).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&text[..length]),
        "/dev/pts/0\r\ntty\r\n88:0\r\n"
    );
}
