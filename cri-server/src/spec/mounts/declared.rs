//! Volumes that the image declares (OCI image-spec, config.md, `Volumes`): each a directory of the container's own.

use std::{collections::BTreeSet, path::Path};

use corten_image::ImageConfig;
use corten_proto::shim::{self, mount::Kind};

use crate::spec::{Invalid, path};

const FIELD: &str = "image config Volumes";
/// Each is a mount and a directory.
const MAX: usize = 1000;

/// One for each path that no mount covers: a mount on it or above it, the request's or ours, takes its place. `dir` is
/// where the volumes' directories are to be.
pub(super) fn plan(
    image: &ImageConfig,
    dir: &Path,
    mounts: &[&shim::Mount],
) -> Result<Vec<shim::Mount>, Invalid> {
    if image.volumes.len() > MAX {
        let reason = format!(
            "{} are declared, at most {MAX} are made",
            image.volumes.len()
        );
        return Err(Invalid::new(FIELD, reason));
    }
    let paths = image.volumes.iter();
    // Docker takes a relative path as one below the root.
    let paths: BTreeSet<_> = paths
        .map(|volume| path::clean(&format!("/{volume}"), FIELD))
        .collect::<Result<_, _>>()?;
    let covered = |path: &str| {
        path == "/"
            || mounts
                .iter()
                .any(|mount| is_at_or_below(path, &mount.destination))
    };
    let volumes = paths.into_iter().filter(|path| !covered(path)).enumerate();
    volumes
        .map(|(number, destination)| {
            let source = path::text(&dir.join(number.to_string()))?;
            Ok(shim::Mount {
                destination,
                kind: Some(Kind::Declared(shim::DeclaredVolume { source })),
                field: FIELD.into(),
                ..Default::default()
            })
        })
        .collect()
}

fn is_at_or_below(path: &str, other: &str) -> bool {
    Path::new(path).starts_with(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(declared: &[&str], mounted: &[&str], want: &[(&str, &str)]) {
        let image = ImageConfig {
            volumes: declared.iter().map(|path| (*path).into()).collect(),
            ..Default::default()
        };
        let mount = |path: &&str| shim::Mount {
            destination: (*path).into(),
            ..Default::default()
        };
        let mounts: Vec<_> = mounted.iter().map(mount).collect();
        let mounts: Vec<_> = mounts.iter().collect();
        let planned = plan(&image, Path::new("/v"), &mounts).unwrap();
        let planned: Vec<_> = planned
            .iter()
            .map(|mount| match &mount.kind {
                Some(Kind::Declared(volume)) => (&*volume.source, &*mount.destination),
                _ => panic!("{mount:?}"),
            })
            .collect();
        assert_eq!(planned, want);
    }

    #[test]
    fn every_path_is_a_directory_once() {
        check(
            &["/b", "a//c", "/a/c/", "/x/../b"],
            &["/proc"],
            &[("/v/0", "/a/c"), ("/v/1", "/b")],
        );
    }

    #[test]
    fn a_mount_on_a_path_or_above_takes_its_place() {
        check(
            &[
                "/",
                "/proc",
                "/proc/self",
                "/data",
                "/data/sub",
                "/database",
                "/etc",
            ],
            &["/proc", "/data", "/etc/hosts"],
            &[("/v/0", "/database"), ("/v/1", "/etc")],
        );
    }

    #[test]
    fn too_many_are_refused() {
        let image = ImageConfig {
            volumes: (0..=MAX).map(|number| number.to_string()).collect(),
            ..Default::default()
        };
        assert_eq!(plan(&image, Path::new("/v"), &[]).unwrap_err().field, FIELD);
    }
}
