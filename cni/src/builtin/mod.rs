//! The plugins that run in the daemon. One whose configuration has a key that is not built in is run as a program, so that
//! no key is accepted and ignored.

mod bridge;
mod host_local;
mod portmap;

pub(crate) use bridge::remove as remove_bridge;

use std::{path::PathBuf, sync::Arc};

use serde_json::{Map, Value};

use crate::{attachment::Attachment, error::Result, netlink::nft::Table};

/// What the plugins work with.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) table: Arc<Table>,
    pub(crate) data_dir: PathBuf,
}

/// One call of a plugin. `config` has name, cniVersion, prevResult and runtimeConfig, as a program gets it.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) config: &'a Value,
    pub(crate) pod: &'a Attachment,
}

/// Whether the plugin with this configuration is built in.
pub(crate) fn has(plugin: &Map<String, Value>) -> bool {
    match plugin.get("type").and_then(Value::as_str) {
        Some("loopback") => true,
        Some("bridge") => bridge::is_supported(plugin),
        Some("portmap") => portmap::is_supported(plugin),
        _ => false,
    }
}

impl Builtin {
    /// Returns the result. Blocks.
    pub(crate) fn add(&self, call: &Call<'_>) -> Result<Value> {
        match call.config["type"].as_str() {
            Some("bridge") => bridge::add(self, call),
            Some("portmap") => portmap::add(self, call),
            // The library brings lo up for every pod.
            _ => Ok(call.config["prevResult"].clone()),
        }
    }

    /// Blocks.
    pub(crate) fn del(&self, call: &Call<'_>) -> Result<()> {
        match call.config["type"].as_str() {
            Some("bridge") => bridge::del(self, call),
            Some("portmap") => portmap::del(self, call),
            _ => Ok(()),
        }
    }
}

/// Whether `object` has no keys but these.
fn has_only(object: &Map<String, Value>, known: &[&str]) -> bool {
    object.keys().all(|key| known.contains(&key.as_str()))
}
