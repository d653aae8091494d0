//! The profile RuntimeDefault: what an ordinary program needs, less what has opened hosts to
//! containers.
//!
//! In effect the profile that the pinned containerd makes for the same capabilities, which `facts`
//! holds it against call by call. What is not named answers EPERM; what is newer than all names, ENOSYS.

use super::{
    super::capabilities::mask,
    arch,
    profile::{Action, Condition, Profile, Rule},
};

/// For every container.
const ALLOWED: &[&str] = &[
    // Sockets.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom",
    "recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown",
    "socketcall socketpair",
    // System V and POSIX message queues, semaphores, shared memory.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend",
    "mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop",
    "semtimedop_time64 shmat shmctl shmdt shmget",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock",
    "mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap",
    "pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages",
    // Clocks and timers.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64",
    "clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer",
    "gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun",
    "timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime",
    "timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Signals.
    "kill pause pidfd_open pidfd_send_signal restart_syscall rt_sigaction rt_sigpending",
    "rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait",
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask",
    "sigreturn tgkill tkill",
    // Waiting and locking.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait",
    "epoll_wait_old eventfd eventfd2 fanotify_mark futex futex_requeue futex_time64 futex_wait",
    "futex_waitv futex_wake get_robust_list inotify_add_watch inotify_init inotify_init1",
    "inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64",
    "io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 rseq select",
    "set_robust_list",
    // Who a process is.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32",
    "getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid",
    "setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32",
    "setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Processes and scheduling.
    "arch_prctl execve execveat exit exit_group fork get_thread_area getcpu getpgid getpgrp",
    "getpid getppid getpriority getrandom getrlimit getrusage getsid gettid ioprio_get",
    "ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    "lsm_get_self_attr lsm_list_modules lsm_set_self_attr modify_ldt prctl prlimit64",
    "process_vm_readv process_vm_writev ptrace sched_get_priority_max sched_get_priority_min",
    "sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval",
    "sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam",
    "sched_setscheduler sched_yield seccomp set_thread_area set_tid_address setpgid setpriority",
    "setrlimit setsid sysinfo ugetrlimit umask uname uretprobe vfork wait4 waitid waitpid",
    // Files and their attributes.
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3",
    "faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2",
    "fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr",
    "fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat",
    "getcwd getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat",
    "listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat",
    "lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe",
    "pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat",
    "readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64",
    "setxattr setxattrat splice stat stat64 statfs statfs64 statmount statx symlink symlinkat",
    "sync sync_file_range syncfs tee truncate truncate64 unlink unlinkat utime utimensat",
    "utimensat_time64 utimes vmsplice write writev",
    // What 32-bit ARM has of its own; programs for it do not start without `set_tls`.
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
];

/// For those whose bounding set has the capability, without which the calls would fail anyway.
const BY_CAPABILITY: &[(u64, &str)] = &[
    (mask(&["BPF"]), "bpf"),
    (mask(&["DAC_READ_SEARCH"]), "open_by_handle_at"),
    (mask(&["PERFMON"]), "perf_event_open"),
    (
        SYS_ADMIN,
        "bpf clone clone3 fanotify_init lookup_dcookie perf_event_open quotactl quotactl_fd",
    ),
    (
        SYS_ADMIN,
        "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree umount umount2",
    ),
    (SYS_ADMIN, "setdomainname sethostname setns syslog unshare"),
    (mask(&["SYS_BOOT"]), "reboot"),
    (mask(&["SYS_CHROOT"]), "chroot"),
    (
        mask(&["SYS_MODULE"]),
        "delete_module finit_module init_module",
    ),
    (
        mask(&["SYS_NICE"]),
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (mask(&["SYS_PACCT"]), "acct"),
    (mask(&["SYS_PTRACE"]), "kcmp pidfd_getfd process_madvise"),
    (mask(&["SYS_RAWIO"]), "ioperm iopl"),
    (
        mask(&["SYS_TIME"]),
        "clock_settime clock_settime64 settimeofday stime",
    ),
    (mask(&["SYS_TTY_CONFIG"]), "vhangup"),
    (mask(&["SYSLOG"]), "syslog"),
];

const SYS_ADMIN: u64 = mask(&["SYS_ADMIN"]);

/// `include/linux/socket.h`: all up to the first, and the others. The kernel's crypto (38) and the
/// hypervisor's sockets (40) know no network namespace, and what comes after MCTP nobody has judged.
const AF_ALG: u64 = 38;
const FAMILIES: [u64; 6] = [39, 41, 42, 43, 44, 45];

/// The CLONE_NEW* of cgroup, IPC, mount, network, PID, user and UTS, `include/uapi/linux/sched.h`.
const NAMESPACES: u64 = 0x7e02_0000;

/// `include/uapi/linux/personality.h`: Linux, 32-bit Linux, each also with the old uname, and the
/// question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Those capabilities that make a difference.
pub(super) fn capabilities() -> u64 {
    BY_CAPABILITY
        .iter()
        .fold(0, |all, (capability, _)| all | capability)
}

/// The profile for a process with this bounding set.
pub(super) fn profile(capabilities: u64) -> Profile {
    let allow = |names| Rule::of(names, Action::ALLOW, Vec::new());
    let mut rules: Vec<Rule> = ALLOWED.iter().copied().map(allow).collect();
    let opened = BY_CAPABILITY
        .iter()
        .filter(|(capability, _)| capabilities & capability != 0);
    rules.extend(opened.map(|(_, names)| allow(names)));

    let older = Condition::greater_or_equal(0, AF_ALG).not();
    let families = FAMILIES.map(|family| Condition::equal(0, family));
    for family in [older].into_iter().chain(families) {
        rules.push(Rule::of("socket", Action::ALLOW, vec![family]));
    }
    for personality in PERSONALITIES {
        rules.push(Rule::of(
            "personality",
            Action::ALLOW,
            vec![Condition::equal(0, personality)],
        ));
    }
    if capabilities & SYS_ADMIN == 0 {
        let own = Condition::masked_equal(0, NAMESPACES, 0);
        rules.push(Rule::of("clone", Action::ALLOW, vec![own]));
        // Its flags lie in memory that a filter cannot read; C libraries fall back to clone.
        rules.push(Rule::of("clone3", Action::ENOSYS, Vec::new()));
    }
    Profile {
        default: Action::EPERM,
        flags: 0,
        arches: arch::native(),
        rules,
    }
}

#[cfg(test)]
mod tests {
    use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

    use super::*;
    use crate::spec::{
        capabilities::DEFAULT,
        seccomp::{
            arch::{Arch, X32, X86, X86_64},
            compile::compile,
            profile::Test,
            simulate::{Call, run},
            syscall,
        },
    };

    fn answer(capabilities: u64, name: &str, arguments: [u64; 6]) -> Action {
        let filter = compile(&profile(capabilities)).unwrap();
        let number = syscall::number(name, &X86_64).unwrap();
        run(
            &filter,
            &Call {
                audit: X86_64.audit,
                number,
                arguments,
            },
        )
    }

    #[test]
    fn every_name_is_a_system_call_of_some_architecture() {
        let all = profile(u64::MAX)
            .rules
            .into_iter()
            .flat_map(|rule| rule.names);
        for name in all {
            let known =
                ScmpSyscall::from_name(&name).is_ok() || syscall::number(&name, &X86_64).is_some();
            assert!(known, "{name}");
        }
    }

    #[test]
    fn holes_are_closed_and_open_by_capability() {
        for (name, capability) in [
            ("bpf", "BPF"),
            ("mount", "SYS_ADMIN"),
            ("reboot", "SYS_BOOT"),
            ("setns", "SYS_ADMIN"),
            ("kcmp", "SYS_PTRACE"),
        ] {
            assert_eq!(answer(DEFAULT, name, [0; 6]), Action::EPERM, "{name}");
            assert_eq!(
                answer(mask(&[capability]), name, [0; 6]),
                Action::ALLOW,
                "{name}"
            );
        }
        for name in [
            "io_uring_setup",
            "keyctl",
            "add_key",
            "userfaultfd",
            "kexec_load",
            "swapon",
            "pivot_root",
        ] {
            assert_eq!(answer(u64::MAX, name, [0; 6]), Action::EPERM, "{name}");
        }
        assert_eq!(answer(DEFAULT, "chroot", [0; 6]), Action::ALLOW);
        assert_eq!(answer(0, "chroot", [0; 6]), Action::EPERM);
    }

    #[test]
    fn namespaces_are_for_those_with_sys_admin() {
        const NEWUSER: u64 = 0x1000_0000;
        const THREAD: u64 = 0x003d_0f00;
        assert_eq!(
            answer(DEFAULT, "clone", [THREAD, 0, 0, 0, 0, 0]),
            Action::ALLOW
        );
        assert_eq!(
            answer(DEFAULT, "clone", [THREAD | NEWUSER, 0, 0, 0, 0, 0]),
            Action::EPERM
        );
        assert_eq!(answer(DEFAULT, "clone3", [0; 6]), Action::ENOSYS);
        assert_eq!(
            answer(SYS_ADMIN, "clone", [NEWUSER, 0, 0, 0, 0, 0]),
            Action::ALLOW
        );
        assert_eq!(answer(SYS_ADMIN, "clone3", [0; 6]), Action::ALLOW);
    }

    #[test]
    fn arguments_are_looked_at() {
        let family = |family| answer(DEFAULT, "socket", [family, 0, 0, 0, 0, 0]);
        assert_eq!([1, 2, 10, 16, 39, 41].map(family), [Action::ALLOW; 6]);
        assert_eq!([AF_ALG, 40, 46, u64::MAX].map(family), [Action::EPERM; 4]);
        let personality = |value| answer(DEFAULT, "personality", [value, 0, 0, 0, 0, 0]);
        assert_eq!(PERSONALITIES.map(personality), [Action::ALLOW; 5]);
        assert_eq!(personality(0x0040_0000), Action::EPERM, "ADDR_NO_RANDOMIZE");
    }

    #[test]
    fn a_call_of_tomorrow_does_not_exist() {
        let filter = compile(&profile(DEFAULT)).unwrap();
        let future = Call {
            audit: X86_64.audit,
            number: 900,
            arguments: [0; 6],
        };
        assert_eq!(run(&filter, &future), Action::ENOSYS);
    }

    /// libseccomp's own compilation of the same rules.
    fn reference(profile: &Profile) -> Vec<u8> {
        let mut context = ScmpFilterContext::new(ScmpAction::Errno(1)).unwrap();
        context
            .add_arch(X86.libseccomp)
            .unwrap()
            .add_arch(X32.libseccomp)
            .unwrap();
        for rule in &profile.rules {
            let action = if rule.action == Action::ALLOW {
                ScmpAction::Allow
            } else {
                ScmpAction::Errno(38)
            };
            for name in &rule.names {
                let Ok(call) = ScmpSyscall::from_name(name) else {
                    continue;
                };
                let compares: Vec<_> = rule.conditions.iter().map(compare).collect();
                context
                    .add_rule_conditional(action, call, &compares)
                    .unwrap();
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        context.export_bpf(&file).unwrap();
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        bytes
    }

    fn compare(condition: &Condition) -> ScmpArgCompare {
        let (op, value) = match (condition.test, condition.negated) {
            (Test::MaskedEqual { mask, value }, false) => (ScmpCompareOp::MaskedEqual(mask), value),
            (Test::GreaterOrEqual(value), true) => (ScmpCompareOp::Less, value),
            _ => panic!("{condition:?}"),
        };
        ScmpArgCompare::new(condition.argument.into(), op, value)
    }

    /// What libseccomp can say of a number: those that it has no name for are not in its filter.
    fn judged_by_both(number: u32, arch: &Arch) -> bool {
        let call = ScmpSyscall::from(i32::try_from(number).unwrap());
        call.get_name_by_arch(arch.libseccomp).is_ok()
    }

    #[test]
    fn libseccomp_compiles_the_same() {
        const FIRST: [u64; 12] = [
            0,
            1,
            2,
            8,
            37,
            38,
            39,
            40,
            41,
            0x2_0008,
            0x1000_0000,
            0xffff_ffff,
        ];
        for capabilities in [DEFAULT, 0, SYS_ADMIN, u64::MAX] {
            let profile = profile(capabilities);
            let (ours, theirs) = (compile(&profile).unwrap(), reference(&profile));
            assert!(
                ours.len() < theirs.len(),
                "{} {}",
                ours.len() / 8,
                theirs.len() / 8
            );
            let mut judged = 0;
            for arch in [&X86_64, &X86, &X32] {
                for number in
                    (arch.base..arch.base + 600).filter(|number| judged_by_both(*number, arch))
                {
                    for first in FIRST {
                        let call = Call {
                            audit: arch.audit,
                            number,
                            arguments: [first, 0, 0, 0, 0, 0],
                        };
                        assert_eq!(
                            run(&ours, &call),
                            run(&theirs, &call),
                            "{} {number} {first:#x}",
                            arch.name
                        );
                    }
                    judged += 1;
                }
            }
            assert!(judged > 1000, "{judged}");
        }
    }
}
