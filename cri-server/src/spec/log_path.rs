//! Where a container's log goes.

use corten_proto::cri;

use super::{Invalid, path};

/// The file: `log_path` below the pod's `log_directory`. None when either is empty; the output is
/// then dropped.
///
/// The shim opens it as root, so a path that climbs out of the pod's folder is refused.
pub(super) fn log_path(
    pod: &cri::PodSandboxConfig,
    container: &cri::ContainerConfig,
) -> Result<Option<String>, Invalid> {
    const FIELD: &str = "config.log_path";
    let (folder, name) = (pod.log_directory.as_str(), container.log_path.as_str());
    if folder.is_empty() || name.is_empty() {
        return Ok(None);
    }
    check_directory(folder)?;
    path::stays_below(name, FIELD)?;
    path::one_line(name, FIELD)?;
    if name.starts_with('/') {
        return Err(Invalid::new(
            FIELD,
            format!("{name:?} is not relative to the pod's log_directory"),
        ));
    }
    if name.ends_with('/') {
        return Err(Invalid::new(FIELD, format!("{name:?} is a folder")));
    }
    path::clean(&format!("{folder}/{name}"), FIELD).map(Some)
}

/// That a pod's `log_directory`, where it has one, can be used.
pub(super) fn check_directory(folder: &str) -> Result<(), Invalid> {
    const FIELD: &str = "config.log_directory";
    if folder.is_empty() {
        return Ok(());
    }
    path::absolute(folder, FIELD)?;
    path::stays_below(folder, FIELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(folder: &str, name: &str) -> Result<Option<String>, Invalid> {
        let pod = cri::PodSandboxConfig {
            log_directory: folder.into(),
            ..Default::default()
        };
        log_path(
            &pod,
            &cri::ContainerConfig {
                log_path: name.into(),
                ..Default::default()
            },
        )
    }

    #[test]
    fn the_log_lies_below_the_pods_folder() {
        assert_eq!(
            joined("/var/log/pods/p/", "c/0.log").unwrap().as_deref(),
            Some("/var/log/pods/p/c/0.log")
        );
        assert_eq!(joined("", "0.log"), Ok(None));
        assert_eq!(joined("/var/log", ""), Ok(None));
    }

    #[test]
    fn a_path_out_of_it_is_refused() {
        for name in [
            "../0.log",
            "a/../../0.log",
            "/etc/passwd",
            "a\n",
            "a\0",
            "c/",
        ] {
            assert_eq!(
                joined("/var/log", name).unwrap_err().field,
                "config.log_path",
                "{name:?}"
            );
        }
        for folder in ["var/log", "/var/../log"] {
            assert_eq!(
                joined(folder, "0.log").unwrap_err().field,
                "config.log_directory"
            );
        }
    }
}
