//! Sizes of requests: what one object may take of the daemon's memory and of the answers to lists.
//!
//! Clients take answers of 16 MiB (cri-client, `maxMsgSize`), and a list has the labels and annotations of all objects. So
//! these are bounded for each object here, and for all together where one is admitted (`store.rs`).

use std::collections::BTreeMap;

use corten_proto::cri;
use prost::Message;

use super::Invalid;

/// Bytes of labels and annotations together. The API server takes 256 KiB of annotations (`TotalAnnotationSizeLimitB`).
const MAX_WORDS: usize = 512 << 10;
/// Bytes of a pod sandbox's config. An object of the API is at most 1.5 MiB (etcd, `--max-request-bytes`).
const MAX_POD: usize = 2 << 20;
/// Bytes of a container's config. The environment that links to services is its largest part.
const MAX_CONTAINER: usize = 4 << 20;
/// Bytes of a command's words. The kernel takes as much with the usual RLIMIT_STACK (execve(2), "Limits on size of arguments
/// and environment").
const MAX_COMMAND: usize = 2 << 20;
/// Mounts, devices and hidden paths each. Each costs a descriptor and a mount in the container.
const MAX_PLACES: usize = 1000;
/// NGROUPS_MAX (getgroups(2)).
const MAX_GROUPS: usize = 65_536;
/// Bytes around the strings of an entry of a map, as it is encoded.
const ENTRY: usize = 16;
/// Bytes of an object in a list besides its words.
const FIXED: usize = 512;

/// Checks a pod sandbox's config.
pub(super) fn pod(config: &cri::PodSandboxConfig) -> Result<(), Invalid> {
    of_words(&config.labels, &config.annotations)?;
    whole(config.encoded_len(), MAX_POD)
}

/// Checks a container's config.
pub(super) fn container(config: &cri::ContainerConfig) -> Result<(), Invalid> {
    of_words(&config.labels, &config.annotations)?;
    at_most("config.mounts", config.mounts.len(), MAX_PLACES)?;
    at_most("config.devices", config.devices.len(), MAX_PLACES)?;
    at_most("config.CDI_devices", config.cdi_devices.len(), MAX_PLACES)?;
    let linux = config.linux.as_ref();
    if let Some(security) = linux.and_then(|linux| linux.security_context.as_ref()) {
        let field = |name| format!("{}.{name}", super::Security::FIELD);
        let (masked, readonly) = (&security.masked_paths, &security.readonly_paths);
        at_most(&field("masked_paths"), masked.len(), MAX_PLACES)?;
        at_most(&field("readonly_paths"), readonly.len(), MAX_PLACES)?;
        let groups = security.supplemental_groups.len();
        at_most(&field("supplemental_groups"), groups, MAX_GROUPS)?;
    }
    whole(config.encoded_len(), MAX_CONTAINER)
}

/// Checks the words of a command that is to be run in a container.
pub(crate) fn check_command(cmd: &[String]) -> Result<(), Invalid> {
    if cmd.first().is_some_and(String::is_empty) {
        return Err(Invalid::new("cmd[0]", "is empty, and names the program"));
    }
    if let Some(place) = cmd.iter().position(|word| word.contains('\0')) {
        return Err(Invalid::new(format!("cmd[{place}]"), "has a NUL"));
    }
    let bytes: usize = cmd.iter().map(|word| word.len() + 1).sum();
    if bytes <= MAX_COMMAND {
        return Ok(());
    }
    let reason = format!("{bytes} bytes are more than the kernel takes: at most {MAX_COMMAND}");
    Err(Invalid::new("cmd", reason))
}

/// Bytes of a pod in a list, about.
pub(crate) fn listed_pod(config: &cri::PodSandboxConfig) -> usize {
    let metadata = config.metadata.as_ref().map_or(0, Message::encoded_len);
    FIXED + metadata + words(&config.labels) + words(&config.annotations)
}

/// Bytes of a container in a list, about.
pub(crate) fn listed_container(config: &cri::ContainerConfig) -> usize {
    let metadata = config.metadata.as_ref().map_or(0, Message::encoded_len);
    let image = config.image.as_ref().map_or(0, Message::encoded_len);
    FIXED + metadata + image + words(&config.labels) + words(&config.annotations)
}

fn of_words(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    for (field, bytes) in [
        ("config.labels", words(labels)),
        ("config.annotations", words(labels) + words(annotations)),
    ] {
        if bytes > MAX_WORDS {
            let reason =
                format!("labels and annotations have {bytes} bytes, and may have {MAX_WORDS}");
            return Err(Invalid::new(field, reason));
        }
    }
    Ok(())
}

fn words(map: &BTreeMap<String, String>) -> usize {
    map.iter()
        .map(|(key, value)| key.len() + value.len() + ENTRY)
        .sum()
}

fn whole(bytes: usize, most: usize) -> Result<(), Invalid> {
    if bytes <= most {
        return Ok(());
    }
    let reason = format!("it has {bytes} bytes, and may have {most}");
    Err(Invalid::new("config", reason))
}

fn at_most(field: &str, length: usize, most: usize) -> Result<(), Invalid> {
    if length <= most {
        return Ok(());
    }
    let reason = format!("it has {length} entries, and may have {most}");
    Err(Invalid::new(field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut config = cri::ContainerConfig::default();
        change(&mut config);
        container(&config).map_or_else(|error| error.field, |()| "fine".into())
    }

    fn security(
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> impl FnOnce(&mut cri::ContainerConfig) {
        |config| {
            let linux = config.linux.get_or_insert_default();
            change(linux.security_context.get_or_insert_default());
        }
    }

    #[test]
    fn every_list_has_its_limit() {
        let many = |length| vec![String::from("/x"); length];
        let field = |name: &str| format!("config.linux.security_context.{name}");
        assert_eq!(
            refused(|config| config.mounts = vec![Default::default(); 1001]),
            "config.mounts"
        );
        assert_eq!(
            refused(|config| config.devices = vec![Default::default(); 1001]),
            "config.devices"
        );
        assert_eq!(
            refused(|config| config.cdi_devices = vec![Default::default(); 1001]),
            "config.CDI_devices"
        );
        assert_eq!(
            refused(security(|context| context.masked_paths = many(1001))),
            field("masked_paths")
        );
        assert_eq!(
            refused(security(|context| context.readonly_paths = many(1001))),
            field("readonly_paths")
        );
        assert_eq!(
            refused(security(
                |context| context.supplemental_groups = vec![1; 65_537]
            )),
            field("supplemental_groups")
        );
        assert_eq!(
            refused(security(|context| {
                context.masked_paths = many(1000);
                context.supplemental_groups = vec![1; 65_536];
            })),
            "fine"
        );
    }

    #[test]
    fn words_and_the_whole_have_theirs() {
        let map = |bytes| BTreeMap::from([("key".to_owned(), "x".repeat(bytes))]);
        assert_eq!(
            refused(|config| config.labels = map(MAX_WORDS)),
            "config.labels"
        );
        assert_eq!(
            refused(|config| {
                config.labels = map(MAX_WORDS / 2);
                config.annotations = map(MAX_WORDS / 2);
            }),
            "config.annotations"
        );
        // As much as the API server takes.
        assert_eq!(
            refused(|config| config.annotations = map(256 << 10)),
            "fine"
        );
        assert_eq!(
            refused(|config| config.args = vec!["x".repeat(1 << 20); 4]),
            "config"
        );
        let pods = cri::PodSandboxConfig {
            hostname: "x".repeat(MAX_POD),
            ..Default::default()
        };
        assert_eq!(pod(&pods).unwrap_err().field, "config");
        assert!(check_command(&["x".repeat(MAX_COMMAND)]).is_err());
        assert!(check_command(&["x".repeat(MAX_COMMAND / 2)]).is_ok());
    }
}
