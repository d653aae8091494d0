//! Profiles as files: the `seccomp` object of the OCI runtime-spec, in JSON.

use serde::Deserialize;

use super::{
    Error, arch,
    profile::{Action, Condition, Profile, Rule, Test},
};

/// Rule: OCI runtime-spec v1.2, config-linux.md, "Seccomp". Keys beyond it are refused: those of
/// Docker's own format (`includes`, `archMap`) narrow a rule down, and without them it would allow
/// more than its author meant.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seccomp {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    listener_path: String,
    #[serde(default)]
    listener_metadata: String,
    #[serde(default)]
    syscalls: Vec<Syscall>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Syscall {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    /// A habit, without meaning.
    #[serde(default, rename = "comment")]
    _comment: String,
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

pub(super) fn parse(json: &[u8]) -> Result<Profile, Error> {
    let raw: Seccomp = serde_json::from_slice(json).map_err(Error::Json)?;
    let flags = raw.flags.iter().map(|name| flag(name));
    let flags = flags.collect::<Result<Vec<_>, _>>()?;
    if !raw.listener_path.is_empty() || !raw.listener_metadata.is_empty() {
        return Err(Error::Unsupported("a listener for notifications".into()));
    }
    let mut rules = Vec::new();
    for syscall in &raw.syscalls {
        append(&mut rules, syscall)?;
    }
    let default = action(&raw.default_action, raw.default_errno_ret)?;
    Ok(Profile {
        default,
        flags: flags.into_iter().fold(0, |all, flag| all | flag),
        arches: arch::named(&raw.architectures),
        rules,
    })
}

/// A rule that tests one argument twice stands for one rule a test: runc has always read it so,
/// since libseccomp takes no argument twice, and profiles are written for it.
fn append(rules: &mut Vec<Rule>, syscall: &Syscall) -> Result<(), Error> {
    let action = action(&syscall.action, syscall.errno_ret)?;
    let arguments = syscall.args.as_deref().unwrap_or_default();
    let conditions = arguments
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>, _>>()?;
    let mut indexes: Vec<u8> = arguments.iter().map(|argument| argument.index).collect();
    indexes.sort_unstable();
    let names: Vec<_> = syscall
        .names
        .iter()
        .map(|name| name.clone().into())
        .collect();
    if indexes.windows(2).any(|pair| pair[0] == pair[1]) {
        let split = conditions.into_iter();
        rules.extend(split.map(|condition| Rule {
            names: names.clone(),
            action,
            conditions: vec![condition],
        }));
    } else {
        rules.push(Rule {
            names,
            action,
            conditions,
        });
    }
    Ok(())
}

/// `include/uapi/linux/seccomp.h`. To wait for a notification's answer there is nobody.
fn flag(name: &str) -> Result<u32, Error> {
    match name {
        // The filter is loaded by a process with one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(1 << 1),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(1 << 2),
        name => Err(Error::Unsupported(format!("flag {name:?}"))),
    }
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
    use crate::spec::seccomp::{
        arch::X86_64,
        compile::compile,
        simulate::{Call, run},
    };

    fn answer(json: &str, number: u32, first: u64) -> Action {
        let filter = compile(&parse(json.as_bytes()).unwrap()).unwrap();
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
    fn flags_are_those_of_the_kernel() {
        let flags = |list: &str| {
            let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": [{list}]}}"#);
            parse(json.as_bytes()).unwrap().flags
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
            (with(r#""archMap": []"#), "archMap"),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "includes": {}"#),
                "includes",
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
            let error = parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
