//! Mounts of images.

use std::path::PathBuf;

use corten_proto::{cri, shim};

use crate::spec::{Invalid, path};

/// Rule (CRI, `Mount.image` and `Mount.image_sub_path`): always read-only, instead of a host path, and the sub path is
/// relative and stays inside. Whether it is there, the shim finds.
pub(super) fn plan(
    mount: &cri::Mount,
    field: &str,
    layers: Option<&Vec<PathBuf>>,
) -> Result<shim::ImageVolume, Invalid> {
    let refused = |name: &str, reason: &str| Err(Invalid::new(format!("{field}.{name}"), reason));
    let sub_path = &mount.image_sub_path;
    match mount {
        _ if mount
            .image
            .as_ref()
            .is_none_or(|image| image.image.is_empty()) =>
        {
            return refused("image.image", "empty");
        }
        _ if !mount.readonly => return refused("readonly", "an image volume is read-only"),
        _ if !mount.host_path.is_empty() => {
            return refused("host_path", "set together with an image");
        }
        _ if mount.propagation != 0 => {
            return refused("propagation", "an image volume has private propagation");
        }
        _ if sub_path.starts_with('/') => return refused("image_sub_path", "want a relative path"),
        _ => {}
    }
    let field = format!("{field}.image_sub_path");
    path::one_line(sub_path, &field)?;
    path::stays_below(sub_path, &field)?;
    Ok(shim::ImageVolume {
        lower: layers
            .into_iter()
            .flatten()
            .map(|layer| path::text(layer))
            .collect::<Result<_, _>>()?,
        sub_path: sub_path.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> cri::Mount {
        cri::Mount {
            readonly: true,
            image: Some(cri::ImageSpec {
                image: "data".into(),
                ..Default::default()
            }),
            image_sub_path: "a/..b".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_image_is_planned_with_its_layers() {
        let layers = vec!["/layers/1".into(), "/empty".into()];
        let planned = plan(&volume(), "f", Some(&layers)).unwrap();
        assert_eq!(planned.lower, ["/layers/1", "/empty"]);
        assert_eq!(planned.sub_path, "a/..b");
    }

    #[test]
    fn what_an_image_volume_cannot_be_is_told_by_field() {
        let check = |change: fn(&mut cri::Mount), field: &str| {
            let mut mount = volume();
            change(&mut mount);
            assert_eq!(
                plan(&mount, "f", None).unwrap_err().field,
                format!("f.{field}")
            );
        };
        check(|mount| mount.readonly = false, "readonly");
        check(|mount| mount.host_path = "/h".into(), "host_path");
        check(|mount| mount.propagation = 1, "propagation");
        check(
            |mount| mount.image = Some(Default::default()),
            "image.image",
        );
        for path in ["/a", "..", "a/../../b", "a\0"] {
            let mut mount = volume();
            mount.image_sub_path = path.into();
            assert_eq!(
                plan(&mount, "f", None).unwrap_err().field,
                "f.image_sub_path"
            );
        }
    }
}
