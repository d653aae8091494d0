//! Which AppArmor profile a request asks for.

use corten_proto::cri;

use super::{
    Host, Invalid, Security,
    security_profile::{Profile, profile},
};

/// What is asked for. Whether the kernel has it is another question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Apparmor {
    Unconfined,
    /// The runtime's own profile; not `asked` for by name, it may be missing.
    RuntimeDefault {
        asked: bool,
    },
    /// A profile's name in the kernel, and the field that it comes from.
    Localhost {
        name: String,
        field: String,
    },
}

/// Unset means the runtime's own profile (CRI, `LinuxContainerSecurityContext.apparmor`), and a privileged container has
/// none of its own accord. A host without AppArmor has only what needs none.
///
/// # Errors
/// A field that cannot be read, or a Localhost profile on a host without AppArmor.
pub(crate) fn apparmor(config: &cri::ContainerConfig, host: &Host) -> Result<Apparmor, Invalid> {
    let context = Security::of(config).0;
    let typed = context.and_then(|context| context.apparmor.as_ref());
    #[expect(deprecated, reason = "the CRI's older way, which clients still use")]
    let text = context.map_or("", |context| &context.apparmor_profile);
    let fields = ["apparmor", "apparmor_profile"].map(|name| format!("{}.{name}", Security::FIELD));
    let asked = profile(typed, text, [&fields[0], &fields[1]])?;
    let privileged = context.is_some_and(|context| context.privileged);
    match asked {
        Some(Profile::Localhost(name)) => {
            let field = match typed {
                Some(_) => format!("{}.localhost_ref", fields[0]),
                None => fields[1].clone(),
            };
            if host.apparmor {
                return Ok(Apparmor::Localhost { name, field });
            }
            let reason = format!(
                "the AppArmor profile {name:?} cannot be applied: this kernel runs without AppArmor"
            );
            Err(Invalid::new(field, reason))
        }
        Some(Profile::RuntimeDefault) | None if host.apparmor && !privileged => {
            let asked = asked.is_some();
            Ok(Apparmor::RuntimeDefault { asked })
        }
        Some(Profile::RuntimeDefault | Profile::Unconfined) | None => Ok(Apparmor::Unconfined),
    }
}

#[cfg(test)]
mod tests {
    use cri::security_profile::ProfileType;

    use super::*;

    fn typed(kind: ProfileType, reference: &str) -> Option<cri::SecurityProfile> {
        Some(cri::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
        })
    }

    #[expect(deprecated, reason = "the CRI's older way, which clients still use")]
    fn ask(
        [host, privileged]: [bool; 2],
        typed: Option<cri::SecurityProfile>,
        text: &str,
    ) -> Result<Apparmor, String> {
        let host = Host {
            apparmor: host,
            ..Host::for_test()
        };
        let context = cri::LinuxContainerSecurityContext {
            apparmor: typed,
            apparmor_profile: text.into(),
            privileged,
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        apparmor(&config, &host).map_err(|error| error.to_string())
    }

    fn localhost(name: &str, field: &str) -> Result<Apparmor, String> {
        Ok(Apparmor::Localhost {
            name: name.into(),
            field: format!("{}.{field}", Security::FIELD),
        })
    }

    const HERE: [bool; 2] = [true, false];
    const ABSENT: [bool; 2] = [false, false];
    const PRIVILEGED: [bool; 2] = [true, true];

    #[test]
    fn the_typed_profile_goes_before_the_older_string() {
        let local = typed(ProfileType::Localhost, "localhost/web");
        assert_eq!(
            ask(HERE, local, "localhost/none"),
            localhost("web", "apparmor.localhost_ref")
        );
        assert_eq!(
            ask(HERE, None, "localhost/web"),
            localhost("web", "apparmor_profile")
        );
        let unconfined = typed(ProfileType::Unconfined, "");
        assert_eq!(
            ask(HERE, unconfined, "localhost/web"),
            Ok(Apparmor::Unconfined)
        );
    }

    #[test]
    fn nothing_asked_is_the_runtimes_default() {
        let default = |asked| Ok(Apparmor::RuntimeDefault { asked });
        assert_eq!(ask(HERE, None, ""), default(false));
        assert_eq!(ask(HERE, None, "runtime/default"), default(true));
        let runtime_default = typed(ProfileType::RuntimeDefault, "");
        assert_eq!(ask(HERE, runtime_default.clone(), ""), default(true));
        assert_eq!(ask(ABSENT, runtime_default, ""), Ok(Apparmor::Unconfined));
        let no_linux = cri::ContainerConfig::default();
        let host = Host::for_test();
        assert_eq!(apparmor(&no_linux, &host), Ok(Apparmor::Unconfined));
    }

    #[test]
    fn a_privileged_container_has_only_a_profile_that_it_names() {
        assert_eq!(ask(PRIVILEGED, None, ""), Ok(Apparmor::Unconfined));
        assert_eq!(
            ask(PRIVILEGED, typed(ProfileType::RuntimeDefault, ""), ""),
            Ok(Apparmor::Unconfined)
        );
        assert_eq!(
            ask(PRIVILEGED, None, "localhost/web"),
            localhost("web", "apparmor_profile")
        );
    }

    #[test]
    fn a_profile_is_refused_by_name_where_apparmor_is_absent() {
        let error = ask(ABSENT, typed(ProfileType::Localhost, "web"), "").unwrap_err();
        assert!(
            error.contains("apparmor.localhost_ref") && error.contains("\"web\""),
            "{error}"
        );
        let error = ask(ABSENT, None, "localhost/web").unwrap_err();
        assert!(error.contains("apparmor_profile"), "{error}");
    }
}
