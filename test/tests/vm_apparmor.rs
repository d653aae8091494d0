//! AppArmor: which profile holds a container's processes, and what happens without it.
//!
//! The kernel of a usual test machine has no AppArmor: most tests run in a virtual machine.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::{fs, path::Path, process::Command};

use corten_proto::cri::{self, security_profile::ProfileType};
use corten_test::{handler, image, node::Node, pod, vm};
use tonic::Code;

/// Since Linux 5.8.
const CURRENT: &str = "cat /proc/self/attr/apparmor/current";
const PARSER: &str = "/usr/sbin/apparmor_parser";
const DENY_WRITE: &str = "profile corten-test-deny-write flags=(attach_disconnected) {
  file,
  capability,
  signal,
  deny /** w,
}
";

#[test]
fn apparmor_holds_in_a_machine_that_has_it() {
    vm::run(&["--lsm", "apparmor"]).unwrap();
}

fn typed(kind: ProfileType, reference: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: reference.into(),
    })
}

#[expect(deprecated, reason = "the CRI's older way, which clients still use")]
fn set_text(config: &mut cri::ContainerConfig, text: &str) {
    pod::security(config).apparmor_profile = text.into();
}

/// A node with a pod, whose containers may be privileged.
struct Site {
    _node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start_with(&[]).await.unwrap();
        image::load_busybox(&node).await.unwrap();
        Self::on(node, "").await
    }

    /// On a handler of the node's.
    async fn on(node: Node, handler: &str) -> Self {
        let mut runtime = node.runtime().await.unwrap();
        let mut config = pod::host_network_pod("site");
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
        let pod = handler::run_pod(&mut runtime, &config, handler)
            .await
            .unwrap();
        Self {
            _node: node,
            runtime,
            pod,
        }
    }

    async fn create(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> pod::Reply<String> {
        // What a process is held by, it can say itself; what exec starts says the same.
        let mut config = pod::container(name, &format!("{CURRENT} >/dev/shm/{name}; sleep 1000"));
        change(&mut config);
        pod::create(&mut self.runtime, &self.pod, &config).await
    }

    async fn run(&mut self, name: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let id = self.create(name, change).await.unwrap();
        pod::start(&mut self.runtime, &id).await.unwrap();
        id
    }

    /// The profiles of the container's first process and of one that is started in it.
    async fn profiles(&mut self, container: &str) -> [String; 2] {
        let mut profiles = Vec::new();
        for process in ["1", "self"] {
            let script = format!("cat /proc/{process}/attr/apparmor/current");
            let profile = pod::output(&mut self.runtime, container, &script).await;
            profiles.push(profile.unwrap().trim().to_owned());
        }
        profiles.try_into().unwrap()
    }

    async fn fails(&mut self, container: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime, container, script)
            .await
            .unwrap();
        assert_ne!(done.exit_code, 0, "{script} was done");
        String::from_utf8(done.stderr).unwrap()
    }

    /// Why a container is not created.
    async fn refused(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> tonic::Status {
        self.create(name, change).await.unwrap_err()
    }
}

fn parser(arguments: &[&str], profile: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("profile");
    fs::write(&file, profile).unwrap();
    let done = Command::new(PARSER)
        .args(arguments)
        .arg(file)
        .status()
        .unwrap();
    assert!(done.success());
}

fn load_deny_write() {
    parser(&["--replace", "--skip-cache"], DENY_WRITE);
}

fn held_by(profile: &str) -> [String; 2] {
    [profile.to_owned(), profile.to_owned()]
}

const DEFAULT: &str = "corten-default (enforce)";

#[tokio::test(flavor = "multi_thread")]
async fn the_default_profile_is_loaded_and_holds() {
    if !vm::is_here() {
        return;
    }
    let mut site = Site::new().await;
    let unset = site.run("unset", |_| {}).await;
    assert_eq!(site.profiles(&unset).await, held_by(DEFAULT));
    let asked = site
        .run("asked", |config| {
            let security = pod::security(config);
            security.apparmor = typed(ProfileType::RuntimeDefault, "");
            // In this order: the label, no_new_privs, the filter.
            security.no_new_privs = true;
            security.seccomp = typed(ProfileType::RuntimeDefault, "");
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
        })
        .await;
    assert_eq!(site.profiles(&asked).await, held_by(DEFAULT));

    // Its root may do what the profile leaves it, and no more. Nothing is masked here.
    let admin = site
        .run("admin", |config| {
            let add = vec!["SYS_ADMIN".into()];
            pod::security(config).capabilities = Some(cri::Capability {
                add_capabilities: add,
                ..Default::default()
            });
        })
        .await;
    for script in [
        "echo h >/proc/sysrq-trigger",
        "echo 1 >/proc/sys/vm/drop_caches",
        "mount -t tmpfs tmpfs /tmp",
    ] {
        site.fails(&admin, script).await;
    }
    let works = "echo x >/tmp/file && rm /tmp/file && kill -0 1 && ls -l /proc/1/exe";
    pod::output(&mut site.runtime, &admin, works).await.unwrap();
    pod::stop(&mut site.runtime, &admin, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_runtimes_hold_their_containers_by_profiles_too() {
    if !vm::is_here() {
        return;
    }
    load_deny_write();
    let runc = handler::runc().unwrap();
    for runtime in [runc.to_str().unwrap(), "/usr/bin/crun"] {
        let table = handler::table(handler::OCI, runtime);
        let node = handler::node(&table).await.unwrap();
        let mut site = Site::on(node, handler::OCI).await;
        let unset = site.run("unset", |_| {}).await;
        assert_eq!(site.profiles(&unset).await, held_by(DEFAULT), "{runtime}");
        site.fails(&unset, "echo 1 >/proc/sys/vm/drop_caches").await;
        let local = site
            .run("local", |config| {
                let profile = typed(ProfileType::Localhost, "corten-test-deny-write");
                pod::security(config).apparmor = profile;
            })
            .await;
        let denied = held_by("corten-test-deny-write (enforce)");
        assert_eq!(site.profiles(&local).await, denied, "{runtime}");
        let error = site.fails(&local, "touch /tmp/file").await;
        assert!(error.contains("Permission denied"), "{runtime}: {error}");
        let unconfined = site
            .run("unconfined", |config| {
                pod::security(config).apparmor = typed(ProfileType::Unconfined, "");
            })
            .await;
        assert_eq!(site.profiles(&unconfined).await, held_by("unconfined"));
        let missing = site
            .refused("missing", |config| {
                pod::security(config).apparmor = typed(ProfileType::Localhost, "no-such");
            })
            .await;
        assert!(missing.message().contains("not loaded"), "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfined_and_privileged_containers_have_none() {
    if !vm::is_here() {
        return;
    }
    let mut site = Site::new().await;
    let unconfined = site
        .run("unconfined", |config| {
            pod::security(config).apparmor = typed(ProfileType::Unconfined, "");
            set_text(config, "runtime/default");
        })
        .await;
    assert_eq!(site.profiles(&unconfined).await, held_by("unconfined"));
    let privileged = site
        .run("privileged", |config| {
            pod::security(config).privileged = true;
        })
        .await;
    assert_eq!(site.profiles(&privileged).await, held_by("unconfined"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_profile_holds_by_either_field_and_the_typed_one_wins() {
    if !vm::is_here() {
        return;
    }
    load_deny_write();
    let mut site = Site::new().await;
    let reference = "localhost/corten-test-deny-write";
    let by_text = site.run("text", |config| set_text(config, reference)).await;
    let by_type = site
        .run("typed", |config| {
            pod::security(config).apparmor =
                typed(ProfileType::Localhost, "corten-test-deny-write");
            set_text(config, "localhost/no-such-profile");
        })
        .await;
    for id in [by_text, by_type] {
        assert_eq!(
            site.profiles(&id).await,
            held_by("corten-test-deny-write (enforce)")
        );
        let error = site.fails(&id, "touch /tmp/file").await;
        assert!(error.contains("Permission denied"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_loaded_fails_the_creation_by_name_and_field() {
    if !vm::is_here() {
        return;
    }
    let mut site = Site::new().await;
    let by_text = site
        .refused("text", |config| set_text(config, "localhost/no-such"))
        .await;
    let by_type = site
        .refused("typed", |config| {
            pod::security(config).apparmor = typed(ProfileType::Localhost, "localhost/no-such");
        })
        .await;
    for (error, field) in [
        (by_text, "security_context.apparmor_profile:"),
        (by_type, "security_context.apparmor.localhost_ref:"),
    ] {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for word in [field, "\"no-such\"", "not loaded"] {
            assert!(error.message().contains(word), "{error}");
        }
    }
    assert_eq!(
        pod::containers(&mut site.runtime).await.unwrap(),
        [],
        "one was left"
    );
}

/// Puts the parser back.
struct Away;

impl Away {
    fn new() -> Self {
        fs::rename(PARSER, "/usr/sbin/apparmor_parser.away").unwrap();
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        fs::rename("/usr/sbin/apparmor_parser.away", PARSER).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_parser_a_loaded_default_is_used_and_a_missing_one_is_told() {
    if !vm::is_here() {
        return;
    }
    let mut site = Site::new().await;
    let loaded = site.run("loaded", |_| {}).await;
    {
        let _away = Away::new();
        let again = site.run("again", |_| {}).await;
        assert_eq!(site.profiles(&again).await, held_by(DEFAULT));
    }
    pod::stop(&mut site.runtime, &loaded, 0).await.unwrap();
    parser(&["--remove"], "profile corten-default {}\n");
    let _away = Away::new();
    let error = site
        .refused("asked", |config| {
            pod::security(config).apparmor = typed(ProfileType::RuntimeDefault, "");
        })
        .await;
    for word in ["corten-default", "apparmor_parser is not installed"] {
        assert!(error.message().contains(word), "{error}");
    }
    // Who asks for nothing is not kept from running, and the log says what is missing.
    let unset = site.run("unset", |_| {}).await;
    assert_eq!(site.profiles(&unset).await, held_by("unconfined"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_apparmor_a_profile_is_refused_by_name_and_the_default_is_nothing() {
    if Path::new("/sys/kernel/security/apparmor").exists() {
        return eprintln!("not run: this kernel has AppArmor");
    }
    let mut site = Site::new().await;
    let default = site
        .create("default", |config| {
            pod::security(config).apparmor = typed(ProfileType::RuntimeDefault, "");
        })
        .await;
    pod::start(&mut site.runtime, &default.unwrap())
        .await
        .unwrap();
    let by_type = site
        .refused("typed", |config| {
            pod::security(config).apparmor = typed(ProfileType::Localhost, "web");
        })
        .await;
    let by_text = site
        .refused("text", |config| set_text(config, "localhost/web"))
        .await;
    for error in [by_type, by_text] {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for word in ["\"web\"", "without AppArmor"] {
            assert!(error.message().contains(word), "{error}");
        }
    }
}
