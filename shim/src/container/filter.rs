//! What a seccomp filter says to calls of ours, to know before it is loaded whether we could still make them.

use corten_sys::sibling;
use nix::libc::{self, c_long};

/// include/uapi/linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
/// include/uapi/linux/seccomp.h: allowed, and allowed with a word in the log.
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const ACTION: u32 = 0xffff_0000;
/// Of `struct sock_filter`, bytes.
const INSTRUCTION: usize = 8;

/// Whether a process that has loaded the filter can still give up capabilities, have a sibling made that leads a session
/// and a terminal, and end.
pub(super) fn allows_birth(filter: &[u8]) -> bool {
    let flags = u64::from(sibling::FLAGS);
    let calls: [(c_long, [u64; 3]); 7] = [
        (libc::SYS_capset, [0; 3]),
        (libc::SYS_prctl, ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL)),
        (libc::SYS_prctl, ambient(libc::PR_CAP_AMBIENT_RAISE)),
        (libc::SYS_clone, [flags, 0, 0]),
        (libc::SYS_exit_group, [0; 3]),
        (libc::SYS_setsid, [0; 3]),
        (libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0]),
    ];
    calls.iter().all(|(number, arguments)| {
        let answer = u32::try_from(*number)
            .ok()
            .and_then(|number| run(filter, number, arguments));
        matches!(answer.map(|answer| answer & ACTION), Some(ALLOW | LOG))
    })
}

fn ambient(what: libc::c_int) -> [u64; 3] {
    let word = |value: libc::c_int| u64::from(value.cast_unsigned());
    [word(libc::PR_CAP_AMBIENT), word(what), 0]
}

/// The filter's answer; `None` for a program that the kernel would not load, and for instructions that filters of the
/// daemon's have not (Documentation/networking/filter.rst).
fn run(filter: &[u8], number: u32, arguments: &[u64]) -> Option<u32> {
    let mut at = 0;
    let mut word = 0;
    loop {
        let [a, b, yes, no, operand @ ..] = *filter
            .get(at * INSTRUCTION..)?
            .first_chunk::<INSTRUCTION>()?;
        let operand = u32::from_ne_bytes(operand);
        let jump = |holds: bool| usize::from(if holds { yes } else { no });
        at += 1;
        match u32::from(u16::from_ne_bytes([a, b])) {
            LOAD => word = load(operand, number, arguments)?,
            AND => word &= operand,
            JUMP => at = at.checked_add(usize::try_from(operand).ok()?)?,
            IF_EQUAL => at += jump(word == operand),
            IF_GREATER => at += jump(word > operand),
            IF_NOT_LESS => at += jump(word >= operand),
            RETURN => return Some(operand),
            _ => return None,
        }
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// A word of `struct seccomp_data`, by offset in bytes: number, architecture, instruction pointer, six arguments.
fn load(offset: u32, number: u32, arguments: &[u64]) -> Option<u32> {
    match offset {
        0 => Some(number),
        4 => Some(ARCH),
        8 | 12 => Some(0),
        16..64 if offset.is_multiple_of(4) => {
            let index = usize::try_from((offset - 16) / 8).ok()?;
            let bytes = arguments
                .get(index)
                .copied()
                .unwrap_or_default()
                .to_ne_bytes();
            let half = if offset.is_multiple_of(8) { 0 } else { 4 };
            Some(u32::from_ne_bytes(*bytes[half..].first_chunk()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(instructions: &[(u32, u8, u8, u32)]) -> Vec<u8> {
        let bytes = |(code, yes, no, operand): &(u32, u8, u8, u32)| {
            let code = u16::try_from(*code).unwrap().to_ne_bytes();
            let operand = operand.to_ne_bytes();
            [&code[..], &[*yes, *no], &operand].concat()
        };
        instructions.iter().flat_map(bytes).collect()
    }

    fn without(number: c_long) -> Vec<u8> {
        program(&[
            (LOAD, 0, 0, 4),
            (IF_EQUAL, 0, 3, ARCH),
            (LOAD, 0, 0, 0),
            (IF_EQUAL, 1, 0, u32::try_from(number).unwrap()),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, 0x5_0001),
        ])
    }

    #[test]
    fn every_call_is_needed_and_no_other() {
        assert!(allows_birth(&without(libc::SYS_clone3)));
        for number in [
            libc::SYS_capset,
            libc::SYS_prctl,
            libc::SYS_clone,
            libc::SYS_exit_group,
            libc::SYS_setsid,
            libc::SYS_ioctl,
        ] {
            assert!(!allows_birth(&without(number)), "{number}");
        }
    }

    #[test]
    fn flags_are_looked_at() {
        // Docker's rule of clone: no new namespaces. And its contrary.
        let masked = |mask| {
            program(&[
                (LOAD, 0, 0, 0),
                (IF_EQUAL, 0, 3, u32::try_from(libc::SYS_clone).unwrap()),
                (LOAD, 0, 0, 16),
                (AND, 0, 0, mask),
                (IF_EQUAL, 0, 1, 0),
                (RETURN, 0, 0, ALLOW),
                (RETURN, 0, 0, 0x5_0001),
            ])
        };
        assert!(allows_birth(&masked(0x7e02_0000)));
        assert!(!allows_birth(&masked(sibling::FLAGS)));
    }

    #[test]
    fn what_cannot_be_followed_allows_nothing() {
        for filter in [
            vec![],
            vec![6; 7],
            program(&[(JUMP, 0, 0, u32::MAX)]),
            program(&[(LOAD, 0, 0, 3), (RETURN, 0, 0, ALLOW)]),
            program(&[(0x07, 0, 0, 0), (RETURN, 0, 0, ALLOW)]),
        ] {
            assert!(!allows_birth(&filter), "{filter:?}");
        }
    }
}
