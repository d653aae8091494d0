//! The Container Device Interface: devices by field and by annotation, from files that come, change and are broken.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::PathBuf};

use corten_proto::cri;
use corten_test::{image, node::Node, pod};
use serde_json::{Value, json};
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
    number: u32,
}

impl Site {
    /// A node that looks for files in `low`, then in `high`.
    async fn new() -> Self {
        let mut node = Node::without_daemon(&[]).await.unwrap();
        let dirs = ["low", "high"].map(|name| node.dir().join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let options = dirs.map(|dir| ["--cdi-dir".to_owned(), dir.display().to_string()]);
        node.add_options(options.into_iter().flatten());
        node.start_daemon().await.unwrap();
        image::load_busybox(&node).await.unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("cdi"))
            .await
            .unwrap();
        Self {
            node,
            runtime,
            pod,
            number: 0,
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.node.dir().join(path);
        let aside = path.with_extension("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, path).unwrap();
    }

    /// A file of `kind` whose devices have these edits.
    fn write_devices(&self, path: &str, kind: &str, devices: &[(&str, Value)]) {
        let devices = devices.iter();
        let devices: Vec<_> = devices
            .map(|(name, edits)| json!({ "name": name, "containerEdits": edits }))
            .collect();
        let document = json!({ "cdiVersion": "1.1.0", "kind": kind, "devices": devices });
        self.write(path, &document.to_string());
    }

    async fn run(&mut self, devices: &[&str]) -> pod::Reply<String> {
        self.run_with(devices, |_| ()).await
    }

    async fn run_with(
        &mut self,
        devices: &[&str],
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> pod::Reply<String> {
        self.number += 1;
        let mut config = pod::container(&format!("c{}", self.number), "sleep 1000");
        let device = |name: &&str| cri::CdiDevice {
            name: (*name).into(),
        };
        config.cdi_devices = devices.iter().map(device).collect();
        change(&mut config);
        pod::run(&mut self.runtime, &self.pod, &config).await
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    /// What a container with one device has in the variable GOT.
    async fn got(&mut self, device: &str) -> String {
        let id = self.run(&[device]).await.unwrap();
        self.output(&id, "printf %s $GOT").await
    }

    async fn refused(&mut self, device: &str) -> String {
        let refused = self.run(&[device]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        refused.message().to_owned()
    }

    async fn condition(&mut self) -> Option<cri::RuntimeCondition> {
        let status = self.runtime.status(cri::StatusRequest::default()).await;
        let status = status.unwrap().into_inner().status.unwrap();
        let mut conditions = status.conditions.into_iter();
        conditions.find(|condition| condition.r#type == "CDIComplete")
    }
}

fn got(value: &str) -> Value {
    json!({ "env": [format!("GOT={value}")] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_brings_all_that_its_file_says() {
    let mut site = Site::new().await;
    let library: PathBuf = site.node.dir().join("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join("lib.so"), "code\n").unwrap();
    let text = format!(
        "cdiVersion: 1.0.0
kind: vendor.com/gpu
containerEdits:
  env: [ALL=yes, FROM_IMAGE=no]
  mounts:
  - {{hostPath: {library}, containerPath: /usr/vendor, options: [ro, nosuid, nodev, rbind, rprivate]}}
  - {{hostPath: '', containerPath: /scratch, type: tmpfs, options: [size=64k, mode=1770, noexec]}}
devices:
- name: gpu0
  containerEdits:
    env: [GOT=gpu0, ASKED=device]
    additionalGids: [4321, 0]
    deviceNodes:
    - {{path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r}}
    - {{path: /dev/vendor/made, type: c, major: 1, minor: 3, fileMode: 0640, uid: 7, gid: 8}}
    - {{path: /dev/vendor/pipe, type: p, fileMode: 0o600}}
- name: gpu1
  containerEdits: {{env: [OTHER=gpu1]}}
",
        library = library.display()
    );
    site.write("low/vendor.yaml", &text);
    let asked = |config: &mut cri::ContainerConfig| {
        config.envs = vec![cri::KeyValue {
            key: "ASKED".into(),
            value: b"request".into(),
        }];
        let security = pod::security(config);
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.supplemental_groups = vec![99];
    };
    let devices = ["vendor.com/gpu=gpu0", "vendor.com/gpu=gpu1"];
    let id = site.run_with(&devices, asked).await.unwrap();
    let seen = site
        .output(
            &id,
            "echo $ALL $FROM_IMAGE $GOT $ASKED $OTHER; id -G; cat /usr/vendor/lib.so",
        )
        .await;
    assert_eq!(seen, "yes no gpu0 device gpu1\n1001 99 2000 4321\ncode\n");
    let nodes =
        "cd /dev/vendor && stat -c '%n %F %a %u %g' made pipe && stat -c '%n %t:%T' zero made";
    assert_eq!(
        site.output(&id, nodes).await,
        "made character special file 640 7 8\npipe fifo 600 1000 1001\nzero 1:5\nmade 1:3\n"
    );
    let mounts = "grep -E ' /(usr/vendor|scratch) ' /proc/mounts | cut -d ' ' -f 2-4";
    let mounts = site.output(&id, mounts).await;
    let flags: Vec<_> = mounts.lines().collect();
    assert!(
        flags[0].starts_with("/usr/vendor ") && flags[0].contains(" ro,nosuid,nodev"),
        "{mounts}"
    );
    assert!(
        flags[1].starts_with("/scratch tmpfs rw") && flags[1].contains("noexec"),
        "{mounts}"
    );
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.mounts, [], "the status has the request's mounts");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_cgroup_knows_of_permissions() {
    let mut site = Site::new().await;
    // Loop devices are in no container's cgroup.
    let node = |permissions: &str| {
        let node = json!({ "path": "/dev/it", "type": "c", "major": 10, "minor": 237, "permissions": permissions });
        json!({ "deviceNodes": [node] })
    };
    site.write_devices(
        "low/a.json",
        "v.com/c",
        &[("r", node("r")), ("rw", node("rw")), ("none", node("none"))],
    );
    let id = site.run(&["v.com/c=r"]).await.unwrap();
    site.output(&id, "exec 3</dev/it").await;
    let done = pod::exec(&mut site.runtime, &id, "exec 3>/dev/it")
        .await
        .unwrap();
    assert_ne!(done.exit_code, 0);
    let id = site.run(&["v.com/c=rw"]).await.unwrap();
    site.output(&id, "exec 3<>/dev/it").await;
    let id = site.run(&["v.com/c=none"]).await.unwrap();
    let done = pod::exec(&mut site.runtime, &id, "ls /dev/it && exec 3</dev/it")
        .await
        .unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "/dev/it\n");
    assert_ne!(done.exit_code, 0);
}

/// As under containerd and CRI-O: programs that are not root could not open their device else.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_owner_belongs_to_the_containers_user() {
    let mut site = Site::new().await;
    let nodes = json!({ "deviceNodes": [
        { "path": "/dev/user", "hostPath": "/dev/zero", "fileMode": 384 },
        { "path": "/dev/group", "hostPath": "/dev/zero", "uid": 0, "fileMode": 416 },
        { "path": "/dev/told", "type": "c", "major": 1, "minor": 5, "uid": 0, "gid": 7, "fileMode": 384 },
    ] });
    site.write_devices("low/a.json", "v.com/c", &[("x", nodes)]);
    let owners = "cd /dev && stat -c '%n %u:%g' user group told";
    let root = site.run(&["v.com/c=x"]).await.unwrap();
    assert_eq!(
        site.output(&root, owners).await,
        "user 0:0\ngroup 0:0\ntold 0:7\n"
    );
    let named = |config: &mut cri::ContainerConfig| {
        pod::security(config).run_as_username = "app".into();
    };
    let id = site.run_with(&["v.com/c=x"], named).await.unwrap();
    assert_eq!(
        site.output(&id, owners).await,
        "user 1000:1001\ngroup 0:1001\ntold 0:7\n"
    );
    site.output(&id, "exec 3</dev/user 4</dev/group").await;
    let done = pod::exec(&mut site.runtime, &id, "exec 3</dev/told").await;
    assert_ne!(done.unwrap().exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_name_devices_too() {
    let mut site = Site::new().await;
    let devices = [
        ("a", json!({ "env": ["A=1"] })),
        ("b", json!({ "env": ["B=1"] })),
    ];
    site.write_devices("low/a.json", "v.com/c", &devices);
    site.write_devices("low/b.json", "v.com/d", &[("c", json!({ "env": ["C=1"] }))]);
    let annotate = |config: &mut cri::ContainerConfig| {
        let annotations = [
            ("cdi.k8s.io/plugin", "v.com/c=a,v.com/d=c"),
            ("other", "v.com/c=none"),
        ];
        let annotations = annotations.map(|(key, value)| (key.into(), value.into()));
        config.annotations = annotations.into();
    };
    let id = site
        .run_with(&["v.com/c=b", "v.com/c=a"], annotate)
        .await
        .unwrap();
    assert_eq!(site.output(&id, "echo $A$B$C").await, "111\n");
    let id = site.run_with(&[], annotate).await.unwrap();
    assert_eq!(site.output(&id, "echo $A-$B-$C").await, "1--1\n");

    let wrong = |config: &mut cri::ContainerConfig| {
        config.annotations = [("cdi.k8s.io/plugin".into(), "v.com/c=none".into())].into();
    };
    let refused = site.run_with(&[], wrong).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("config.annotations[\"cdi.k8s.io/plugin\"]: device v.com/c=none"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_directory_wins_and_two_of_one_are_ambiguous() {
    let mut site = Site::new().await;
    site.write_devices(
        "low/a.json",
        "v.com/c",
        &[("x", got("low")), ("y", got("low"))],
    );
    site.write_devices("high/b.json", "v.com/c", &[("x", got("high"))]);
    assert_eq!(site.got("v.com/c=x").await, "high");
    assert_eq!(site.got("v.com/c=y").await, "low");
    site.write_devices(
        "low/z.json",
        "v.com/c",
        &[("x", got("other")), ("y", got("other"))],
    );
    assert_eq!(site.got("v.com/c=x").await, "high");
    let refused = site.refused("v.com/c=y").await;
    for part in ["v.com/c=y", "low/a.json", "low/z.json"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_when_they_change() {
    let mut site = Site::new().await;
    let refused = site.refused("v.com/c=x").await;
    assert!(
        refused.starts_with("config.CDI_devices[0].name: device v.com/c=x is in no CDI file"),
        "{refused}"
    );
    site.write_devices("low/a.json", "v.com/c", &[("x", got("one"))]);
    assert_eq!(site.got("v.com/c=x").await, "one");
    // Of the same length.
    site.write_devices("low/a.json", "v.com/c", &[("x", got("two"))]);
    assert_eq!(site.got("v.com/c=x").await, "two");
    fs::remove_file(site.node.dir().join("low/a.json")).unwrap();
    site.refused("v.com/c=x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_hurts_nobody_else_and_is_told() {
    let mut site = Site::new().await;
    site.write_devices("low/good.json", "v.com/c", &[("x", got("good"))]);
    assert_eq!(site.condition().await, None);
    site.write("low/broken.json", "{ \"cdiVersion\": ");
    site.write(
        "low/old.yaml",
        "cdiVersion: 99.0.0\nkind: v.com/d\ndevices: []\n",
    );
    site.write(
        "low/early.yaml",
        "cdiVersion: 0.4.0\nkind: v.com/e\ndevices:\n- {name: x, containerEdits: {deviceNodes: [{path: /dev/x, hostPath: /dev/null}]}}\n",
    );
    site.write("low/large.json", &" ".repeat((1 << 20) + 1));
    let bomb = (1..40).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [*a{0},*a{0},*a{0}]\n", n - 1)
    });
    site.write("low/bomb.yaml", &bomb);
    fs::create_dir(site.node.dir().join("low/dir.json")).unwrap();
    site.node
        .shell(&format!(
            "mkfifo {}/low/pipe.json",
            site.node.dir().display()
        ))
        .unwrap();
    for _ in 0..2 {
        assert_eq!(site.got("v.com/c=x").await, "good");
    }
    let condition = site.condition().await.unwrap();
    assert!(!condition.status, "{condition:?}");
    let log = site.node.log();
    for name in [
        "broken.json",
        "old.yaml",
        "early.yaml",
        "large.json",
        "bomb.yaml",
    ] {
        assert!(condition.message.contains(name), "{condition:?}");
        let told = log
            .lines()
            .filter(|line| line.contains(name) && line.contains("CDI"));
        assert_eq!(told.count(), 1, "{name}\n{log}");
    }
    // The node is ready all the same.
    let refused = site.refused("v.com/d=x").await;
    assert!(
        refused.contains("old.yaml") && refused.contains("99.0.0"),
        "{refused}"
    );
    let refused = site.refused("v.com/e=x").await;
    assert!(
        refused.contains("hostPath of deviceNodes needs 0.5.0"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_by_name() {
    let mut site = Site::new().await;
    let hook = json!({ "hookName": "createContainer", "path": "/usr/bin/vendor-hook", "args": ["vendor-hook", "x"] });
    let missing =
        json!({ "deviceNodes": [{ "path": "/dev/none", "hostPath": "/dev/no-such-device" }] });
    let mount = |host: &str, option: &str| json!({ "mounts": [{ "hostPath": host, "containerPath": "/m", "options": [option] }] });
    let devices = [
        (
            "hook",
            json!({ "hooks": [hook] }),
            "createContainer hook /usr/bin/vendor-hook",
        ),
        ("rdt", json!({ "intelRdt": { "closID": "x" } }), "intelRdt"),
        (
            "net",
            json!({ "netDevices": [{ "hostInterfaceName": "eth9", "name": "e" }] }),
            "netDevices",
        ),
        ("missing", missing, "/dev/no-such-device"),
        ("option", mount("/tmp", "noatime"), "\"noatime\""),
        ("source", mount("/no/such/source", "ro"), "/no/such/source"),
        (
            "kind",
            json!({ "deviceNodes": [{ "path": "/dev/it", "hostPath": "/dev/null", "type": "b" }] }),
            "not of type b",
        ),
    ];
    let written: Vec<_> = devices
        .iter()
        .map(|(name, edits, _)| (*name, edits.clone()))
        .collect();
    site.write_devices("low/a.json", "v.com/c", &written);
    for (name, _, want) in devices {
        let refused = site.refused(&format!("v.com/c={name}")).await;
        assert!(refused.contains(want), "{name}: {refused}");
    }
    let refused = site.refused("not a device").await;
    assert!(refused.contains("\"not a device\""), "{refused}");
    assert!(!std::path::Path::new("/no").exists());
}
