//! A seccomp profile: what to do with which system call, by name.

use std::borrow::Cow;

use super::arch::Arch;

/// A filter's answer: SECCOMP_RET_* and its data, `include/uapi/linux/seccomp.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const EPERM: Self = Self::errno(1);
    pub(super) const ENOSYS: Self = Self::errno(38);

    /// The kernel cuts numbers above 4095 down to it.
    pub(super) const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    pub(super) const fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | data as u32)
    }

    /// The system call may happen. A tracer is trusted to judge for itself.
    pub(super) fn lets_through(self) -> bool {
        matches!(
            self.0 & 0xffff_0000,
            0x7ff0_0000 | 0x7ffc_0000 | 0x7fff_0000
        )
    }
}

#[derive(Debug)]
pub(super) struct Profile {
    /// For what no rule names.
    pub(super) default: Action,
    /// SECCOMP_FILTER_FLAG_*, with which it is loaded.
    pub(super) flags: u32,
    /// System calls of other architectures are the kill of the thread.
    pub(super) arches: Vec<&'static Arch>,
    /// Of one system call's rules, those with conditions go first, in this order; then the first
    /// without.
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Rule {
    /// Those that this architecture or this libseccomp does not know have no effect.
    pub(super) names: Vec<Cow<'static, str>>,
    pub(super) action: Action,
    /// All of them must hold.
    pub(super) conditions: Vec<Condition>,
}

impl Rule {
    /// For names separated by spaces.
    pub(super) fn of(names: &'static str, action: Action, conditions: Vec<Condition>) -> Self {
        Self {
            names: names.split_whitespace().map(Cow::from).collect(),
            action,
            conditions,
        }
    }
}

/// One argument of a system call, as an unsigned number of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
    /// Holds when the test does not.
    pub(super) negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// `argument & mask == value`
    MaskedEqual {
        mask: u64,
        value: u64,
    },
    GreaterOrEqual(u64),
    Greater(u64),
}

impl Condition {
    pub(super) fn equal(argument: u8, value: u64) -> Self {
        Self::masked_equal(argument, u64::MAX, value)
    }

    pub(super) fn greater_or_equal(argument: u8, value: u64) -> Self {
        Self {
            argument,
            test: Test::GreaterOrEqual(value),
            negated: false,
        }
    }

    pub(super) fn masked_equal(argument: u8, mask: u64, value: u64) -> Self {
        Self {
            argument,
            test: Test::MaskedEqual { mask, value },
            negated: false,
        }
    }

    pub(super) fn not(self) -> Self {
        Self {
            negated: !self.negated,
            ..self
        }
    }
}
