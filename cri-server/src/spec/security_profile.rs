//! The CRI's security profiles, in both of its ways, and the seccomp filter that a request asks for.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_proto::cri;
use corten_sys::open;
use cri::security_profile::ProfileType;

use super::{Container, Input, Invalid, Security, path, seccomp};

/// A profile in one of the CRI's two ways, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Profile {
    RuntimeDefault,
    Unconfined,
    /// A file's path for seccomp, a name in the kernel for AppArmor.
    Localhost(String),
}

/// The file that a container's Localhost seccomp profile lies in.
pub(crate) fn seccomp_localhost_path(
    config: &cri::ContainerConfig,
) -> Result<Option<PathBuf>, Invalid> {
    match seccomp_profile(Security::of(config))? {
        Profile::Localhost(path) => Ok(Some(path.into())),
        Profile::RuntimeDefault | Profile::Unconfined => Ok(None),
    }
}

/// Reads a profile for [`super::Container::seccomp_profile`]. Blocks: not for an async thread.
pub(crate) fn read_seccomp_profile(path: &Path) -> Result<Vec<u8>, Invalid> {
    let read = || -> io::Result<Vec<u8>> {
        // A FIFO would wait for a writer, and a device act.
        let file = open::regular_file(path)?;
        let mut json = Vec::new();
        // One byte more shows that it is too large.
        file.take(seccomp::MAX_PROFILE + 1).read_to_end(&mut json)?;
        Ok(json)
    };
    let field = format!("{}.seccomp.localhost_ref", Security::FIELD);
    read().map_err(|error| Invalid::new(field, format!("read {}: {error}", path.display())))
}

/// None is no filter.
pub(super) fn seccomp_filter(
    input: &Input<'_>,
    capabilities: u64,
) -> Result<Option<Arc<seccomp::Filter>>, Invalid> {
    let filters = &input.host.filters;
    let field = format!("{}.seccomp", Security::FIELD);
    let (filter, whose) = match seccomp_profile(input.security)? {
        Profile::Unconfined => return Ok(None),
        Profile::RuntimeDefault => (
            filters.runtime_default(capabilities),
            "RuntimeDefault".into(),
        ),
        Profile::Localhost(path) => {
            let json = input.container.seccomp_profile.ok_or_else(|| {
                Invalid::new(&field, format!("the profile {path} has not been read"))
            })?;
            (filters.profile(json, capabilities), path)
        }
    };
    filter
        .map(Some)
        .map_err(|error| Invalid::new(field, format!("{whose}: {error}")))
}

/// The OCI's seccomp object of the same profile, for an external runtime; none is no filter.
pub(super) fn seccomp_object(
    container: &Container<'_>,
    capabilities: u64,
) -> Result<Option<serde_json::Value>, Invalid> {
    let field = format!("{}.seccomp", Security::FIELD);
    let object = match seccomp_profile(Security::of(container.config))? {
        Profile::Unconfined => return Ok(None),
        Profile::RuntimeDefault => seccomp::runtime_default_json(capabilities),
        Profile::Localhost(_) => {
            let json = container.seccomp_profile.unwrap_or_default();
            seccomp::profile_json(json, capabilities)
        }
    };
    object
        .map(Some)
        .map_err(|error| Invalid::new(field, error.to_string()))
}

/// Unset means unconfined, as under every runtime without a config of its own; the kubelet has
/// SeccompDefault for it. A privileged container has no filter whatever it asks for.
fn seccomp_profile(security: Security<'_>) -> Result<Profile, Invalid> {
    let Some(context) = security.0.filter(|context| !context.privileged) else {
        return Ok(Profile::Unconfined);
    };
    let fields =
        ["seccomp", "seccomp_profile_path"].map(|name| format!("{}.{name}", Security::FIELD));
    #[expect(deprecated, reason = "the CRI's older way, which clients still use")]
    let path = &context.seccomp_profile_path;
    let profile = profile(context.seccomp.as_ref(), path, [&fields[0], &fields[1]])?;
    if let Some(Profile::Localhost(path)) = &profile {
        path::absolute(path, &format!("{}.localhost_ref", fields[0]))?;
    }
    Ok(profile.unwrap_or(Profile::Unconfined))
}

/// The typed profile goes before the older string.
pub(super) fn profile(
    typed: Option<&cri::SecurityProfile>,
    text: &str,
    fields: [&str; 2],
) -> Result<Option<Profile>, Invalid> {
    let Some(typed) = typed else {
        return from_text(text, fields[1]);
    };
    let kind = ProfileType::try_from(typed.profile_type).map_err(|unknown| {
        Invalid::new(format!("{}.profile_type", fields[0]), unknown.to_string())
    })?;
    let reference = typed.localhost_ref.as_str();
    let field = format!("{}.localhost_ref", fields[0]);
    match (kind, reference) {
        (ProfileType::RuntimeDefault, "") => Ok(Some(Profile::RuntimeDefault)),
        (ProfileType::Unconfined, "") => Ok(Some(Profile::Unconfined)),
        (ProfileType::Localhost, "") => {
            Err(Invalid::new(field, "empty, with profile_type Localhost"))
        }
        (ProfileType::Localhost, reference) => Ok(Some(localhost(reference))),
        (_, reference) => Err(Invalid::new(
            field,
            format!("{reference:?} goes with profile_type Localhost only"),
        )),
    }
}

fn from_text(text: &str, field: &str) -> Result<Option<Profile>, Invalid> {
    match text {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(Profile::RuntimeDefault)),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        text if text.starts_with("localhost/") => Ok(Some(localhost(text))),
        text => Err(Invalid::new(
            field,
            format!("{text:?} is not runtime/default, unconfined or localhost/<profile>"),
        )),
    }
}

/// Some clients repeat the older way's prefix in the typed field.
fn localhost(reference: &str) -> Profile {
    Profile::Localhost(
        reference
            .strip_prefix("localhost/")
            .unwrap_or(reference)
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    type Context = cri::LinuxContainerSecurityContext;

    fn typed(kind: ProfileType, reference: &str) -> Option<cri::SecurityProfile> {
        Some(cri::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
        })
    }

    #[expect(deprecated, reason = "the CRI's older way, which clients still use")]
    fn context(seccomp: Option<cri::SecurityProfile>, path: &str) -> Context {
        Context {
            seccomp,
            seccomp_profile_path: path.into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(context: &Context, want: Result<Profile, &str>) {
        let got = seccomp_profile(Security(Some(context)));
        let want = want.map_err(|name| format!("{}.{name}", Security::FIELD));
        assert_eq!(got.map_err(|error| error.field), want);
    }

    #[test]
    fn the_typed_seccomp_profile_goes_before_the_older_string() {
        let local = |path: &str| Ok(Profile::Localhost(path.into()));
        check(&context(None, ""), Ok(Profile::Unconfined));
        check(
            &context(None, "runtime/default"),
            Ok(Profile::RuntimeDefault),
        );
        check(
            &context(None, "docker/default"),
            Ok(Profile::RuntimeDefault),
        );
        check(&context(None, "unconfined"), Ok(Profile::Unconfined));
        check(&context(None, "localhost//p.json"), local("/p.json"));
        check(
            &context(typed(ProfileType::RuntimeDefault, ""), "unconfined"),
            Ok(Profile::RuntimeDefault),
        );
        check(
            &context(typed(ProfileType::Unconfined, ""), "runtime/default"),
            Ok(Profile::Unconfined),
        );
        check(
            &context(typed(ProfileType::Localhost, "/p.json"), ""),
            local("/p.json"),
        );
        check(
            &context(typed(ProfileType::Localhost, "localhost//p.json"), ""),
            local("/p.json"),
        );
        assert_eq!(seccomp_profile(Security(None)), Ok(Profile::Unconfined));
    }

    #[test]
    fn a_bad_seccomp_profile_is_told_by_field() {
        check(&context(None, "nonsense"), Err("seccomp_profile_path"));
        check(
            &context(None, "localhost/p.json"),
            Err("seccomp.localhost_ref"),
        );
        check(
            &context(typed(ProfileType::Localhost, ""), ""),
            Err("seccomp.localhost_ref"),
        );
        check(
            &context(typed(ProfileType::Localhost, "p.json"), ""),
            Err("seccomp.localhost_ref"),
        );
        check(
            &context(typed(ProfileType::Unconfined, "/p.json"), ""),
            Err("seccomp.localhost_ref"),
        );
        let unknown = cri::SecurityProfile {
            profile_type: 7,
            ..Default::default()
        };
        check(&context(Some(unknown), ""), Err("seccomp.profile_type"));
    }

    #[test]
    fn a_profile_is_a_regular_file_and_not_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let [file, fifo] = ["file", "fifo"].map(|name| dir.path().join(name));
        std::fs::write(&file, vec![b' '; 2 << 20]).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_seccomp_profile(&file).unwrap().len(), (1 << 20) + 1);
        for path in [fifo.as_path(), dir.path(), &dir.path().join("none")] {
            let error = read_seccomp_profile(path).unwrap_err();
            assert!(error.reason.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_privileged_container_has_no_filter() {
        let context = Context {
            privileged: true,
            ..context(typed(ProfileType::Localhost, "p"), "nonsense")
        };
        check(&context, Ok(Profile::Unconfined));
    }
}
