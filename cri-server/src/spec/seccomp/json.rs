//! Profiles as files: the `seccomp` object of the OCI runtime-spec, in JSON, and Docker's form of it.
//!
//! Docker's has rules that apply under [circumstances](super::applies), architectures by the machine's own (`archMap`), and
//! names one by one (`name`). CRI-O and Podman know error numbers by name (`errno`).

use nix::errno::Errno;
use serde::{Deserialize, Deserializer};

use super::{
    Error,
    applies::{Circumstances, Here, applies},
    arch::{self, Arch},
    profile::{Action, Condition, Profile, Rule, Test},
};

/// EHWPOISON, `include/uapi/asm-generic/errno.h`.
const LAST_ERRNO: u16 = 133;

/// Rule: OCI runtime-spec v1.2, config-linux.md, "Seccomp". Other keys are refused: one may narrow
/// a rule down, which without it would allow more than its author meant.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seccomp {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    default_errno: String,
    #[serde(default, deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    arch_map: Vec<Architecture>,
    #[serde(default, deserialize_with = "nullable")]
    flags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    listener_path: String,
    #[serde(default, deserialize_with = "nullable")]
    listener_metadata: String,
    #[serde(default, deserialize_with = "nullable")]
    syscalls: Vec<Syscall>,
}

/// What a machine of this architecture runs besides.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Syscall {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    errno: String,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<Argument>,
    #[serde(default, deserialize_with = "nullable")]
    includes: Circumstances,
    #[serde(default, deserialize_with = "nullable")]
    excludes: Circumstances,
    /// A habit, without meaning.
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Programs in Go write `null` for what is empty.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(super) fn parse(json: &[u8], here: &Here) -> Result<Profile, Error> {
    let raw: Seccomp = serde_json::from_slice(json).map_err(Error::Json)?;
    let flags = raw.flags.iter().map(|name| flag(name));
    let flags = flags.collect::<Result<Vec<_>, _>>()?;
    if !raw.listener_path.is_empty() || !raw.listener_metadata.is_empty() {
        return Err(Error::Unsupported(
            "listenerPath: notifications for a supervisor are not supported".into(),
        ));
    }
    let mut rules = Vec::new();
    for syscall in &raw.syscalls {
        // What does not apply is checked all the same.
        let rule = rule(syscall)?;
        if applies(&syscall.includes, &syscall.excludes, here)? {
            append(&mut rules, rule);
        }
    }
    let errno = errno(&raw.default_errno, raw.default_errno_ret)?;
    Ok(Profile {
        default: action(&raw.default_action, errno)?,
        flags: flags.into_iter().fold(0, |all, flag| all | flag),
        arches: arches(&raw, here)?,
        rules,
    })
}

fn arches(raw: &Seccomp, here: &Here) -> Result<Vec<&'static Arch>, Error> {
    if raw.arch_map.is_empty() {
        return Ok(arch::named(&raw.architectures));
    }
    if !raw.architectures.is_empty() {
        return Err(Error::Unsupported("architectures beside archMap".into()));
    }
    let own = raw
        .arch_map
        .iter()
        .find(|entry| entry.architecture == here.arch.name);
    Ok(arch::named(own.map_or(&[], |own| &own.sub_architectures)))
}

fn rule(syscall: &Syscall) -> Result<Rule, Error> {
    let names = match (syscall.name.as_str(), syscall.names.as_slice()) {
        ("", names) => names.iter().map(|name| name.clone().into()).collect(),
        (name, []) => vec![name.to_owned().into()],
        (name, _) => return Err(Error::Unsupported(format!("name {name:?} beside names"))),
    };
    let conditions = syscall.args.iter().map(condition);
    Ok(Rule {
        names,
        action: action(&syscall.action, errno(&syscall.errno, syscall.errno_ret)?)?,
        conditions: conditions.collect::<Result<_, _>>()?,
    })
}

/// A rule that tests one argument twice stands for one rule a test: runc has always read it so,
/// since libseccomp takes no argument twice, and profiles are written for it.
fn append(rules: &mut Vec<Rule>, rule: Rule) {
    let mut arguments: Vec<_> = rule.conditions.iter().map(|one| one.argument).collect();
    arguments.sort_unstable();
    if !arguments.windows(2).any(|pair| pair[0] == pair[1]) {
        rules.push(rule);
        return;
    }
    let split = rule.conditions.into_iter().map(|condition| Rule {
        names: rule.names.clone(),
        action: rule.action,
        conditions: vec![condition],
    });
    rules.extend(split);
}

/// `include/uapi/linux/seccomp.h`. SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is none: the kernel takes it
/// with a listener only.
fn flag(name: &str) -> Result<u32, Error> {
    match name {
        // The filter is loaded by a process with one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(1 << 1),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(1 << 2),
        name => Err(Error::Unsupported(format!("flag {name:?}"))),
    }
}

/// The name goes before the number. Rule: containers-common, seccomp.json(5).
fn errno(name: &str, number: Option<u16>) -> Result<Option<u16>, Error> {
    if name.is_empty() {
        return Ok(number);
    }
    let known = |number: &u16| format!("{:?}", Errno::from_raw((*number).into())) == name;
    let number = name.parse().ok().or_else(|| (1..=LAST_ERRNO).find(known));
    let unsupported = || Error::Unsupported(format!("errno {name:?}"));
    number.ok_or_else(unsupported).map(Some)
}

fn action(name: &str, data: Option<u16>) -> Result<Action, Error> {
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::ALLOW),
        "SCMP_ACT_ERRNO" => Ok(data.map_or(Action::EPERM, Action::errno)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Action::KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(Action::KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(Action::TRAP),
        "SCMP_ACT_TRACE" => Ok(Action::trace(data.unwrap_or(1))),
        "SCMP_ACT_LOG" => Ok(Action::LOG),
        name => Err(Error::Unsupported(format!("action {name:?}"))),
    }
}

fn condition(argument: &Argument) -> Result<Condition, Error> {
    let Argument {
        index,
        value,
        value_two,
        ref op,
    } = *argument;
    if index > 5 {
        return Err(Error::Unsupported(format!(
            "argument {index} of a system call, which has six"
        )));
    }
    let equal = Condition::equal(index, value);
    let test = |test| Condition {
        argument: index,
        test,
        negated: false,
    };
    match op.as_str() {
        "SCMP_CMP_EQ" => Ok(equal),
        "SCMP_CMP_NE" => Ok(equal.not()),
        "SCMP_CMP_LT" => Ok(test(Test::GreaterOrEqual(value)).not()),
        "SCMP_CMP_LE" => Ok(test(Test::Greater(value)).not()),
        "SCMP_CMP_GE" => Ok(test(Test::GreaterOrEqual(value))),
        "SCMP_CMP_GT" => Ok(test(Test::Greater(value))),
        "SCMP_CMP_MASKED_EQ" => Ok(Condition::masked_equal(index, value, value_two)),
        op => Err(Error::Unsupported(format!("comparison {op:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        capabilities::mask,
        seccomp::{
            arch::{X32, X86, X86_64},
            compile::compile,
            simulate::{Call, run},
        },
    };

    fn read(json: &str) -> Result<Profile, Error> {
        parse(json.as_bytes(), &Here::with(mask(&["CHOWN"])).unwrap())
    }

    fn answer(json: &str, number: u32, first: u64) -> Action {
        let filter = compile(&read(json).unwrap()).unwrap();
        run(
            &filter,
            &Call {
                audit: X86_64.audit,
                number,
                arguments: [first, 0, 0, 0, 0, 0],
            },
        )
    }

    const SETHOSTNAME: u32 = 170;
    const PERSONALITY: u32 = 135;

    #[test]
    fn a_deny_list_denies() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls":
            [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "args": null, "comment": "why not"}]}"#;
        assert_eq!(answer(json, SETHOSTNAME, 0), Action::EPERM);
        assert_eq!(answer(json, PERSONALITY, 0), Action::ALLOW);
    }

    #[test]
    fn every_comparison_means_what_it_says() {
        for (op, two, want) in [
            ("EQ", 0, [false, true, false]),
            ("NE", 0, [true, false, true]),
            ("LT", 0, [true, false, false]),
            ("LE", 0, [true, true, false]),
            ("GE", 0, [false, true, true]),
            ("GT", 0, [false, false, true]),
            ("MASKED_EQ", 4, [false, true, true]),
        ] {
            let json = format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["personality"],
                "action": "SCMP_ACT_ALLOW", "args": [{{"index": 0, "value": 4, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            );
            assert_eq!(
                [3, 4, 5].map(|value| answer(&json, PERSONALITY, value) == Action::ALLOW),
                want,
                "{op}"
            );
        }
    }

    #[test]
    fn an_argument_tested_twice_needs_one_test_to_hold() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5, "syscalls": [{"names": ["personality"],
            "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
        let answers = [1, 2, 3].map(|value| answer(json, PERSONALITY, value));
        assert_eq!(answers, [Action::ALLOW, Action::ALLOW, Action::errno(5)]);
    }

    #[test]
    fn rules_of_dockers_form_apply_by_capability_and_machine() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"name": "sethostname", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"]}, "excludes": {}},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "",
                "includes": {"minKernel": "4.8"}, "excludes": {"caps": ["CAP_CHOWN"]}}]}"#;
        assert_eq!(answer(json, SETHOSTNAME, 0), Action::ALLOW);
        assert_eq!(answer(json, PERSONALITY, 0), Action::EPERM);
    }

    #[test]
    fn the_machines_entry_of_the_map_says_what_else_runs() {
        let arches = |map: &str| {
            let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{map}]}}"#);
            read(&json).unwrap().arches
        };
        let own = r#"{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}"#;
        assert_eq!(arches(own), [&X86_64, &X86, &X32]);
        let alone = r#"{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": null}"#;
        assert_eq!(arches(alone), [&X86_64]);
        let other = r#"{"architecture": "SCMP_ARCH_X86", "subArchitectures": ["SCMP_ARCH_X32"]}"#;
        assert_eq!(arches(other), [&X86_64]);
    }

    #[test]
    fn error_numbers_have_names_too() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "defaultErrnoRet": 1, "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errno": "EACCES", "errnoRet": null},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errno": "122"}]}"#;
        assert_eq!(answer(json, SETHOSTNAME, 0), Action::errno(13));
        assert_eq!(answer(json, PERSONALITY, 0), Action::errno(122));
        assert_eq!(answer(json, 0, 0), Action::ENOSYS);
    }

    #[test]
    fn what_is_empty_may_be_null() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": null, "archMap": null, "flags": null,
            "listenerPath": null, "syscalls": null}"#;
        assert_eq!(answer(json, SETHOSTNAME, 0), Action::ALLOW);
        let rule = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": null, "name": "sethostname", "args": null,
            "action": "SCMP_ACT_LOG", "comment": null, "includes": null, "excludes": null}]}"#;
        assert_eq!(answer(rule, SETHOSTNAME, 0), Action::LOG);
    }

    #[test]
    fn flags_are_those_of_the_kernel() {
        let flags = |list: &str| {
            let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": [{list}]}}"#);
            read(&json).unwrap().flags
        };
        assert_eq!(flags(""), 0);
        assert_eq!(flags(r#""SECCOMP_FILTER_FLAG_TSYNC""#), 0);
        let both = r#""SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW""#;
        assert_eq!(flags(both), 6);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |rest: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {rest}}}"#);
        let rule = |rest: &str| with(&format!(r#""syscalls": [{{"names": ["read"], {rest}}}]"#));
        for (json, word) in [
            ("nonsense".into(), "not valid"),
            (
                r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.into(),
                "SCMP_ACT_NOTIFY",
            ),
            (
                with(r#""flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#),
                "WAIT_KILLABLE_RECV",
            ),
            (with(r#""listenerPath": "/run/x""#), "listener"),
            (with(r#""archMaps": []"#), "archMaps"),
            (
                with(
                    r#""architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]"#,
                ),
                "architectures beside archMap",
            ),
            (
                rule(r#""name": "write", "action": "SCMP_ACT_LOG""#),
                "beside names",
            ),
            (
                rule(r#""action": "SCMP_ACT_LOG", "includes": {"maxKernel": "6.1"}"#),
                "maxKernel",
            ),
            (
                rule(r#""action": "SCMP_ACT_LOG", "excludes": {"caps": ["KILL"]}"#),
                "capability \"KILL\"",
            ),
            (
                rule(r#""action": "SCMP_ACT_ERRNO", "errno": "ENOTHING""#),
                "ENOTHING",
            ),
            (rule(r#""action": "ALLOW""#), "ALLOW"),
            (
                rule(
                    r#""action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#,
                ),
                "argument 6",
            ),
            (
                rule(r#""action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "op": "EQ"}]"#),
                "\"EQ\"",
            ),
        ] {
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
