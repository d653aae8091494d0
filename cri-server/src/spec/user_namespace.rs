//! The pod's user namespace: which ids of the host its ids are.
//!
//! Rule (CRI, UserNamespace): mode POD with one mapping each of users and groups, which has id 0; NODE, and none given, is
//! the host's.

use corten_proto::{cri, shim};

use super::{Invalid, namespaces};

/// Its name among a container's or a pod's namespace options.
const FIELD: &str = "userns_options";

/// The ids that the pod asks for; `None` is the host's.
pub(crate) fn of_pod(
    config: &cri::PodSandboxConfig,
) -> Result<Option<shim::UserNamespace>, Invalid> {
    of(&namespaces::of_pod(config), namespaces::POD_FIELD)
}

/// Refuses a container that asks for other ids than its pod's. One that says nothing has the pod's.
pub(super) fn check_container(
    options: &cri::NamespaceOption,
    pod: &cri::PodSandboxConfig,
    field: &str,
) -> Result<(), Invalid> {
    if options.userns_options.is_none() || of(options, field)? == of_pod(pod)? {
        return Ok(());
    }
    let field = format!("{field}.{FIELD}");
    Err(Invalid::new(field, "differs from the pod's user namespace"))
}

/// Where the pod's ids are, for a host that cannot map any.
pub(crate) fn field() -> String {
    format!("{}.{FIELD}", namespaces::POD_FIELD)
}

fn of(options: &cri::NamespaceOption, field: &str) -> Result<Option<shim::UserNamespace>, Invalid> {
    let Some(asked) = &options.userns_options else {
        return Ok(None);
    };
    let field = |name: &str| format!("{field}.{FIELD}.{name}");
    let mode = namespaces::mode(asked.mode, &field("mode"))?;
    match mode {
        cri::NamespaceMode::Pod => Ok(Some(shim::UserNamespace {
            uids: vec![mapping(&asked.uids, &field("uids"))?],
            gids: vec![mapping(&asked.gids, &field("gids"))?],
        })),
        cri::NamespaceMode::Node => match (asked.uids.as_slice(), asked.gids.as_slice()) {
            ([], []) => Ok(None),
            ([], _) => Err(Invalid::new(field("gids"), "mode NODE maps none")),
            _ => Err(Invalid::new(field("uids"), "mode NODE maps none")),
        },
        other => Err(Invalid::new(
            field("mode"),
            format!(
                "a user namespace cannot be {}: want POD or NODE",
                other.as_str_name()
            ),
        )),
    }
}

fn mapping(mappings: &[cri::IdMapping], field: &str) -> Result<shim::IdMapping, Invalid> {
    let [mapping] = mappings else {
        let count = mappings.len();
        return Err(Invalid::new(field, format!("{count} mappings: want one")));
    };
    let entry =
        |name: &str, reason: String| Err(Invalid::new(format!("{field}[0].{name}"), reason));
    if mapping.container_id != 0 {
        return entry(
            "container_id",
            "the container's id 0 has to be mapped".into(),
        );
    }
    if mapping.length == 0 {
        return entry("length", "0 ids".into());
    }
    // 2^32 - 1 is no id (user_namespaces(7)).
    if mapping.host_id.checked_add(mapping.length).is_none() {
        let reason = format!(
            "{} ids from {} on are more than there are",
            mapping.length, mapping.host_id
        );
        return entry("length", reason);
    }
    Ok(shim::IdMapping {
        inside: mapping.container_id,
        outside: mapping.host_id,
        length: mapping.length,
    })
}

/// The host's number for the container's user or group `id`, or for its root where there is none.
pub(super) fn outside(maps: &[shim::IdMapping], id: u32) -> u32 {
    let found = maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.inside)?;
        (offset < map.length).then(|| map.outside.checked_add(offset))?
    });
    found
        .or_else(|| maps.first().map(|map| map.outside))
        .unwrap_or(id)
}

/// The host's numbers for somebody in the pod; without a user namespace they are the same.
pub(crate) fn owner(ids: Option<&shim::UserNamespace>, uid: u32, gid: u32) -> (u32, u32) {
    ids.map_or((uid, gid), |ids| {
        (outside(&ids.uids, uid), outside(&ids.gids, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping {
            container_id,
            host_id,
            length,
        }
    }

    /// What is planned, or the last part of the field that is refused.
    fn planned(mode: i32, uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> String {
        let options = cri::NamespaceOption {
            userns_options: Some(cri::UserNamespace {
                mode,
                uids: uids.to_vec(),
                gids: gids.to_vec(),
            }),
            ..Default::default()
        };
        match of(&options, "x") {
            Ok(Some(ids)) => format!("{} {}", ids.uids[0].outside, ids.gids[0].outside),
            Ok(None) => "host".into(),
            Err(error) => error.field.trim_start_matches("x.userns_options.").into(),
        }
    }

    #[test]
    fn one_mapping_each_from_0_on_is_a_user_namespace() {
        let good = [map(0, 1000, 65_536)];
        assert_eq!(planned(0, &good, &good), "1000 1000");
        assert_eq!(planned(0, &good, &[map(0, 7, 1)]), "1000 7");
        assert_eq!(planned(0, &[map(0, 1, u32::MAX - 1)], &good), "1 1000");
        assert_eq!(planned(2, &[], &[]), "host");
        assert_eq!(of(&cri::NamespaceOption::default(), "x"), Ok(None));
    }

    #[test]
    fn what_it_cannot_be_is_told_by_field() {
        let good = [map(0, 1000, 65_536)];
        assert_eq!(planned(0, &[], &good), "uids");
        assert_eq!(planned(0, &[good[0], good[0]], &good), "uids");
        assert_eq!(planned(0, &good, &[]), "gids");
        assert_eq!(
            planned(0, &good, &[map(1, 1000, 10)]),
            "gids[0].container_id"
        );
        assert_eq!(planned(0, &[map(0, 1000, 0)], &good), "uids[0].length");
        assert_eq!(planned(0, &[map(0, u32::MAX, 1)], &good), "uids[0].length");
        assert_eq!(planned(2, &good, &[]), "uids");
        for mode in [1, 3, 9] {
            assert_eq!(planned(mode, &[], &[]), "mode");
        }
    }

    #[test]
    fn an_id_that_is_not_mapped_is_roots() {
        let maps = [shim::IdMapping {
            inside: 0,
            outside: 1000,
            length: 10,
        }];
        assert_eq!([outside(&maps, 9), outside(&maps, 10)], [1009, 1000]);
    }
}
