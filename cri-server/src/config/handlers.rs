//! Runtime handlers: who runs the containers of a pod whose RuntimeClass names one.

use std::{collections::BTreeMap, path::PathBuf};

use corten_proto::{cri, shim::Oci};
use serde::{Deserialize, Serialize};

use super::{Error, invalid};
use crate::spec::Host;

/// What is always there besides the empty name, and means the same.
const BUILTIN: &str = "corten";
/// Of a label (RFC 1123), as in RuntimeClass.handler.
const MAX_NAME: usize = 63;

/// By name, those of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Handlers(BTreeMap<String, Handler>);

/// Without a runtime it is our own executor.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Handler {
    runtime: Option<PathBuf>,
    args: Vec<String>,
}

impl Handlers {
    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, handler) in &self.0 {
            if name == BUILTIN {
                return Err(invalid(
                    "handlers",
                    name,
                    "is there already, and is Corten's own executor",
                ));
            }
            if !is_label(name) {
                let reason = "want a label: lower case letters, digits and - within, at most 63";
                return Err(invalid("handlers", name, reason));
            }
            match &handler.runtime {
                Some(runtime) if runtime.to_str().is_none_or(|path| !path.starts_with('/')) => {
                    return Err(invalid(
                        "handlers.runtime",
                        runtime.display(),
                        "want an absolute path",
                    ));
                }
                None if !handler.args.is_empty() => {
                    return Err(invalid(
                        "handlers.args",
                        name,
                        "want a runtime that takes them",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `None` when there is none of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Handler> {
        match name {
            "" | BUILTIN => Some(Handler::default()),
            name => self.0.get(name).cloned(),
        }
    }

    /// Every name, the empty one first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        ["", BUILTIN]
            .into_iter()
            .chain(self.0.keys().map(String::as_str))
    }
}

impl Handler {
    /// The runtime that runs its containers; none is our own executor.
    pub(crate) fn oci(&self) -> Option<Oci> {
        self.runtime.as_ref().map(|runtime| Oci {
            runtime: runtime.display().to_string(),
            args: self.args.clone(),
        })
    }

    /// What pods may ask of it (CRI, RuntimeHandlerFeatures). The one place where that is said.
    pub(crate) fn features(&self, host: &Host) -> cri::RuntimeHandlerFeatures {
        cri::RuntimeHandlerFeatures {
            // The shim makes volumes read-only, whoever mounts them in the container.
            recursive_read_only_mounts: true,
            // An external runtime would have to make them, and can only join those of the pod.
            user_namespaces: self.runtime.is_none() && host.user_namespaces.is_ok(),
        }
    }
}

fn is_label(name: &str) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let is_outer = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.iter().all(is_inner)
        && is_outer(bytes.first())
        && is_outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parsed(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn handlers_are_found_by_name() {
        let config = parsed("[handlers.runc]\nruntime = \"/usr/bin/runc\"\nargs = [\"--debug\"]\n[handlers.kata-qemu]\n").unwrap();
        assert_eq!(
            config.handlers.names().collect::<Vec<_>>(),
            ["", "corten", "kata-qemu", "runc"]
        );
        let oci = config.handlers.get("runc").unwrap().oci().unwrap();
        assert_eq!((oci.runtime.as_str(), oci.args.len()), ("/usr/bin/runc", 1));
        for name in ["", "corten", "kata-qemu"] {
            assert_eq!(config.handlers.get(name).unwrap().oci(), None);
        }
        assert!(config.handlers.get("crun").is_none());
    }

    #[track_caller]
    fn refused(text: &str, words: &str) {
        let error = parsed(text).unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_cannot_be_a_handler_is_refused() {
        refused("[handlers.x]\nruntime = \"/a\"\nargz = []\n", "line 3");
        refused("[handlers.X]\n", "label");
        refused("[handlers.x-]\n", "label");
        refused("[handlers.corten]\n", "already");
        refused("[handlers.x]\nruntime = \"runc\"\n", "absolute");
        refused("[handlers.x]\nargs = [\"--debug\"]\n", "want a runtime");
    }
}
