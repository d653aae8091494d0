//! Whether a profile's rule applies here: `includes` and `excludes` of Docker's form, which look at the machine and at the
//! container's capabilities.
//!
//! Docker and CRI-O resolve them before a runtime sees the profile.

use serde::Deserialize;

use super::{
    super::capabilities,
    Error,
    arch::{self, Arch},
    json::nullable,
};

/// What rules may depend on.
#[derive(Debug)]
pub(super) struct Here {
    /// The machine's own; what else runs on it does not count.
    pub(super) arch: &'static Arch,
    pub(super) kernel: Version,
    /// Names in the bounding set, as CAP_CHOWN.
    pub(super) capabilities: Vec<String>,
}

impl Here {
    /// For a process with this bounding set on this machine.
    pub(super) fn with(capabilities: u64) -> Result<Self, Error> {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let kernel = Version::of_release(&release);
        let unknown = || Error::Unsupported(format!("the kernel's release {release:?}"));
        Ok(Self {
            arch: arch::native()[0],
            kernel: kernel.ok_or_else(unknown)?,
            capabilities: capabilities::names(capabilities),
        })
    }
}

/// Version and patch level, as the 6 and the 18 of 6.18.44.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

/// What is left out asks for nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Circumstances {
    #[serde(deserialize_with = "nullable")]
    caps: Vec<String>,
    /// As Go and libseccomp name them: amd64.
    #[serde(deserialize_with = "nullable")]
    arches: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    min_kernel: String,
}

/// Whether a rule is for a container here.
pub(super) fn applies(
    includes: &Circumstances,
    excludes: &Circumstances,
    here: &Here,
) -> Result<bool, Error> {
    let has = |name: &String| here.capabilities.contains(name);
    let is_here = |name: &String| name == here.arch.in_rules;
    let reached = |wanted: &Circumstances| {
        let wanted = Some(&wanted.min_kernel).filter(|text| !text.is_empty());
        let wanted = wanted.map(|text| min_kernel(text)).transpose()?;
        Ok::<_, Error>(wanted.map(|version| here.kernel >= version))
    };
    for name in includes.caps.iter().chain(&excludes.caps) {
        if !name.starts_with("CAP_") {
            return Err(Error::Unsupported(format!(
                "capability {name:?}, which has no CAP_ before it"
            )));
        }
    }
    let included = (includes.arches.is_empty() || includes.arches.iter().any(is_here))
        && includes.caps.iter().all(has)
        && reached(includes)?.unwrap_or(true);
    let excluded = excludes.arches.iter().any(is_here)
        || excludes.caps.iter().any(has)
        || reached(excludes)?.unwrap_or(false);
    Ok(included && !excluded)
}

/// Of a profile: two numbers, no more.
fn min_kernel(text: &str) -> Result<Version, Error> {
    let unsupported = || Error::Unsupported(format!("minKernel {text:?}, which is not as \"6.1\""));
    let (version, level) = text.split_once('.').ok_or_else(unsupported)?;
    let number = |text: &str| text.parse().map_err(|_| unsupported());
    Ok(Version(number(version)?, number(level)?))
}

impl Version {
    /// Of what uname(2) calls the release.
    pub(super) fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Self(number()?, number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::seccomp::arch::X86_64;

    fn here() -> Here {
        Here {
            arch: &X86_64,
            kernel: Version(6, 1),
            capabilities: vec!["CAP_CHOWN".into(), "CAP_KILL".into()],
        }
    }

    #[track_caller]
    fn check(includes: &str, excludes: &str, want: bool) {
        let [includes, excludes] =
            [includes, excludes].map(|json| serde_json::from_str(json).unwrap());
        assert_eq!(applies(&includes, &excludes, &here()).unwrap(), want);
    }

    #[test]
    fn all_capabilities_of_includes_are_needed_and_one_of_excludes_is_enough() {
        check("{}", "{}", true);
        check(r#"{"caps": ["CAP_CHOWN", "CAP_KILL"]}"#, "{}", true);
        check(r#"{"caps": ["CAP_CHOWN", "CAP_BPF"]}"#, "{}", false);
        check("{}", r#"{"caps": ["CAP_BPF", "CAP_KILL"]}"#, false);
        check("{}", r#"{"caps": ["CAP_BPF"]}"#, true);
        check(
            r#"{"caps": ["CAP_CHOWN"]}"#,
            r#"{"caps": ["CAP_KILL"]}"#,
            false,
        );
    }

    #[test]
    fn the_machines_own_architecture_counts() {
        check(r#"{"arches": ["arm64", "amd64"]}"#, "{}", true);
        check(r#"{"arches": ["x86", "x32"]}"#, "{}", false);
        check("{}", r#"{"arches": ["amd64"], "caps": null}"#, false);
        check("{}", r#"{"arches": ["arm64"]}"#, true);
    }

    #[test]
    fn kernels_are_compared_by_version_and_patch_level() {
        for (kernel, reached) in [
            ("4.19", true),
            ("6.1", true),
            ("6.2", false),
            ("10.0", false),
        ] {
            let wanted = format!(r#"{{"minKernel": "{kernel}"}}"#);
            check(&wanted, "{}", reached);
            check("{}", &wanted, !reached);
        }
        for kernel in ["6", "6.1.2", "six.one", "6.1-rc1"] {
            let wanted = format!(r#"{{"minKernel": "{kernel}"}}"#);
            let wanted = serde_json::from_str(&wanted).unwrap();
            let error = applies(&wanted, &Circumstances::default(), &here());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("minKernel"), "{error}");
        }
    }

    #[test]
    fn releases_of_all_distributions_are_read() {
        for release in ["6.18.44-fc-v669", "6.18", "6.18-rc5", "6.18.0+deb13"] {
            assert_eq!(Version::of_release(release), Some(Version(6, 18)));
        }
        assert_eq!(Version::of_release("none"), None);
    }
}
