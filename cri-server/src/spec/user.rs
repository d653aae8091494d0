//! Who the process is. Names are the shim's to look up, below the image's root.

use corten_image::ImageConfig;
use corten_proto::{cri, shim};

use super::{Invalid, Security};

/// The user, its group and the further groups.
///
/// A name wins over a number; the image's user counts when the request has neither. A group without
/// a user is refused (CRI, `run_as_group`).
pub(super) fn plan(security: Security<'_>, image: &ImageConfig) -> Result<shim::User, Invalid> {
    let Some(context) = security.0 else {
        return Ok(shim::User {
            spec: image_user(image)?,
            ..Default::default()
        });
    };
    let gid = context
        .run_as_group
        .map(|gid| id(gid.value, &field("run_as_group")))
        .transpose()?;
    let spec = match (context.run_as_username.as_str(), context.run_as_user) {
        ("", None) if gid.is_some() => {
            return Err(Invalid::new(
                field("run_as_group"),
                "set without run_as_user or run_as_username",
            ));
        }
        ("", None) => image_user(image)?,
        ("", Some(uid)) => id(uid.value, &field("run_as_user"))?.to_string(),
        (name, _) if name.contains([':', '\0', '\n']) => {
            return Err(Invalid::new(
                field("run_as_username"),
                format!("{name:?} is not a user's name"),
            ));
        }
        (name, _) => name.into(),
    };
    Ok(shim::User {
        spec,
        gid,
        supplemental_groups: supplemental_groups(context)?,
        strict_groups: strict_groups(context)?,
    })
}

fn field(name: &str) -> String {
    format!("{}.{name}", Security::FIELD)
}

fn supplemental_groups(context: &cri::LinuxContainerSecurityContext) -> Result<Vec<u32>, Invalid> {
    let groups = context.supplemental_groups.iter().enumerate();
    groups
        .map(|(i, &gid)| id(gid, &field(&format!("supplemental_groups[{i}]"))))
        .collect()
}

fn strict_groups(context: &cri::LinuxContainerSecurityContext) -> Result<bool, Invalid> {
    match cri::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy) {
        Ok(policy) => Ok(policy == cri::SupplementalGroupsPolicy::Strict),
        Err(unknown) => Err(Invalid::new(
            field("supplemental_groups_policy"),
            unknown.to_string(),
        )),
    }
}

/// A user or group id.
///
/// Shape: 0 to 2^31 - 1. Larger ones have wrapped around to root in other runtimes
/// (CVE-2024-40635).
fn id(value: i64, field: &str) -> Result<u32, Invalid> {
    match i32::try_from(value).map(u32::try_from) {
        Ok(Ok(id)) => Ok(id),
        _ => Err(Invalid::new(
            field,
            format!("{value} is not an id: want 0 to {}", i32::MAX),
        )),
    }
}

/// The image's `USER`, whose parts may be names or numbers.
fn image_user(image: &ImageConfig) -> Result<String, Invalid> {
    const FIELD: &str = "image config User";
    for part in image.user.splitn(2, ':') {
        if part.contains(['\0', '\n']) {
            return Err(Invalid::new(
                FIELD,
                format!("{part:?} is not a user or group"),
            ));
        }
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = part
                .parse()
                .map_err(|error| Invalid::new(FIELD, format!("{part}: {error}")))?;
            id(number, FIELD)?;
        }
    }
    Ok(image.user.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Context = cri::LinuxContainerSecurityContext;

    fn number(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }

    #[track_caller]
    fn check(context: &Context, image: &str, spec: &str, gid: Option<u32>) {
        let image = ImageConfig {
            user: image.into(),
            ..Default::default()
        };
        let user = plan(Security(Some(context)), &image).unwrap();
        assert_eq!((user.spec.as_str(), user.gid), (spec, gid));
    }

    #[test]
    fn a_name_wins_over_a_number_and_both_over_the_image() {
        check(&Context::default(), "", "", None);
        check(&Context::default(), "www-data:9", "www-data:9", None);
        check(
            &Context {
                run_as_user: number(0),
                ..Default::default()
            },
            "www-data",
            "0",
            None,
        );
        let both = Context {
            run_as_user: number(7),
            run_as_username: "n".into(),
            ..Default::default()
        };
        check(&both, "www-data", "n", None);
        let group = Context {
            run_as_user: number(7),
            run_as_group: number(8),
            ..Default::default()
        };
        check(&group, "1:2", "7", Some(8));
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        let context = Context {
            run_as_group: number(8),
            ..Default::default()
        };
        let error = plan(Security(Some(&context)), &ImageConfig::default()).unwrap_err();
        assert_eq!(error.field, "config.linux.security_context.run_as_group");
    }

    #[test]
    fn ids_that_could_wrap_around_are_refused() {
        for value in [-1, 1 << 31, (1 << 32) - 1, 1 << 32, i64::MAX, i64::MIN] {
            let context = Context {
                run_as_user: number(value),
                ..Default::default()
            };
            assert!(
                plan(Security(Some(&context)), &ImageConfig::default()).is_err(),
                "{value}"
            );
            let context = Context {
                supplemental_groups: vec![1, value],
                ..Default::default()
            };
            let error = plan(Security(Some(&context)), &ImageConfig::default()).unwrap_err();
            assert_eq!(
                error.field,
                "config.linux.security_context.supplemental_groups[1]"
            );
        }
        for user in [
            "4294967296",
            "1:4294967296",
            "2147483648",
            "99999999999999999999",
            "a\nb",
        ] {
            let image = ImageConfig {
                user: user.into(),
                ..Default::default()
            };
            assert_eq!(
                plan(Security(None), &image).unwrap_err().field,
                "image config User",
                "{user}"
            );
        }
    }

    #[test]
    fn a_users_name_with_a_colon_is_refused() {
        let context = Context {
            run_as_username: "a:0".into(),
            ..Default::default()
        };
        assert!(plan(Security(Some(&context)), &ImageConfig::default()).is_err());
    }

    #[test]
    fn the_groups_policy_is_merge_or_strict() {
        let strict = |policy| {
            let context = Context {
                supplemental_groups_policy: policy,
                ..Default::default()
            };
            plan(Security(Some(&context)), &ImageConfig::default()).map(|user| user.strict_groups)
        };
        assert_eq!(strict(0), Ok(false));
        assert_eq!(strict(1), Ok(true));
        assert!(strict(2).is_err());
    }
}
