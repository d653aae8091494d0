//! An assembler for classic BPF.
//!
//! It works from the end to the start: a jump leads forward only, so when it is made, its targets
//! are already placed and their distances known. Rule: kernel, `networking/filter`, and
//! `include/uapi/linux/seccomp.h`.

use std::collections::HashMap;

use super::{
    Error,
    profile::{Action, Condition, Test},
};

/// BPF_LD | BPF_W | BPF_ABS, and so on.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const GOTO: u16 = 0x05;
const RETURN: u16 = 0x06;

/// BPF_MAXINSNS.
const MAX_LENGTH: usize = 4096;
/// A conditional jump reaches 255 instructions; less, as its second target may move by one.
const REACH: usize = 250;

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A test of the loaded word.
#[derive(Clone, Copy)]
pub(super) enum Compare {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

/// An instruction that has been placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target(usize);

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    operand: u32,
}

#[derive(Debug, Default)]
pub(super) struct Program {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// The latest place of each answer.
    answers: HashMap<Action, Target>,
}

impl Program {
    /// Ends the program with an answer, where one that is near already does.
    pub(super) fn answer(&mut self, action: Action) -> Target {
        if let Some(&target) = self.answers.get(&action)
            && self.reversed.len() - target.0 < REACH
        {
            return target;
        }
        let target = self.push(RETURN, action.0);
        self.answers.insert(action, target);
        target
    }

    pub(super) fn jump(
        &mut self,
        compare: Compare,
        operand: u32,
        yes: Target,
        no: Target,
    ) -> Target {
        let (yes, no) = (self.near(yes), self.near(no));
        let [yes, no] = [yes, no].map(|target| self.distance(target));
        // `near` has seen to it that both fit.
        let [yes, no] = [yes, no].map(|distance| u8::try_from(distance).unwrap_or(u8::MAX));
        self.place(Instruction {
            code: compare as u16,
            yes,
            no,
            operand,
        })
    }

    /// Loads a word of `seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.last_is(next);
        self.push(LOAD, offset)
    }

    /// Tests an argument in halves, since BPF has 32 bits.
    pub(super) fn condition(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let (yes, no) = if condition.negated {
            (no, yes)
        } else {
            (yes, no)
        };
        let lower = ARGUMENTS + 8 * u32::from(condition.argument);
        let (lower, upper) = if cfg!(target_endian = "little") {
            (lower, lower + 4)
        } else {
            (lower + 4, lower)
        };
        match condition.test {
            Test::MaskedEqual { mask, value } => {
                let [(mask_high, mask_low), (high, low)] = [halves(mask), halves(value)];
                let next = self.masked_equal(lower, mask_low, low, [yes, no]);
                if mask_high == 0 && high == 0 {
                    next
                } else {
                    self.masked_equal(upper, mask_high, high, [next, no])
                }
            }
            Test::GreaterOrEqual(value) => {
                self.greater(Compare::GreaterOrEqual, [lower, upper], value, [yes, no])
            }
            Test::Greater(value) => {
                self.greater(Compare::Greater, [lower, upper], value, [yes, no])
            }
        }
    }

    fn masked_equal(
        &mut self,
        offset: u32,
        mask: u32,
        value: u32,
        [yes, no]: [Target; 2],
    ) -> Target {
        let mut next = self.jump(Compare::Equal, value, yes, no);
        if mask != u32::MAX {
            next = self.push(AND, mask);
        }
        self.load(offset, next)
    }

    fn greater(
        &mut self,
        last: Compare,
        [lower, upper]: [u32; 2],
        value: u64,
        [yes, no]: [Target; 2],
    ) -> Target {
        let (high, low) = halves(value);
        let next = self.jump(last, low, yes, no);
        let next = self.load(lower, next);
        let next = self.jump(Compare::Equal, high, next, no);
        let next = self.jump(Compare::Greater, high, yes, next);
        self.load(upper, next)
    }

    /// The program that begins at `start`, in the kernel's form.
    pub(super) fn finish(mut self, start: Target) -> Result<Vec<u8>, Error> {
        self.last_is(start);
        if self.reversed.len() > MAX_LENGTH {
            return Err(Error::TooLong(self.reversed.len()));
        }
        let bytes = self.reversed.iter().rev().flat_map(|instruction| {
            let Instruction {
                code,
                yes,
                no,
                operand,
            } = instruction;
            let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), operand.to_ne_bytes());
            [a, b, *yes, *no, c, d, e, f]
        });
        Ok(bytes.collect())
    }

    fn push(&mut self, code: u16, operand: u32) -> Target {
        self.place(Instruction {
            code,
            yes: 0,
            no: 0,
            operand,
        })
    }

    fn place(&mut self, instruction: Instruction) -> Target {
        self.reversed.push(instruction);
        Target(self.reversed.len() - 1)
    }

    /// Instructions between the next one to be placed and `target`.
    fn distance(&self, target: Target) -> usize {
        self.reversed.len() - target.0 - 1
    }

    /// `target`, or a step towards it when it is too far for a conditional jump.
    fn near(&mut self, target: Target) -> Target {
        if self.distance(target) <= REACH {
            target
        } else {
            self.goto(target)
        }
    }

    fn goto(&mut self, target: Target) -> Target {
        // A program that is too long for the kernel is too long for u32 only in theory.
        self.push(
            GOTO,
            u32::try_from(self.distance(target)).unwrap_or(u32::MAX),
        )
    }

    /// Makes what is placed next run into `target`.
    fn last_is(&mut self, target: Target) {
        if self.distance(target) != 0 {
            self.goto(target);
        }
    }
}

/// The upper and the lower 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}
