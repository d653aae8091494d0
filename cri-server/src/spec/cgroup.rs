//! Where a pod's cgroup is to be: a path with the driver cgroupfs, a slice with systemd.

use std::path::Path;

use corten_proto::cri;

use super::{Invalid, path};
use crate::config::CgroupDriver;

const FIELD: &str = "config.linux.cgroup_parent";
/// systemd.unit(5)
const MAX_UNIT: usize = 255;

/// The parent that a pod names, below each hierarchy's root, with leading slash. None is a place of ours.
///
/// # Errors
/// A path that leads out, or with systemd one that is no slice.
pub(crate) fn cgroup_parent(
    config: &cri::PodSandboxConfig,
    driver: CgroupDriver,
) -> Result<Option<String>, Invalid> {
    let parent = config
        .linux
        .as_ref()
        .map_or("", |linux| &linux.cgroup_parent);
    if parent.is_empty() {
        return Ok(None);
    }
    match driver {
        CgroupDriver::Cgroupfs => {
            if !parent.contains('/') && parent.ends_with(".slice") {
                let reason = format!(
                    "{parent:?} is a slice, and the cgroup driver is cgroupfs: the client and this daemon need the same one"
                );
                return Err(Invalid::new(FIELD, reason));
            }
            // A relative one is meant from the root, too.
            let rooted = format!("/{}", parent.trim_start_matches('/'));
            path::absolute(&rooted, FIELD)?;
            path::stays_below(&rooted, FIELD)?;
            let parent = parent.trim_matches('/');
            Ok(Some(parent)
                .filter(|parent| !parent.is_empty())
                .map(|parent| format!("/{parent}")))
        }
        CgroupDriver::Systemd => slice(parent).map(Some),
    }
}

/// The kubelet gives the whole path, other clients the slice's name.
fn slice(parent: &str) -> Result<String, Invalid> {
    let invalid = |reason| Err(Invalid::new(FIELD, format!("{parent:?} {reason}")));
    let name = Path::new(parent).file_name().and_then(|name| name.to_str());
    let Some(path) = name.and_then(slice_path) else {
        return invalid(
            "is not a slice, and the cgroup driver is systemd: want a name as in kubepods-burstable.slice",
        );
    };
    let above = parent.trim_matches('/').contains('/');
    if above && parent.trim_matches('/') != path.trim_matches('/') {
        return invalid(&format!("is not where systemd has that slice: {path}"));
    }
    Ok(path)
}

/// `/a.slice/a-b.slice` of `a-b.slice`, which lies in `a.slice` (systemd.slice(5)). None is no slice's name.
pub(crate) fn slice_path(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice")?;
    if name.len() > MAX_UNIT {
        return None;
    }
    if stem == "-" {
        return Some(String::new());
    }
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || ":_.\\".contains(character);
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in stem.split('-') {
        if part.is_empty() || !part.chars().all(is_plain) {
            return None;
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str, driver: CgroupDriver) -> Result<Option<String>, String> {
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: text.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        cgroup_parent(&config, driver).map_err(|error| error.to_string())
    }

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_begins_with() {
        let systemd = |text| parent(text, CgroupDriver::Systemd).unwrap().unwrap();
        let nested = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx_y.slice";
        assert_eq!(systemd("kubepods-burstable-podx_y.slice"), nested);
        assert_eq!(systemd("/kubepods-burstable-podx_y.slice"), nested);
        assert_eq!(systemd(nested), nested);
        assert_eq!(systemd("/test.slice"), "/test.slice");
        assert_eq!(systemd("-.slice"), "");
        assert_eq!(parent("", CgroupDriver::Systemd), Ok(None));
    }

    #[test]
    fn what_is_no_slice_is_refused_by_field() {
        for text in [
            "/kubepods/burstable/podx",
            "x",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a b.slice",
            "/",
            "/a.slice/..",
            "/other.slice/a-b.slice",
            &format!("{}.slice", "a".repeat(256)),
        ] {
            let error = parent(text, CgroupDriver::Systemd).unwrap_err();
            assert!(error.starts_with(FIELD), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_with_cgroupfs_is_taken_as_it_is() {
        let cgroupfs = |text| parent(text, CgroupDriver::Cgroupfs);
        assert_eq!(
            cgroupfs("/kubepods/podx/"),
            Ok(Some("/kubepods/podx".into()))
        );
        assert_eq!(cgroupfs("/"), Ok(None));
        assert_eq!(cgroupfs("kubepods/podx"), Ok(Some("/kubepods/podx".into())));
        assert_eq!(cgroupfs("podx"), Ok(Some("/podx".into())));
        for text in ["kubepods.slice", "/a/../..", "a/../..", "..", "a\nb"] {
            assert!(cgroupfs(text).unwrap_err().starts_with(FIELD), "{text}");
        }
    }
}
