//! What can go wrong with a network.

use std::{io, sync::Arc, time::Duration};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no network configuration in {dir}: install a CNI plugin's configuration there, or serve with --dev-network"
    )]
    NoConfiguration { dir: String },
    #[error("network configuration {file}: {reason}")]
    Configuration { file: String, reason: String },
    #[error("plugin {plugin:?} of network configuration {file} is not in {dirs}")]
    MissingPlugin {
        plugin: String,
        file: String,
        dirs: String,
    },
    /// At DEL, which has to be repeated.
    #[error(
        "plugin {plugin:?} is not in {dirs}, and has to detach the pod from network {network}: install it again (or remove {kept}, \
         and what the plugin has made for the pod)"
    )]
    GonePlugin {
        plugin: String,
        network: String,
        dirs: String,
        kept: String,
    },
    #[error("network {network} of {file} has given the pod's {interface} no address: {result}")]
    NoAddress {
        network: String,
        file: String,
        interface: &'static str,
        /// Output of the last plugin that printed a result.
        result: String,
    },
    /// In the plugin's own words.
    #[error("plugin {plugin:?} failed to {command}: {words}")]
    Plugin {
        plugin: String,
        command: &'static str,
        words: String,
    },
    #[error("plugin {plugin:?} did not {command} within {limit:?} and was killed")]
    Hung {
        plugin: String,
        command: &'static str,
        limit: Duration,
    },
    #[error("{field} {value:?} of the pod cannot be told to plugins")]
    Attachment { field: &'static str, value: String },
    #[error("{doing}")]
    Io {
        doing: String,
        source: Arc<io::Error>,
    },
    #[error("network {network}: no address is free in {ranges}")]
    Exhausted { network: String, ranges: String },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(doing: String, source: io::Error) -> Self {
        Self::Io {
            doing,
            source: Arc::new(source),
        }
    }
}

/// Says what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::io(what(), source))
    }
}
