//! Numbers of system calls.

use libseccomp::ScmpSyscall;

use super::{
    arch::{self, Arch},
    profile::Condition,
};

/// Those that libseccomp 2.5.4, Debian 12's, does not know. From 424 on a number is the same on
/// every architecture: `scripts/syscall.tbl` of Linux 6.18.
const NEWER: [(&str, u32); 19] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// `arch/x86/entry/syscalls/syscall_64.tbl`, since 6.11.
const URETPROBE: (&str, u32) = ("uretprobe", 335);

/// The number of `name`, with the base of the architecture. None where there is no such call.
pub(super) fn number(name: &str, arch: &Arch) -> Option<u32> {
    let known = ScmpSyscall::from_name_by_arch(name, arch.libseccomp);
    // libseccomp answers with a negative number when other architectures have the call, or when it
    // is multiplexed.
    if let Ok(number) = known.map(i32::from).map(u32::try_from) {
        return number.ok().or_else(|| direct(name, arch));
    }
    if name == URETPROBE.0 && *arch == arch::X86_64 {
        return Some(URETPROBE.1);
    }
    NEWER
        .iter()
        .find(|(newer, _)| *newer == name)
        .map(|(_, number)| arch.base + number)
}

/// One of many calls behind one number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Multiplexed {
    /// `socketcall` or `ipc`.
    pub(super) number: u32,
    /// Which of the many it is.
    pub(super) condition: Condition,
}

/// 32-bit x86 has a second way to these, and older C libraries no other.
pub(super) fn multiplexed(name: &str, arch: &Arch) -> Option<Multiplexed> {
    if *arch != arch::X86 {
        return None;
    }
    if let Some((_, call, _)) = SOCKETCALL.iter().find(|(call, ..)| *call == name) {
        return Some(Multiplexed {
            number: 102,
            condition: Condition::equal(0, *call),
        });
    }
    let (_, call, _) = IPC.iter().find(|(call, ..)| *call == name)?;
    // The upper half is the version of the interface.
    Some(Multiplexed {
        number: 117,
        condition: Condition::masked_equal(0, 0xffff, *call),
    })
}

/// The number that 32-bit x86 has given to a multiplexed call since, of which libseccomp 2.5 does
/// not tell.
fn direct(name: &str, arch: &Arch) -> Option<u32> {
    let calls = SOCKETCALL.iter().chain(&IPC).filter(|_| *arch == arch::X86);
    calls
        .into_iter()
        .find(|(call, ..)| *call == name)
        .and_then(|(_, _, number)| *number)
}

/// Name, number as `socketcall` has it (`include/uapi/linux/net.h`), number of its own
/// (`syscall_32.tbl`).
const SOCKETCALL: [(&str, u64, Option<u32>); 20] = [
    ("socket", 1, Some(359)),
    ("bind", 2, Some(361)),
    ("connect", 3, Some(362)),
    ("listen", 4, Some(363)),
    ("accept", 5, None),
    ("getsockname", 6, Some(367)),
    ("getpeername", 7, Some(368)),
    ("socketpair", 8, Some(360)),
    ("send", 9, None),
    ("recv", 10, None),
    ("sendto", 11, Some(369)),
    ("recvfrom", 12, Some(371)),
    ("shutdown", 13, Some(373)),
    ("setsockopt", 14, Some(366)),
    ("getsockopt", 15, Some(365)),
    ("sendmsg", 16, Some(370)),
    ("recvmsg", 17, Some(372)),
    ("accept4", 18, Some(364)),
    ("recvmmsg", 19, Some(337)),
    ("sendmmsg", 20, Some(345)),
];

/// The same for `ipc` (`include/uapi/linux/ipc.h`).
const IPC: [(&str, u64, Option<u32>); 12] = [
    ("semop", 1, None),
    ("semget", 2, Some(393)),
    ("semctl", 3, Some(394)),
    ("semtimedop", 4, None),
    ("msgsnd", 11, Some(400)),
    ("msgrcv", 12, Some(401)),
    ("msgget", 13, Some(399)),
    ("msgctl", 14, Some(402)),
    ("shmat", 21, Some(397)),
    ("shmdt", 22, Some(398)),
    ("shmget", 23, Some(395)),
    ("shmctl", 24, Some(396)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use arch::{X32, X86, X86_64};

    #[test]
    fn names_have_the_kernels_numbers() {
        for (name, want) in [
            ("read", [Some(0), Some(3), Some(0x4000_0000)]),
            ("execve", [Some(59), Some(11), Some(0x4000_0208)]),
            ("chown32", [None, Some(212), None]),
            ("arch_prctl", [Some(158), Some(384), Some(0x4000_009e)]),
            ("clone3", [Some(435), Some(435), Some(0x4000_01b3)]),
            ("socketcall", [None, Some(102), None]),
            ("semop", [Some(65), None, Some(0x4000_0041)]),
            ("socket", [Some(41), Some(359), Some(0x4000_0029)]),
            ("shmctl", [Some(31), Some(396), Some(0x4000_001f)]),
            ("mseal", [Some(462), Some(462), Some(0x4000_01ce)]),
            ("uretprobe", [Some(335), None, None]),
            ("no_such_call", [None; 3]),
        ] {
            assert_eq!(
                [&X86_64, &X86, &X32].map(|arch| number(name, arch)),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn only_32_bit_x86_multiplexes() {
        let socket = Multiplexed {
            number: 102,
            condition: Condition::equal(0, 1),
        };
        assert_eq!(multiplexed("socket", &X86), Some(socket));
        assert_eq!(multiplexed("shmctl", &X86).unwrap().number, 117);
        assert_eq!(multiplexed("socket", &X86_64), None);
        assert_eq!(multiplexed("read", &X86), None);
    }
}
