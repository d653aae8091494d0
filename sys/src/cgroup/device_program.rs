//! The devices of a v2 cgroup: rules as a BPF program, since v2 has no devices controller (cgroup-v2.rst, "Device
//! controller").
//!
//! ```text
//!   r2 = type, r3 = access, r4 = major, r5 = minor
//!   for each rule: a jump to the next for each part that differs, else return 1
//!   return 0
//! ```

use super::devices::{DeviceKind, DeviceRule};
use crate::bpf::Instruction;

// include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx: access_type is type in the lower half, access in the upper.
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const ACCESS: [(char, i32); 3] = [('m', 1), ('r', 2), ('w', 4)];

// Operation codes (Documentation/bpf/standardization/instruction-set.rst), 32 bit.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;

pub(super) fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |to, offset| instruction(LOAD_WORD, (to, CONTEXT), offset, 0);
    let mut program = vec![
        load(KIND, ACCESS_TYPE),
        instruction(AND, (KIND, 0), 0, 0xffff),
        load(WANTED, ACCESS_TYPE),
        instruction(SHIFT_RIGHT, (WANTED, 0), 0, 16),
        load(4, MAJOR),
        load(5, MINOR),
    ];
    for rule in rules {
        program.extend(compile_rule(rule));
    }
    program.extend(answer(0));
    program
}

fn compile_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let mut checks = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => checks.push(instruction(JUMP_NOT_EQUAL, (KIND, 0), 0, BLOCK)),
        DeviceKind::Char => checks.push(instruction(JUMP_NOT_EQUAL, (KIND, 0), 0, CHAR)),
    }
    let given = ACCESS
        .into_iter()
        .filter(|(letter, _)| rule.permissions.contains(*letter));
    let mask = given.fold(0, |mask, (_, bit)| mask | bit);
    // All that is wanted has to be given.
    checks.push(instruction(MOVE_REGISTER, (0, WANTED), 0, 0));
    checks.push(instruction(AND, (0, 0), 0, mask));
    checks.push(instruction(JUMP_NOT_EQUAL_REGISTER, (0, WANTED), 0, 0));
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        if let Some(number) = number {
            checks.push(instruction(
                JUMP_NOT_EQUAL,
                (register, 0),
                0,
                number.cast_signed(),
            ));
        }
    }
    checks.extend(answer(1));
    let length = i16::try_from(checks.len()).unwrap_or(i16::MAX);
    for (at, check) in (1..).zip(&mut checks) {
        if matches!(check.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
            check.offset = length - at;
        }
    }
    checks
}

fn answer(allowed: i32) -> [Instruction; 2] {
    [
        instruction(MOVE, (0, 0), 0, allowed),
        instruction(EXIT, (0, 0), 0, 0),
    ]
}

fn instruction(code: u8, (to, from): (u8, u8), offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        permissions: &str,
    ) -> DeviceRule {
        DeviceRule {
            kind,
            major,
            minor,
            permissions: permissions.into(),
        }
    }

    /// Runs the program as the kernel would.
    fn allows(rules: &[DeviceRule], (kind, access): (i32, i32), major: i32, minor: i32) -> bool {
        let program = compile(rules);
        let mut registers = [0i32; 6];
        let mut at = 0usize;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => {
                    registers[to] = match offset {
                        ACCESS_TYPE => access << 16 | kind,
                        MAJOR => major,
                        _ => minor,
                    }
                }
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                MOVE => registers[to] = immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_NOT_EQUAL if registers[to] != immediate => {
                    at += usize::try_from(offset).unwrap()
                }
                JUMP_NOT_EQUAL_REGISTER if registers[to] != registers[from] => {
                    at += usize::try_from(offset).unwrap()
                }
                EXIT => return registers[0] == 1,
                _ => {}
            }
        }
    }

    #[test]
    fn the_program_says_what_the_rules_say() {
        let rules = [
            rule(DeviceKind::Char, Some(1), Some(3), "rw"),
            rule(DeviceKind::Char, Some(136), None, "rwm"),
            rule(DeviceKind::Block, None, None, "m"),
        ];
        let check = |what, major, minor, want| {
            assert_eq!(
                allows(&rules, what, major, minor),
                want,
                "{what:?} {major}:{minor}"
            )
        };
        check((CHAR, 6), 1, 3, true);
        check((CHAR, 2), 1, 3, true);
        check((CHAR, 3), 1, 3, false);
        check((CHAR, 2), 1, 4, false);
        check((BLOCK, 2), 1, 3, false);
        check((CHAR, 7), 136, 77, true);
        check((BLOCK, 1), 8, 0, true);
        check((BLOCK, 3), 8, 0, false);
        assert!(!allows(&[], (CHAR, 1), 1, 3));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let rules = [
            rule(DeviceKind::All, None, None, "rwm"),
            rule(DeviceKind::Block, Some(u32::MAX), Some(1), ""),
        ];
        crate::bpf::load_device_program(&compile(&rules)).unwrap();
    }
}
