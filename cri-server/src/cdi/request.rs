//! Which devices a container asks for: by the field of its config, and by annotations.

use corten_proto::cri;

use super::name::is_qualified;
use crate::spec::Invalid;

/// Of annotations that name devices. The kubelet makes them of what device plugins say; a pod's own do not come here.
const PREFIX: &str = "cdi.k8s.io/";

/// One device that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// vendor/class=device
    pub(crate) name: String,
    /// Where in the request it stands.
    pub(crate) field: String,
}

/// Those of the field come first, each device once.
///
/// # Errors
/// A name that cannot be one.
pub(crate) fn requests(config: &cri::ContainerConfig) -> Result<Vec<Request>, Invalid> {
    let of_field = config
        .cdi_devices
        .iter()
        .enumerate()
        .map(|(i, device)| Request {
            name: device.name.clone(),
            field: format!("config.CDI_devices[{i}].name"),
        });
    let annotations = config.annotations.iter();
    let of_annotations = annotations
        .filter(|(key, _)| key.starts_with(PREFIX))
        .flat_map(|(key, value)| {
            value.split(',').map(move |name| Request {
                name: name.trim().to_owned(),
                field: format!("config.annotations[{key:?}]"),
            })
        });
    let mut found: Vec<Request> = Vec::new();
    for request in of_field.chain(of_annotations) {
        if !is_qualified(&request.name) {
            let reason = format!(
                "{:?} is not a CDI device: want vendor/class=device",
                request.name
            );
            return Err(Invalid::new(request.field, reason));
        }
        if !found.iter().any(|other| other.name == request.name) {
            found.push(request);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(devices: &[&str], annotations: &[(&str, &str)]) -> cri::ContainerConfig {
        let device = |name: &&str| cri::CdiDevice {
            name: (*name).into(),
        };
        let annotations = annotations.iter();
        cri::ContainerConfig {
            cdi_devices: devices.iter().map(device).collect(),
            annotations: annotations
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn field_and_annotations_are_merged() {
        let config = config(
            &["v/c=1", "v/c=0"],
            &[
                ("cdi.k8s.io/plugin_a", "v/c=0,v/d=2"),
                ("other", "v/c=9"),
                ("cdi.k8s.io/b", "v/c=3"),
            ],
        );
        let found = requests(&config).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|request| (&*request.name, &*request.field))
            .collect();
        let want = [
            ("v/c=1", "config.CDI_devices[0].name"),
            ("v/c=0", "config.CDI_devices[1].name"),
            ("v/c=3", "config.annotations[\"cdi.k8s.io/b\"]"),
            ("v/d=2", "config.annotations[\"cdi.k8s.io/plugin_a\"]"),
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn what_is_no_name_is_told_with_its_place() {
        let error = requests(&config(&["v/c=1", "gpu0"], &[])).unwrap_err();
        assert_eq!(error.field, "config.CDI_devices[1].name");
        let error = requests(&config(&[], &[("cdi.k8s.io/a", "v/c=1,")])).unwrap_err();
        assert_eq!(error.field, "config.annotations[\"cdi.k8s.io/a\"]");
    }
}
