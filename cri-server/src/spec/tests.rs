//! A container to plan for, and tests of the plan as a whole.

use std::path::{Path, PathBuf};

use super::*;

/// A usual pod and container. Tests change what they are about.
pub(super) struct Fixture {
    pub(super) host: Host,
    pub(super) pod_config: cri::PodSandboxConfig,
    pub(super) config: cri::ContainerConfig,
    pub(super) image: ImageConfig,
    /// The pod has namespaces of its own.
    pub(super) pins: bool,
    pub(super) target_pids: Option<&'static str>,
    pub(super) injection: Injection,
}

impl Default for Fixture {
    fn default() -> Self {
        let name = |text: &str| text.to_owned();
        let pod = cri::PodSandboxMetadata {
            name: name("p"),
            uid: name("u"),
            namespace: name("n"),
            attempt: 0,
        };
        let pod_config = cri::PodSandboxConfig {
            metadata: Some(pod),
            hostname: name("web"),
            log_directory: name("/logs"),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name("c"),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: name("busybox"),
                ..Default::default()
            }),
            command: vec![name("top")],
            log_path: name("c/0.log"),
            ..Default::default()
        };
        let image = ImageConfig::default();
        Self {
            host: Host::for_test(),
            pod_config,
            config,
            image,
            pins: true,
            target_pids: None,
            injection: Injection::default(),
        }
    }
}

impl Fixture {
    pub(super) fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    pub(super) fn pod_security(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        self.pod_config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    pub(super) fn pid(mut self, mode: cri::NamespaceMode) -> Self {
        self.security()
            .namespace_options
            .get_or_insert_default()
            .pid = mode.into();
        self
    }

    pub(super) fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self.pod_security().privileged = true;
        self
    }

    pub(super) fn with_input<T>(&self, f: impl FnOnce(&Input<'_>) -> T) -> T {
        self.with(|pod, container| {
            let security = Security::of(&self.config);
            f(&Input {
                host: &self.host,
                pod,
                container,
                security,
            })
        })
    }

    /// What an external runtime's configuration is made of.
    pub(super) fn with_oci(&self) -> (shim::Plan, serde_json::Value) {
        self.with(|pod, container| {
            let plan = plan(&self.host, pod, container, &Defaults::default()).unwrap();
            let seccomp = oci_seccomp(container, &plan).unwrap();
            (plan, seccomp)
        })
    }

    fn plan(&self) -> Result<shim::Plan, Invalid> {
        self.with(|pod, container| plan(&self.host, pod, container, &Defaults::default()))
    }

    fn with<T>(&self, f: impl FnOnce(&Pod<'_>, &Container<'_>) -> T) -> T {
        let [netns, ipc, uts, pid] =
            ["/run/netns/p", "/pins/ipc", "/pins/uts", "/pins/pid"].map(PathBuf::from);
        let pin = |path| Some(path).filter(|_| self.pins);
        let pod = Pod {
            id: "p",
            config: &self.pod_config,
            state_dir: Path::new("/state/p"),
            etc: Path::new("/state/p/etc"),
            netns: pin(netns.as_path()),
            ipc: pin(ipc.as_path()),
            uts: pin(uts.as_path()),
            pid: pin(pid.as_path()),
            user: None,
            cgroup_parent: "/pods/p",
            delegated: false,
            selinux_level: "",
        };
        let container = Container {
            id: "c",
            config: &self.config,
            image: &self.image,
            lower: &["/layers/1".into(), "/layers/0".into()],
            image_volumes: &ImageVolumes::new(),
            absent_sources_to_reject: &["/etc/hostname".into()],
            root_dir: Path::new("/root/c"),
            volumes_dir: Some(Path::new("/root/c/volumes")),
            state_dir: Path::new("/state/c"),
            target_pids: self.target_pids.map(Path::new),
            injection: &self.injection,
            seccomp_profile: None,
            apparmor_profile: None,
        };
        f(&pod, &container)
    }
}

#[test]
fn a_usual_container_is_planned_whole() {
    let plan = Fixture::default().plan().unwrap();
    assert_eq!(
        [&plan.container_id, &plan.pod_id, &plan.state_dir],
        ["c", "p", "/state/c"]
    );
    let rootfs = plan.rootfs.unwrap();
    assert_eq!(rootfs.lower, ["/layers/1", "/layers/0"]);
    assert_eq!(
        [rootfs.upper, rootfs.work],
        ["/root/c/upper", "/root/c/work"]
    );
    assert!(!rootfs.readonly);
    let cgroup = plan.cgroup.unwrap();
    assert_eq!(
        (cgroup.path.as_str(), cgroup.all_devices),
        ("/pods/p/c", false)
    );
    let log = plan.log.unwrap();
    assert_eq!((log.path.as_str(), log.max_line), ("/logs/c/0.log", 16_384));
    let process = plan.process.unwrap();
    assert_eq!(process.args, [b"top"]);
    assert!(process.env.contains(&b"HOSTNAME=web".to_vec()));
    assert_eq!(process.cwd, "/");
    assert_eq!(
        process.rlimits,
        [shim::Rlimit {
            resource: 7,
            soft: 1024,
            hard: 524_288
        }]
    );
    assert!(process.seccomp_filter.is_empty());
    assert!(plan.devices.is_empty() && plan.masked_paths.is_empty());
}

#[test]
fn a_privileged_container_is_not_held_back() {
    let mut fixture = Fixture::default().privileged();
    fixture.security().seccomp = Some(cri::SecurityProfile::default());
    fixture.security().masked_paths = vec!["/proc/kcore".into()];
    let plan = fixture.plan().unwrap();
    let process = plan.process.unwrap();
    assert!(process.seccomp_filter.is_empty());
    assert_eq!(process.capabilities.unwrap().bounding, (1 << 41) - 1);
    assert!(plan.masked_paths.is_empty());
    assert!(plan.cgroup.unwrap().all_devices);
    assert_eq!(plan.devices.len(), 1);
}

#[test]
fn runtime_default_brings_a_filter_and_a_localhost_profile_must_have_been_read() {
    let mut fixture = Fixture::default();
    fixture.security().seccomp = Some(cri::SecurityProfile::default());
    let filter = fixture.plan().unwrap().process.unwrap().seccomp_filter;
    assert!(!filter.is_empty() && filter.len() % 8 == 0);
    let profile = cri::SecurityProfile {
        profile_type: 2,
        localhost_ref: "/p.json".into(),
    };
    fixture.security().seccomp = Some(profile);
    assert_eq!(
        fixture.plan().unwrap_err().field,
        "config.linux.security_context.seccomp"
    );
    assert_eq!(
        seccomp_localhost_path(&fixture.config),
        Ok(Some("/p.json".into()))
    );
}

#[test]
fn the_first_bad_field_is_told() {
    let mut fixture = Fixture::default();
    fixture.security().run_as_group = Some(cri::Int64Value { value: 1 });
    let error = fixture.plan().unwrap_err();
    let want =
        "config.linux.security_context.run_as_group: set without run_as_user or run_as_username";
    assert_eq!(error.to_string(), want);
}

#[test]
fn an_unusable_stop_signal_of_the_image_is_told_at_creation() {
    let mut fixture = Fixture::default();
    fixture.image.stop_signal = "SIGNOT".into();
    assert_eq!(fixture.plan().unwrap_err().field, "image config StopSignal");
}
