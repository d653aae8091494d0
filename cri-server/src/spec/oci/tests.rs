//! What a usual container is to an external runtime.

use oci_spec::runtime::Spec;

use super::*;
use crate::spec::tests::Fixture;

fn prepared() -> shim::Prepared {
    shim::Prepared {
        identity: Some(shim::Identity {
            uid: 5,
            gid: 6,
            groups: vec![6, 7],
        }),
        home: "/home".into(),
        devices: vec![shim::DeviceNode {
            path: "/dev/fuse".into(),
            r#type: "c".into(),
            major: 10,
            minor: 229,
            mode: 0o666,
            permissions: "rw".into(),
            ..Default::default()
        }],
        oom_score_adj: 3,
        rlimits: vec![shim::Rlimit {
            resource: 7,
            soft: 1,
            hard: 2,
        }],
        bound: (6..10).collect(),
        bound_attributes: vec![
            shim::MountAttributes {
                readonly: true,
                noexec: true,
                ..Default::default()
            };
            4
        ],
    }
}

fn lowered(fixture: &Fixture) -> Value {
    let (plan, seccomp) = fixture.with_oci();
    config(plan, &prepared(), seccomp).unwrap()
}

/// Nothing is in it that the specification has no name for.
#[test]
fn the_configuration_is_the_ocis() {
    let mut fixture = Fixture::default();
    fixture.security().seccomp = Some(corten_proto::cri::SecurityProfile::default());
    let config = lowered(&fixture);
    let typed: Spec = serde_json::from_value(config.clone()).unwrap();
    let again = serde_json::to_value(typed).unwrap();
    assert_contains(&again, &config);
}

/// Every value of `part` is in `whole`; lists of capabilities have no order.
#[track_caller]
fn assert_contains(whole: &Value, part: &Value) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                assert_contains(
                    whole.get(key).unwrap_or_else(|| panic!("{key}: {value}")),
                    value,
                );
            }
        }
        (Value::Array(whole), Value::Array(part)) if part.iter().all(Value::is_string) => {
            assert!(part.iter().all(|value| whole.contains(value)), "{part:?}");
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len());
            whole
                .iter()
                .zip(part)
                .for_each(|(whole, part)| assert_contains(whole, part));
        }
        _ => assert_eq!(whole, part),
    }
}

#[test]
fn what_the_shim_found_takes_the_place_of_what_was_asked() {
    let config = lowered(&Fixture::default());
    let process = &config["process"];
    assert_eq!(
        process["user"],
        json!({"uid": 5, "gid": 6, "additionalGids": [6, 7]})
    );
    assert_eq!(process["oomScoreAdj"], 3);
    assert_eq!(
        process["rlimits"],
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}])
    );
    assert!(
        process["env"]
            .as_array()
            .unwrap()
            .contains(&json!("HOME=/home"))
    );
    assert_eq!(config["linux"]["devices"][0]["major"], 10);
    let rules = config["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(rules[1]["access"], "rw");
}

#[test]
fn pins_are_joined_and_volumes_come_from_the_bundle() {
    let config = lowered(&Fixture::default());
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({"type": "network", "path": "/run/netns/p"})));
    assert!(namespaces.contains(&json!({"type": "mount"})));
    let mounts = config["mounts"].as_array().unwrap();
    let hosts = mounts
        .iter()
        .find(|mount| mount["destination"] == "/etc/hosts")
        .unwrap();
    assert_eq!(hosts["source"], "/state/c/bundle/mounts/8");
    assert_eq!(
        hosts["options"],
        json!(["ro", "noexec", "rbind", "rprivate"])
    );
}

#[test]
fn a_bind_that_the_shim_has_not_made_is_refused() {
    let (plan, seccomp) = Fixture::default().with_oci();
    let error = config(plan, &shim::Prepared::default(), seccomp).unwrap_err();
    assert!(error.field.contains("/dev/shm"), "{error}");
}

#[test]
fn selinux_labels_go_to_the_runtime() {
    let (mut plan, seccomp) = Fixture::default().with_oci();
    plan.mount_label = "u:object_r:container_file_t:s0".into();
    plan.process.as_mut().unwrap().selinux_label = "u:r:container_t:s0".into();
    let config = config(plan, &prepared(), seccomp).unwrap();
    let labels = [
        &config["linux"]["mountLabel"],
        &config["process"]["selinuxLabel"],
    ];
    assert_eq!(
        labels,
        ["u:object_r:container_file_t:s0", "u:r:container_t:s0"]
    );
}
