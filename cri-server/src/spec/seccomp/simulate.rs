//! The kernel's part, for tests: runs a filter on a call.

use super::profile::Action;

pub(super) struct Call {
    pub(super) audit: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    /// A word of `struct seccomp_data`, by offset. The instruction pointer is 0.
    fn word(&self, offset: usize) -> u32 {
        let arguments = self
            .arguments
            .iter()
            .flat_map(|argument| argument.to_le_bytes());
        let head = self
            .number
            .to_le_bytes()
            .into_iter()
            .chain(self.audit.to_le_bytes())
            .chain([0; 8]);
        let data: Vec<u8> = head.chain(arguments).collect();
        u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap())
    }
}

/// The filter's answer. Panics on what the kernel would not load: unknown instructions, jumps out
/// of the program.
pub(super) fn run(filter: &[u8], call: &Call) -> Action {
    let mut word = 0;
    let mut at = 0;
    loop {
        let instruction: [u8; 8] = filter[at * 8..][..8].try_into().unwrap();
        let [a, b, yes, no, rest @ ..] = instruction;
        let operand = u32::from_le_bytes(rest);
        let jump = |holds: bool| usize::from(if holds { yes } else { no });
        at += 1;
        match u16::from_le_bytes([a, b]) {
            0x20 => word = call.word(operand as usize),
            0x54 => word &= operand,
            0x05 => at += operand as usize,
            0x15 => at += jump(word == operand),
            0x25 => at += jump(word > operand),
            0x35 => at += jump(word >= operand),
            0x06 => return Action(operand),
            code => panic!("instruction {code:#x}"),
        }
    }
}
