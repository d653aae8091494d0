//! From a profile to the OCI's JSON, for a runtime that compiles it itself. The reverse of [`super::json`].

use serde_json::{Value, json};

use super::{
    Error,
    profile::{Action, Condition, Profile, Rule, Test},
};

/// Rule: OCI runtime-spec, config-linux.md, "Seccomp".
pub(super) fn lower(profile: &Profile) -> Result<Value, Error> {
    let syscalls = profile.rules.iter().map(rule);
    let arches: Vec<_> = profile.arches.iter().map(|arch| arch.name).collect();
    let mut lowered = json!({
        "architectures": arches,
        "syscalls": syscalls.collect::<Result<Vec<_>, _>>()?,
        "flags": flags(profile.flags),
    });
    let (action, data) = action(profile.default)?;
    lowered["defaultAction"] = json!(action);
    if let Some(data) = data {
        lowered["defaultErrnoRet"] = json!(data);
    }
    Ok(lowered)
}

/// As [`super::json`] reads them.
fn flags(flags: u32) -> Vec<&'static str> {
    let names = [
        (1 << 1, "SECCOMP_FILTER_FLAG_LOG"),
        (1 << 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    ];
    let set = names.into_iter().filter(|(flag, _)| flags & flag != 0);
    set.map(|(_, name)| name).collect()
}

fn rule(rule: &Rule) -> Result<Value, Error> {
    let (action, data) = action(rule.action)?;
    let mut lowered = json!({ "names": rule.names, "action": action });
    if let Some(data) = data {
        lowered["errnoRet"] = json!(data);
    }
    if !rule.conditions.is_empty() {
        let arguments = rule.conditions.iter().map(argument);
        lowered["args"] = json!(arguments.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(lowered)
}

/// Its name, and the number that goes with it.
fn action(action: Action) -> Result<(&'static str, Option<u32>), Error> {
    let data = action.0 & 0xffff;
    match Action(action.0 & 0xffff_0000) {
        Action::ALLOW => Ok(("SCMP_ACT_ALLOW", None)),
        Action::LOG => Ok(("SCMP_ACT_LOG", None)),
        Action::TRAP => Ok(("SCMP_ACT_TRAP", None)),
        Action::KILL_THREAD => Ok(("SCMP_ACT_KILL_THREAD", None)),
        Action::KILL_PROCESS => Ok(("SCMP_ACT_KILL_PROCESS", None)),
        kind if kind == Action::errno(0) => Ok(("SCMP_ACT_ERRNO", Some(data))),
        kind if kind == Action::trace(0) => Ok(("SCMP_ACT_TRACE", Some(data))),
        _ => Err(Error::Unsupported(format!("action {:#x}", action.0))),
    }
}

fn argument(condition: &Condition) -> Result<Value, Error> {
    let (op, value, two) = match (condition.test, condition.negated) {
        (
            Test::MaskedEqual {
                mask: u64::MAX,
                value,
            },
            false,
        ) => ("SCMP_CMP_EQ", value, 0),
        (
            Test::MaskedEqual {
                mask: u64::MAX,
                value,
            },
            true,
        ) => ("SCMP_CMP_NE", value, 0),
        (Test::MaskedEqual { mask, value }, false) => ("SCMP_CMP_MASKED_EQ", mask, value),
        (Test::GreaterOrEqual(value), false) => ("SCMP_CMP_GE", value, 0),
        (Test::GreaterOrEqual(value), true) => ("SCMP_CMP_LT", value, 0),
        (Test::Greater(value), false) => ("SCMP_CMP_GT", value, 0),
        (Test::Greater(value), true) => ("SCMP_CMP_LE", value, 0),
        (Test::MaskedEqual { .. }, true) => {
            return Err(Error::Unsupported(
                "a comparison that the OCI has no name for".into(),
            ));
        }
    };
    Ok(json!({ "index": condition.argument, "op": op, "value": value, "valueTwo": two }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        capabilities,
        seccomp::{
            applies::Here,
            compile::compile,
            default_profile,
            json::parse,
            simulate::{Call, run},
        },
    };

    /// What was lowered answers every call as the profile does.
    #[track_caller]
    fn check(profile: &Profile) {
        let lowered = lower(profile).unwrap().to_string();
        let again = parse(lowered.as_bytes(), &Here::with(0).unwrap()).unwrap();
        assert_eq!(again.flags, profile.flags);
        let again = compile(&again).unwrap();
        let filter = compile(profile).unwrap();
        for arch in &profile.arches {
            for (number, first) in
                (0..500).flat_map(|n| [0, 8, 12, 37, 38, 39, 40, 41, 1 << 29].map(|v| (n, v)))
            {
                let call = Call {
                    audit: arch.audit,
                    number: arch.base + number,
                    arguments: [first, first, 0, 0, 0, 0],
                };
                assert_eq!(
                    run(&again, &call),
                    run(&filter, &call),
                    "{number} of {}: {first}",
                    arch.name
                );
            }
        }
    }

    #[test]
    fn the_default_profile_means_the_same_to_an_external_runtime() {
        for capabilities in [0, capabilities::DEFAULT, u64::MAX] {
            check(&default_profile::profile(capabilities));
        }
    }

    #[test]
    fn every_action_and_comparison_means_the_same() {
        let ops = ["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"];
        let actions = [
            "ALLOW",
            "LOG",
            "TRAP",
            "KILL",
            "KILL_PROCESS",
            "TRACE",
            "ERRNO",
        ];
        let mut syscalls = ["read", "write", "open", "close", "stat", "poll", "mmap"].iter();
        let rules = ops.iter().zip(actions).map(|(op, action)| {
            json!({"names": [syscalls.next()], "action": format!("SCMP_ACT_{action}"), "errnoRet": 7,
                "args": [{"index": 1, "value": 12, "valueTwo": 4, "op": format!("SCMP_CMP_{op}")}]})
        });
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": rules.collect::<Vec<_>>()});
        let here = Here::with(0).unwrap();
        check(&parse(profile.to_string().as_bytes(), &here).unwrap());
    }
}
