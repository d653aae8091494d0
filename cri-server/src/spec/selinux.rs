//! Which SELinux labels a request asks for, and those that a container has without asking.

use std::path::Path;

use corten_proto::{
    cri,
    shim::{self, mount::Kind},
};

use super::{Invalid, Pod, Security};

/// As the policies of every distribution name them (container-selinux; contexts/lxc_contexts).
const USER: &str = "system_u";
const ROLE: &str = "system_r";
const PROCESS: &str = "container_t";
const PRIVILEGED: &str = "spc_t";
const FILE: &str = "container_file_t";
/// What containers share and none may write.
const LAYER: &str = "container_ro_file_t";
/// A privileged container may see every pod's files, so it is of no category.
const NO_CATEGORIES: &str = "s0";
const CATEGORIES: u16 = 1024;
/// As the pod's own (pod/files.rs).
const SHM: &str = "mode=1777,size=65536k";

/// The labels of one container; empty on a host without SELinux, where options ask for nothing, as under every runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) process: String,
    pub(super) mount: String,
}

/// What `security` asks for, in a pod of this level; a level is a container's own if it names one (CRI, SELinuxOption).
pub(super) fn labels(security: Security<'_>, pod_level: &str) -> Result<Labels, Invalid> {
    if pod_level.is_empty() {
        return Ok(Labels::default());
    }
    let options = security
        .0
        .and_then(|context| context.selinux_options.as_ref());
    if let Some(options) = options {
        check(options, &format!("{}.selinux_options", Security::FIELD))?;
    }
    let (kind, level) = match security.privileged() {
        true => (PRIVILEGED, NO_CATEGORIES),
        false => (PROCESS, pod_level),
    };
    Ok(Labels {
        process: process_label(options, kind, level),
        mount: file_label(
            asked(options, |options| &options.user, USER),
            asked(options, |options| &options.level, pod_level),
        ),
    })
}

/// The label of files that belong to a pod of this level, or none.
pub(crate) fn pod_file_label(level: &str) -> Option<String> {
    (!level.is_empty()).then(|| file_label(USER, level))
}

/// That of files that containers of any level use.
pub(crate) fn shared_file_label() -> String {
    file_label(USER, NO_CATEGORIES)
}

/// That of image layers.
pub(crate) fn layer_label() -> String {
    format!("{USER}:object_r:{LAYER}:{NO_CATEGORIES}")
}

fn file_label(user: &str, level: &str) -> String {
    format!("{user}:object_r:{FILE}:{level}")
}

/// The level that a pod asks for; none is for us to choose.
pub(crate) fn pod_level(config: &cri::PodSandboxConfig) -> Result<Option<String>, Invalid> {
    let Some(options) = pod_options(config) else {
        return Ok(None);
    };
    check(options, "config.linux.security_context.selinux_options")?;
    Ok(Some(options.level.clone()).filter(|level| !level.is_empty()))
}

/// The label of what is the pod's own process, for which alone the pod's other options are (CRI,
/// LinuxSandboxSecurityContext); empty on a host without SELinux.
pub(crate) fn pod_process_label(config: &cri::PodSandboxConfig, level: &str) -> String {
    match level {
        "" => String::new(),
        level => process_label(pod_options(config), PROCESS, level),
    }
}

fn pod_options(config: &cri::PodSandboxConfig) -> Option<&cri::SeLinuxOption> {
    let context = config.linux.as_ref()?.security_context.as_ref()?;
    context.selinux_options.as_ref()
}

fn process_label(options: Option<&cri::SeLinuxOption>, kind: &str, level: &str) -> String {
    [
        asked(options, |options| &options.user, USER),
        asked(options, |options| &options.role, ROLE),
        asked(options, |options| &options.r#type, kind),
        asked(options, |options| &options.level, level),
    ]
    .join(":")
}

/// A part of a label that is asked for, or the default.
fn asked<'a>(
    options: Option<&'a cri::SeLinuxOption>,
    part: fn(&cri::SeLinuxOption) -> &str,
    default: &'a str,
) -> &'a str {
    let asked = options.map(part).filter(|asked| !asked.is_empty());
    asked.unwrap_or(default)
}

/// `s0:c1,c2` of two different categories, as `number` says; the order is the kernel's.
pub(crate) fn pair(number: u32) -> String {
    let count = u32::from(CATEGORIES);
    let (a, b) = (number % count, number / count % (count - 1));
    let b = if b >= a { b + 1 } else { b };
    format!("s0:c{},c{}", a.min(b), a.max(b))
}

/// Relabels the volumes that ask for it, unless the container may read all anyway (spc_t). Shared memory is the pod's, and of
/// its level: a container of another has some of its own.
pub(super) fn adapt(mounts: &mut [shim::Mount], labels: &Labels, pod: &Pod<'_>) {
    let is_confined = !labels.process.is_empty() && type_of(&labels.process) != Some(PRIVILEGED);
    let is_own = is_own_level(&labels.mount, pod.selinux_level);
    for mount in mounts {
        let Some(Kind::Bind(bind)) = &mut mount.kind else {
            continue;
        };
        bind.relabel &= is_confined;
        if is_own && Path::new(&bind.source) == pod.state_dir.join("shm") {
            mount.kind = Some(Kind::Filesystem(shim::Filesystem {
                r#type: "tmpfs".into(),
                options: SHM.into(),
            }));
        }
    }
}

/// Whether a request has options, which are of no effect on a host without SELinux.
pub(crate) fn asks(config: &cri::ContainerConfig) -> bool {
    let security = Security::of(config).0;
    security.is_some_and(|context| context.selinux_options.is_some())
}

/// Whether a container's files have another level than its pod's.
pub(crate) fn is_own_level(mount_label: &str, pod_level: &str) -> bool {
    level_of(mount_label) != Some(pod_level).filter(|level| !level.is_empty())
}

fn type_of(label: &str) -> Option<&str> {
    label.split(':').nth(2)
}

fn level_of(label: &str) -> Option<&str> {
    label.splitn(4, ':').nth(3)
}

fn check(options: &cri::SeLinuxOption, field: &str) -> Result<(), Invalid> {
    for (name, value) in [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.r#type),
    ] {
        let plain =
            |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
        if !value.chars().all(plain) {
            return Err(Invalid::new(
                format!("{field}.{name}"),
                format!("{value:?} is not a name"),
            ));
        }
    }
    if !options.level.is_empty() && !is_level(&options.level) {
        let reason = format!(
            "{:?} is not a level as in s0:c1,c2 or s0-s0:c0.c1023",
            options.level
        );
        return Err(Invalid::new(format!("{field}.level"), reason));
    }
    Ok(())
}

/// A sensitivity with categories, or a range of two (mcs(8)).
fn is_level(text: &str) -> bool {
    let mut ends = text.splitn(2, '-');
    ends.all(|end| {
        let (sensitivity, categories) = end.split_once(':').unwrap_or((end, "c0"));
        is_numbered(sensitivity, 's')
            && categories.split(',').all(|item| {
                item.splitn(2, '.')
                    .all(|category| is_numbered(category, 'c'))
            })
    })
}

fn is_numbered(text: &str, letter: char) -> bool {
    text.strip_prefix(letter).is_some_and(|number| {
        number.bytes().all(|byte| byte.is_ascii_digit())
            && number.parse().is_ok_and(|number: u16| number < CATEGORIES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::Fixture;

    type Options = cri::SeLinuxOption;

    fn labels_of(
        options: Option<Options>,
        privileged: bool,
        level: &str,
    ) -> Result<[String; 2], String> {
        let context = cri::LinuxContainerSecurityContext {
            selinux_options: options,
            privileged,
            ..Default::default()
        };
        let labels = labels(Security(Some(&context)), level).map_err(|error| error.to_string())?;
        Ok([labels.process, labels.mount])
    }

    #[track_caller]
    fn check(options: Option<Options>, privileged: bool, process: &str, mount: &str) {
        let labels = labels_of(options, privileged, "s0:c1,c2").unwrap();
        assert_eq!(labels, [process, mount]);
    }

    #[test]
    fn a_container_has_the_categories_of_its_pod_unless_it_names_its_own() {
        let file = "system_u:object_r:container_file_t:s0:c1,c2";
        check(None, false, "system_u:system_r:container_t:s0:c1,c2", file);
        let level = Options {
            level: "s0".into(),
            ..Default::default()
        };
        check(
            Some(level),
            false,
            "system_u:system_r:container_t:s0",
            "system_u:object_r:container_file_t:s0",
        );
        let all = Options {
            user: "u".into(),
            role: "r".into(),
            r#type: "svirt_lxc_net_t".into(),
            level: "s0:c4,c5".into(),
        };
        check(
            Some(all),
            false,
            "u:r:svirt_lxc_net_t:s0:c4,c5",
            "u:object_r:container_file_t:s0:c4,c5",
        );
        check(None, true, "system_u:system_r:spc_t:s0", file);
    }

    #[test]
    fn a_pods_own_process_has_what_the_pod_asks_for() {
        let mut config = cri::PodSandboxConfig::default();
        let level = "s0:c1,c2";
        assert_eq!(
            pod_process_label(&config, level),
            "system_u:system_r:container_t:s0:c1,c2"
        );
        let linux = config.linux.get_or_insert_default();
        linux
            .security_context
            .get_or_insert_default()
            .selinux_options = Some(Options {
            r#type: "spc_t".into(),
            ..Default::default()
        });
        assert_eq!(
            pod_process_label(&config, level),
            "system_u:system_r:spc_t:s0:c1,c2"
        );
        assert_eq!(pod_process_label(&config, ""), "");
    }

    #[test]
    fn without_selinux_there_are_no_labels() {
        let options = Options {
            level: "nonsense".into(),
            ..Default::default()
        };
        let none = [String::new(), String::new()];
        assert_eq!(labels_of(Some(options), false, ""), Ok(none));
    }

    #[test]
    fn bad_options_are_told_by_field() {
        let with = |set: fn(&mut Options) -> &mut String, text: &str| {
            let mut options = Options::default();
            *set(&mut options) = text.into();
            labels_of(Some(options), false, "s0").unwrap_err()
        };
        for level in ["s0,c4,c5", "s0:c1024", "s0:c1,", "s0-", "s0-s0-s0", "c1"] {
            let error = with(|options| &mut options.level, level);
            assert!(error.contains("selinux_options.level:"), "{error}");
        }
        let error = with(|options| &mut options.r#type, "a:b");
        assert!(error.contains("selinux_options.type:"), "{error}");
        let error = with(|options| &mut options.user, "a\"b");
        assert!(error.contains("selinux_options.user:"), "{error}");
        let error = with(|options| &mut options.role, "a,b");
        assert!(error.contains("selinux_options.role:"), "{error}");
    }

    #[test]
    fn levels_are_categories_and_ranges_of_them() {
        for level in [
            "s0",
            "s0:c1",
            "s0:c0.c1023",
            "s0-s0:c0.c1023",
            "s0:c1,c2,c5.c9",
        ] {
            assert!(is_level(level), "{level}");
        }
    }

    #[test]
    fn pairs_are_of_two_categories_in_order() {
        assert_eq!(pair(0), "s0:c0,c1");
        assert_eq!(pair(5), "s0:c0,c5");
        assert_eq!(pair(1023 + 1024 * 1022), "s0:c1022,c1023");
        for number in (0..u32::MAX).step_by(999_983) {
            assert!(is_level(&pair(number)), "{}", pair(number));
        }
    }

    /// What becomes of the pod's shared memory and of a volume.
    fn adapted(process: &str, level: &str, pod_level: &str) -> (bool, bool) {
        let fixture = Fixture::default();
        let bind = |source: &str| shim::Mount {
            kind: Some(Kind::Bind(shim::Bind {
                source: source.into(),
                relabel: source == "/volume",
                ..Default::default()
            })),
            ..Default::default()
        };
        let labels = Labels {
            process: process.into(),
            mount: file_label(USER, level),
        };
        fixture
            .with_input(|input| {
                let pod = Pod {
                    selinux_level: pod_level,
                    ..*input.pod
                };
                let shm = pod.state_dir.join("shm").display().to_string();
                let mut mounts = [bind(&shm), bind("/volume")];
                adapt(&mut mounts, &labels, &pod);
                let [shm, volume] = mounts.map(|mount| mount.kind);
                let relabelled = matches!(volume, Some(Kind::Bind(bind)) if bind.relabel);
                Ok::<_, Invalid>((matches!(shm, Some(Kind::Bind(_))), relabelled))
            })
            .unwrap()
    }

    #[test]
    fn a_volume_is_relabelled_for_a_confined_container_alone() {
        let level = "s0:c1,c2";
        assert_eq!(adapted("u:r:container_t:s0", level, level), (true, true));
        assert_eq!(adapted("u:r:spc_t:s0", level, level), (true, false));
        assert_eq!(adapted("", level, level), (true, false));
    }

    #[test]
    fn a_container_of_another_level_has_shared_memory_of_its_own() {
        let process = "u:r:container_t:s0:c3,c4";
        assert_eq!(adapted(process, "s0:c3,c4", "s0:c1,c2"), (false, true));
    }
}
