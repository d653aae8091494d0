//! From a profile to a program.
//!
//! The program looks at the architecture, then finds the range of numbers with a common answer by
//! halving, so that no call takes more than some ten steps. The kernel runs every filter once for
//! each number when it is loaded, to remember which calls are always allowed; short paths make
//! that, and so every start and exec, cheap.

use std::collections::BTreeMap;

use super::{
    Error,
    arch::{Arch, X32, X32_BIT},
    profile::{Action, Condition, Profile},
    program::{self, Compare, Program, Target},
    syscall,
};

/// 32-bit ARM has some calls of its own far above all others: `arch/arm/include/uapi/asm/unistd.h`,
/// __ARM_NR_BASE.
const ARM_PRIVATE: u32 = 0x000f_0000;

/// What a profile says of one number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Verdict {
    conditional: Vec<(Vec<Condition>, Action)>,
    otherwise: Option<Action>,
}

/// From this number on, up to the next range.
struct Range {
    start: u32,
    verdict: Verdict,
}

pub(super) fn compile(profile: &Profile) -> Result<Vec<u8>, Error> {
    let mut program = Program::default();
    let mut start = program.answer(Action::KILL_THREAD);
    let mut audits: Vec<u32> = profile.arches.iter().map(|arch| arch.audit).collect();
    audits.sort_unstable();
    audits.dedup();
    for audit in audits {
        let tree = tree(&mut program, &ranges(profile, audit), profile.default);
        let tree = program.load(program::NUMBER, tree);
        start = program.jump(Compare::Equal, audit, tree, start);
    }
    let start = program.load(program::ARCH, start);
    program.finish(start)
}

/// Every number that the kernel may report with this AUDIT_ARCH_*, from 0 to the last.
fn ranges(profile: &Profile, audit: u32) -> Vec<Range> {
    let mut arches: Vec<&Arch> = profile
        .arches
        .iter()
        .copied()
        .filter(|arch| arch.audit == audit)
        .collect();
    arches.sort_by_key(|arch| arch.base);
    let mut ranges = Vec::new();
    for arch in &arches {
        append(&mut ranges, profile, arch);
    }
    let x32_is_possible = arches.iter().all(|arch| arch.base == 0) && audit == X32.audit;
    if x32_is_possible {
        // Not in the profile's list. The last number is no call: a tracer's way to skip one.
        ranges.push(Range {
            start: X32_BIT,
            verdict: Verdict::of(Action::KILL_THREAD),
        });
        ranges.push(Range {
            start: u32::MAX,
            verdict: Verdict::of(profile.default),
        });
    }
    ranges.dedup_by(|next, range| next.verdict == range.verdict);
    ranges
}

/// The ranges of one architecture, from its base on.
fn append(ranges: &mut Vec<Range>, profile: &Profile, arch: &Arch) {
    // The profile's author cannot have judged what is newer than all that it names. Programs try a
    // new call, and fall back to an older one on ENOSYS.
    let newer = if profile.default.lets_through() {
        profile.default
    } else {
        Action::ENOSYS
    };
    let mut next = arch.base;
    for (number, verdict) in verdicts(profile, arch) {
        if number > next {
            let is_end = next < ARM_PRIVATE && number >= ARM_PRIVATE;
            ranges.push(Range {
                start: next,
                verdict: Verdict::of(if is_end { newer } else { profile.default }),
            });
        }
        next = number + 1;
        ranges.push(Range {
            start: number,
            verdict: verdict.settled(profile.default),
        });
    }
    ranges.push(Range {
        start: next,
        verdict: Verdict::of(newer),
    });
}

fn verdicts(profile: &Profile, arch: &Arch) -> BTreeMap<u32, Verdict> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in &profile.rules {
        for name in &rule.names {
            if let Some(number) = syscall::number(name, arch) {
                verdicts
                    .entry(number)
                    .or_default()
                    .add(&rule.conditions, rule.action);
            }
            let Some(way) = syscall::multiplexed(name, arch) else {
                continue;
            };
            // The arguments lie in memory that a filter cannot read. So a rule that would let some
            // calls through lets none through here, and one that would stop some stops all.
            if rule.conditions.is_empty() || !rule.action.lets_through() {
                verdicts
                    .entry(way.number)
                    .or_default()
                    .add(&[way.condition], rule.action);
            }
        }
    }
    verdicts
}

impl Verdict {
    fn of(action: Action) -> Self {
        Self {
            conditional: Vec::new(),
            otherwise: Some(action),
        }
    }

    fn add(&mut self, conditions: &[Condition], action: Action) {
        match conditions {
            [] => drop(self.otherwise.get_or_insert(action)),
            conditions => self.conditional.push((conditions.into(), action)),
        }
    }

    /// Without the conditions that make no difference.
    fn settled(mut self, default: Action) -> Self {
        let otherwise = *self.otherwise.get_or_insert(default);
        while self
            .conditional
            .pop_if(|(_, action)| *action == otherwise)
            .is_some()
        {}
        self
    }

    fn place(&self, program: &mut Program, default: Action) -> Target {
        let mut next = program.answer(self.otherwise.unwrap_or(default));
        for (conditions, action) in self.conditional.iter().rev() {
            let mut then = program.answer(*action);
            for condition in conditions.iter().rev() {
                then = program.condition(condition, then, next);
            }
            next = then;
        }
        next
    }
}

/// Finds the range of the loaded number. There is at least one.
fn tree(program: &mut Program, ranges: &[Range], default: Action) -> Target {
    if let [range] = ranges {
        return range.verdict.place(program, default);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let pivot = upper.first().map_or(0, |range| range.start);
    let upper = tree(program, upper, default);
    let lower = tree(program, lower, default);
    program.jump(Compare::GreaterOrEqual, pivot, upper, lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::seccomp::{
        arch::{self, X86, X86_64},
        profile::{Rule, Test},
        simulate::{Call, run},
    };

    fn profile(default: Action, rules: Vec<Rule>) -> Profile {
        Profile {
            default,
            flags: 0,
            arches: arch::native(),
            rules,
        }
    }

    /// The answer to a call on x86-64.
    fn answer(profile: &Profile, number: u32, arguments: [u64; 6]) -> Action {
        run(
            &compile(profile).unwrap(),
            &Call {
                audit: X86_64.audit,
                number,
                arguments,
            },
        )
    }

    fn argument(value: u64) -> [u64; 6] {
        [0, value, 0, 0, 0, 0]
    }

    type Holds = fn(u64, u64) -> bool;

    #[test]
    fn all_64_bits_of_an_argument_count() {
        const EDGES: [u64; 9] = [
            0,
            1,
            5,
            0xffff_ffff,
            1 << 32,
            (1 << 32) + 5,
            (7 << 32) + 4,
            (7 << 32) + 5,
            u64::MAX,
        ];
        for value in EDGES {
            let tests: [(Test, Holds); 4] = [
                (
                    Test::MaskedEqual {
                        mask: u64::MAX,
                        value,
                    },
                    |a, b| a == b,
                ),
                (Test::GreaterOrEqual(value), |a, b| a >= b),
                (Test::Greater(value), |a, b| a > b),
                (
                    Test::MaskedEqual {
                        mask: value,
                        value: 0,
                    },
                    |a, b| a & b == 0,
                ),
            ];
            for (test, holds) in tests {
                for negated in [false, true] {
                    let condition = Condition {
                        argument: 1,
                        test,
                        negated,
                    };
                    let rule = Rule::of("read", Action::ALLOW, vec![condition]);
                    let profile = profile(Action::EPERM, vec![rule]);
                    for given in EDGES {
                        let want = if holds(given, value) != negated {
                            Action::ALLOW
                        } else {
                            Action::EPERM
                        };
                        assert_eq!(
                            answer(&profile, 0, argument(given)),
                            want,
                            "{condition:?} {given:#x}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn conditions_of_a_rule_must_all_hold_and_rules_go_in_order() {
        let not = |value| Condition::equal(1, value).not();
        let rules = vec![
            Rule::of("read", Action::TRAP, vec![Condition::equal(1, 7)]),
            Rule::of("read", Action::ALLOW, vec![not(1), not(2)]),
            Rule::of("read", Action::ENOSYS, vec![]),
        ];
        let profile = profile(Action::EPERM, rules);
        for (value, want) in [
            (7, Action::TRAP),
            (1, Action::ENOSYS),
            (2, Action::ENOSYS),
            (3, Action::ALLOW),
        ] {
            assert_eq!(answer(&profile, 0, argument(value)), want, "{value}");
        }
    }

    #[test]
    fn what_is_newer_than_the_profile_does_not_exist() {
        let rules = || vec![Rule::of("read openat2", Action::ALLOW, vec![])];
        let strict = profile(Action::EPERM, rules());
        for (number, want) in [
            (0, Action::ALLOW),
            (1, Action::EPERM),
            (437, Action::ALLOW),
            (438, Action::ENOSYS),
            (u32::MAX, Action::ENOSYS),
        ] {
            assert_eq!(answer(&strict, number, [0; 6]), want, "{number}");
        }
        assert_eq!(
            answer(&profile(Action::ALLOW, rules()), 438, [0; 6]),
            Action::ALLOW
        );
        assert_eq!(
            answer(&profile(Action::LOG, rules()), 438, [0; 6]),
            Action::LOG
        );
    }

    #[test]
    fn architectures_that_the_profile_leaves_out_are_killed() {
        let names = |names: &[&str]| {
            arch::named(&names.iter().map(|name| (*name).into()).collect::<Vec<_>>())
        };
        let rules = vec![Rule::of("read", Action::ALLOW, vec![])];
        let native = Profile {
            default: Action::EPERM,
            flags: 0,
            arches: names(&[]),
            rules,
        };
        let filter = compile(&native).unwrap();
        let read = |arch: &Arch, number| {
            run(
                &filter,
                &Call {
                    audit: arch.audit,
                    number,
                    arguments: [0; 6],
                },
            )
        };
        assert_eq!(read(&X86_64, 0), Action::ALLOW);
        assert_eq!(read(&X86, 3), Action::KILL_THREAD);
        assert_eq!(read(&X32, X32_BIT), Action::KILL_THREAD);
        assert_eq!(read(&X86_64, u32::MAX), Action::EPERM);
        assert_eq!(names(&["SCMP_ARCH_X32", "SCMP_ARCH_ARM"]), [&X86_64, &X32]);
    }

    #[test]
    fn a_call_with_two_ways_is_stopped_on_both() {
        let socket = |filter: &[u8], number, first| {
            run(
                filter,
                &Call {
                    audit: X86.audit,
                    number,
                    arguments: [first, 0, 0, 0, 0, 0],
                },
            )
        };
        let denied = profile(
            Action::ALLOW,
            vec![Rule::of(
                "socket",
                Action::EPERM,
                vec![Condition::equal(0, 40)],
            )],
        );
        let filter = compile(&denied).unwrap();
        assert_eq!(socket(&filter, 359, 40), Action::EPERM);
        assert_eq!(socket(&filter, 359, 2), Action::ALLOW);
        assert_eq!(
            socket(&filter, 102, 1),
            Action::EPERM,
            "socketcall cannot tell the family"
        );
        assert_eq!(socket(&filter, 102, 2), Action::ALLOW);
        let allowed = profile(
            Action::EPERM,
            vec![Rule::of(
                "socket",
                Action::ALLOW,
                vec![Condition::equal(0, 2)],
            )],
        );
        assert_eq!(socket(&compile(&allowed).unwrap(), 102, 1), Action::EPERM);
    }

    #[test]
    fn far_jumps_are_bridged() {
        // Every other call has conditions of its own, so that the tree is long and its answers far
        // apart.
        let rules = (0..300).map(|number| Rule {
            names: vec![
                libseccomp::ScmpSyscall::from(number)
                    .get_name()
                    .unwrap_or_default()
                    .into(),
            ],
            action: Action::errno(u16::try_from(100 + number).unwrap()),
            conditions: vec![Condition::equal(1, 3), Condition::equal(2, 4)],
        });
        let profile = Profile {
            default: Action::EPERM,
            flags: 0,
            arches: vec![&X86_64],
            rules: rules.collect(),
        };
        let filter = compile(&profile).unwrap();
        assert!(filter.len() / 8 > 1200);
        for number in 0..300_u16 {
            let call = |third| Call {
                audit: X86_64.audit,
                number: number.into(),
                arguments: [0, 3, third, 0, 0, 0],
            };
            assert_eq!(
                run(&filter, &call(4)),
                Action::errno(100 + number),
                "{number}"
            );
            assert_eq!(run(&filter, &call(5)), Action::EPERM, "{number}");
        }
    }

    #[test]
    fn a_filter_that_the_kernel_would_refuse_is_refused_here() {
        let conditions = |n: u64| {
            (0..6)
                .map(|argument| Condition::equal(argument, n << 33 | 1))
                .collect()
        };
        let rules = (1..400)
            .map(|n| Rule::of("read", Action::ALLOW, conditions(n)))
            .collect();
        assert!(matches!(
            compile(&profile(Action::EPERM, rules)),
            Err(Error::TooLong(_))
        ));
    }
}
