//! The default profile against what containerd's own says, call by call. The facts are in `test/seccomp`, taken from
//! containerd by `hack/seccomp-facts`; nothing here asks our tables of names and numbers what should be.

use std::{collections::HashMap, sync::Arc};

use super::{
    arch::{AARCH64, ARM, Arch, X86, X86_64},
    compile::compile,
    default_profile,
    profile::{Action, Profile},
    simulate::{Call, run},
};
use crate::spec::capabilities::{self, mask};

const NUMBERS: &str = include_str!("../../../../test/seccomp/numbers.tsv");
const ON_X86_64: &str = include_str!("../../../../test/seccomp/x86_64.tsv");
const ON_AARCH64: &str = include_str!("../../../../test/seccomp/aarch64.tsv");

/// Capabilities that there are, `include/uapi/linux/capability.h`.
const CAPABILITIES: u32 = 41;
/// Higher than any number that is in use.
const PAST_ALL: u32 = 600;
/// `arch/arm/include/uapi/asm/unistd.h`, __ARM_NR_*: golang.org/x/sys does not have them.
const ARM_PRIVATE: [(&str, u32); 3] = [
    ("breakpoint", 0x000f_0001),
    ("cacheflush", 0x000f_0002),
    ("set_tls", 0x000f_0005),
];

/// One line of containerd's profile.
struct Fact {
    arguments: Vec<Comparison>,
    answer: Action,
    capabilities: Capabilities,
}

enum Capabilities {
    Always,
    /// One of these is enough.
    With(u64),
    Without(u64),
}

struct Comparison {
    index: usize,
    op: String,
    values: [u64; 2],
}

impl Fact {
    fn parse(line: &str) -> (&str, Self) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, arguments, answer, capabilities] = columns[..] else {
            panic!("{line}");
        };
        let arguments = arguments.split(", ").filter(|text| *text != "-");
        let fact = Self {
            arguments: arguments.map(Comparison::parse).collect(),
            answer: match answer {
                "ALLOW" => Action::ALLOW,
                "EPERM" => Action::EPERM,
                "ENOSYS" => Action::ENOSYS,
                _ => panic!("{line}"),
            },
            capabilities: match capabilities.split_once(' ') {
                None => Capabilities::Always,
                Some(("with", names)) => Capabilities::With(set(names)),
                Some(("without", names)) => Capabilities::Without(set(names)),
                Some(_) => panic!("{line}"),
            },
        };
        (name, fact)
    }

    fn is_there(&self, capabilities: u64) -> bool {
        match self.capabilities {
            Capabilities::Always => true,
            Capabilities::With(one_of) => capabilities & one_of != 0,
            Capabilities::Without(one_of) => capabilities & one_of == 0,
        }
    }
}

fn set(names: &str) -> u64 {
    names.split(' ').fold(0, |all, name| all | mask(&[name]))
}

impl Comparison {
    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let number =
            |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
        Self {
            index: words[0].parse().unwrap(),
            op: words[1].into(),
            values: [number(words[2]), number(words[3])],
        }
    }

    /// libseccomp(3), seccomp_rule_add: what the comparisons mean.
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let (given, [value, two]) = (arguments[self.index], self.values);
        match self.op.as_str() {
            "EQ" => given == value,
            "LT" => given < value,
            "MASKED_EQ" => given & value == two,
            op => panic!("{op}"),
        }
    }

    /// Arguments on both sides of what it says.
    fn probes(&self) -> Vec<[u64; 6]> {
        let value = self.values[0];
        let bits = (0..64).map(|bit| 1 << bit);
        let near = [value, value.wrapping_sub(1), value + 1, value | 1 << 32];
        let values = near.into_iter().chain([0, u64::MAX]).chain(bits);
        let at = |given| {
            let mut arguments = [0; 6];
            arguments[self.index] = given;
            arguments
        };
        values.map(at).collect()
    }
}

struct Facts(HashMap<&'static str, Vec<Fact>>);

impl Facts {
    fn parse(table: &'static str) -> Self {
        let mut facts: HashMap<_, Vec<Fact>> = HashMap::new();
        for (name, fact) in lines(table).map(Fact::parse) {
            facts.entry(name).or_default().push(fact);
        }
        Self(facts)
    }

    /// What containerd with runc answers to a call.
    fn answer(&self, name: &str, capabilities: u64, arguments: &[u64; 6]) -> Action {
        let of = |name| self.0.get(name).into_iter().flatten();
        let there = of(name).filter(|fact| fact.is_there(capabilities));
        let matching = there.filter(|fact| fact.arguments.iter().all(|one| one.holds(arguments)));
        matching
            .chain(of("*"))
            .next()
            .map(|fact| fact.answer)
            .unwrap()
    }

    fn probes(&self, name: &str) -> Vec<[u64; 6]> {
        let facts = self.0.get(name).into_iter().flatten();
        let probes = facts
            .flat_map(|fact| &fact.arguments)
            .flat_map(Comparison::probes);
        [[0; 6], [u64::MAX; 6]].into_iter().chain(probes).collect()
    }
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.starts_with('#'))
}

/// The names of an architecture's numbers; `column` is that of the table.
fn names(column: usize) -> HashMap<u32, &'static str> {
    let row = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        Some((columns[column].parse().ok()?, columns[0]))
    };
    let names = lines(NUMBERS).filter_map(row);
    names.collect()
}

/// None, all, what a container has by default, each capability alone, and all but each.
fn sets() -> Vec<u64> {
    let all = (1 << CAPABILITIES) - 1;
    let each = (0..CAPABILITIES).map(|number| 1 << number);
    let mut sets = vec![0, all, capabilities::DEFAULT];
    sets.extend(each.flat_map(|one: u64| [one, all & !one]));
    sets
}

/// Holds every number of an architecture against the facts, with every set.
#[track_caller]
fn check(
    facts: &Facts,
    arch: &'static Arch,
    names: &HashMap<u32, &str>,
    filter: &dyn Fn(u64) -> Arc<[u8]>,
) {
    let mut judged: HashMap<Arc<[u8]>, Vec<u64>> = HashMap::new();
    for set in sets() {
        judged.entry(filter(set)).or_default().push(set);
    }
    let named = names
        .iter()
        .filter(|(_, name)| facts.0.contains_key(*name))
        .map(|(number, _)| *number);
    // What comes after all that the profile names does not exist, as under runc (libcontainer/seccomp/patchbpf).
    let last = named.filter(|number| *number < PAST_ALL).max().unwrap();
    let numbers = (0..PAST_ALL).chain(names.keys().copied().filter(|number| *number >= PAST_ALL));
    for number in numbers {
        let name = names.get(&number).copied().unwrap_or("?");
        for arguments in facts.probes(name) {
            for (filter, sets) in &judged {
                let call = Call {
                    audit: arch.audit,
                    number,
                    arguments,
                };
                let answer = run(filter, &call);
                for set in sets {
                    let want = if number > last && number < PAST_ALL {
                        Action::ENOSYS
                    } else {
                        facts.answer(name, *set, &arguments)
                    };
                    let arch = arch.name;
                    assert_eq!(
                        answer, want,
                        "{name} ({number}) of {arch}, {arguments:x?}, capabilities {set:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_allowed_on_x86_64_is_what_containerd_allows() {
    let cache = super::Cache::default();
    let filter = |set| -> Arc<[u8]> {
        cache
            .runtime_default(set)
            .unwrap()
            .program
            .as_slice()
            .into()
    };
    let facts = Facts::parse(ON_X86_64);
    check(&facts, &X86_64, &names(1), &filter);
    check(&facts, &X86, &names(2), &filter);
}

#[test]
fn what_is_allowed_on_aarch64_is_what_containerd_allows() {
    let filter = |set| -> Arc<[u8]> {
        let profile = Profile {
            arches: vec![&AARCH64, &ARM],
            ..default_profile::profile(set)
        };
        compile(&profile).unwrap().into()
    };
    let facts = Facts::parse(ON_AARCH64);
    check(&facts, &AARCH64, &names(3), &filter);
    let mut arm = names(4);
    arm.extend(ARM_PRIVATE.map(|(name, number)| (number, name)));
    check(&facts, &ARM, &arm, &filter);
}

/// Else a call would pass that no table has a number for.
#[test]
fn every_name_of_the_facts_has_a_number() {
    // `arch/arm/tools/syscall.tbl` has one number for both.
    let other_name_of_arm_sync_file_range = "sync_file_range2";
    let known: Vec<&str> = (1..=4)
        .flat_map(|column| names(column).into_values())
        .chain(ARM_PRIVATE.map(|(name, _)| name))
        .chain([other_name_of_arm_sync_file_range])
        .collect();
    for facts in [ON_X86_64, ON_AARCH64].map(Facts::parse) {
        for name in facts.0.keys().filter(|name| **name != "*") {
            assert!(known.contains(name), "{name}");
        }
    }
}
