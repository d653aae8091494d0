//! The plugins that run in the daemon. One whose configuration has a key that is not built in is run as a program, so that
//! no key is accepted and ignored.

mod bridge;
mod host_local;
mod portmap;

use std::{path::PathBuf, sync::Arc};

pub(crate) use bridge::host_name;
pub(crate) use host_local::{Pool, parse_network};
use serde_json::{Map, Value};

use crate::{
    attachment::Attachment,
    cache::{Cache, Entry},
    chain::config,
    conflist::Conflist,
    error::Result,
    netlink::{
        Links,
        nft::{Pod, Table},
    },
    reaper::{Leaving, Reaper},
};

/// What the plugins work with.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) table: Table,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) cache: Arc<Cache>,
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
    /// Returns the result. `inside` are the pod's links. Blocks.
    pub(crate) fn add(&self, call: &Call<'_>, inside: &mut Links) -> Result<Value> {
        match call.config["type"].as_str() {
            Some("bridge") => bridge::add(self, call, inside),
            Some("portmap") => portmap::add(self, call),
            // The library brings lo up for every pod.
            _ => Ok(Value::Null),
        }
    }

    /// Returns what is left for the reaper. Blocks.
    pub(crate) fn del(&self, call: &Call<'_>) -> Result<Option<Leaving>> {
        match call.config["type"].as_str() {
            Some("bridge") => bridge::del(self, call).map(Some),
            Some("portmap") => portmap::del(self, call).map(|()| None),
            _ => Ok(None),
        }
    }

    /// What [`Self::del`] has left for the reaper, and an earlier daemon has not finished.
    pub(crate) fn leaving(&self, entry: &Entry) -> Result<Vec<Leaving>> {
        let conflist = Conflist::parse(&entry.conflist, None)?;
        let bridges = conflist
            .plugins
            .iter()
            .filter(|plugin| has(plugin) && is(plugin, "bridge"));
        let leaving = bridges.map(|plugin| {
            let config = config(entry, &conflist, plugin);
            let pod = &entry.attachment;
            bridge::leaving(
                self,
                &Call {
                    config: &config,
                    pod,
                },
            )
        });
        leaving.collect()
    }

    /// What the table holds of all pods that are attached.
    fn attached(&self) -> Vec<Pod> {
        let entries = self.cache.attached();
        entries
            .iter()
            .filter(|entry| entry.builtin)
            .flat_map(pods)
            .collect()
    }
}

fn pods(entry: &Entry) -> Vec<Pod> {
    let Ok(conflist) = Conflist::parse(&entry.conflist, None) else {
        return Vec::new();
    };
    let plugins = conflist.plugins.iter().filter(|plugin| has(plugin));
    let pods = plugins.filter_map(|plugin| {
        let config = config(entry, &conflist, plugin);
        let call = Call {
            config: &config,
            pod: &entry.attachment,
        };
        match plugin.get("type")?.as_str()? {
            "bridge" => Some(bridge::attached(&call)),
            "portmap" => Some(portmap::attached(&call)),
            _ => None,
        }
    });
    pods.collect()
}

fn is(plugin: &Map<String, Value>, kind: &str) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(kind)
}

/// Whether what `key` chooses is nf_tables, if it chooses.
fn is_nftables(plugin: &Map<String, Value>, key: &str) -> bool {
    plugin.get(key).is_none_or(|backend| backend == "nftables")
}

/// Whether `object` has no keys but these.
fn has_only(object: &Map<String, Value>, known: &[&str]) -> bool {
    object.keys().all(|key| known.contains(&key.as_str()))
}
