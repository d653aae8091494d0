//! Classes of block I/O and of cache and memory bandwidth (RDT), which goresctrl's configuration gives under other runtimes:
//! the kubelet passes their annotations on. None can be given here, and a workload that counts on one is not run without.

use corten_proto::cri;

use super::Invalid;

/// What the class is of, the pod annotations' prefix, and the container's own annotation (goresctrl).
const KINDS: [(&str, &str, &str); 2] = [
    (
        "block I/O",
        "blockio.resources.beta.kubernetes.io/",
        "io.kubernetes.cri.blockio-class",
    ),
    (
        "RDT",
        "rdt.resources.beta.kubernetes.io/",
        "io.kubernetes.cri.rdt-class",
    ),
];

/// Refuses a container for which an annotation names a class: its own, or else its pod's for it, or for all.
pub(super) fn check(
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
) -> Result<(), Invalid> {
    let name = config
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name);
    for (kind, prefix, own) in KINDS {
        let for_it = format!("{prefix}container.{name}");
        let for_all = format!("{prefix}pod");
        let named = [
            ("config", &config.annotations, own),
            ("sandbox_config", &pod.annotations, &for_it),
            ("sandbox_config", &pod.annotations, &for_all),
        ]
        .into_iter()
        .find_map(|(place, annotations, key)| Some((place, key, annotations.get(key)?)));
        if let Some((place, key, class)) = named.filter(|(.., class)| !class.is_empty()) {
            return Err(Invalid::new(
                format!("{place}.annotations[{key:?}]"),
                format!(
                    "{kind} class {class:?} cannot be given: this runtime has no {kind} classes"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(own: &[(&str, &str)], pods: &[(&str, &str)]) -> Option<String> {
        let map = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()));
            owned.collect()
        };
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "web".into(),
                attempt: 0,
            }),
            annotations: map(own),
            ..Default::default()
        };
        let pod = cri::PodSandboxConfig {
            annotations: map(pods),
            ..Default::default()
        };
        check(&config, &pod).err().map(|invalid| invalid.field)
    }

    #[test]
    fn the_nearest_annotation_counts() {
        let pod = ("blockio.resources.beta.kubernetes.io/pod", "slow");
        let for_it = ("rdt.resources.beta.kubernetes.io/container.web", "gold");
        let for_other = ("rdt.resources.beta.kubernetes.io/container.db", "gold");
        assert_eq!(refused(&[], &[for_other, ("other", "x")]), None);
        assert!(refused(&[], &[pod]).unwrap().contains("blockio"));
        assert!(refused(&[], &[for_it]).unwrap().contains("container.web"));
        let own = ("io.kubernetes.cri.rdt-class", "gold");
        assert_eq!(
            refused(&[own], &[]).unwrap(),
            format!("config.annotations[{:?}]", own.0)
        );
        // Of none, whatever the pod has.
        assert_eq!(
            refused(&[("io.kubernetes.cri.blockio-class", "")], &[pod]),
            None
        );
    }
}
