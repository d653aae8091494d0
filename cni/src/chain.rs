//! The plugins of a configuration, one after the other (CNI spec 1.1, section 3). Blocks, and so runs on threads that may.

use serde_json::{Map, Value, json};

use crate::{
    Inner,
    attachment::{Attached, Attachment, ips},
    builtin::Call,
    cache::Entry,
    conflist::{Conflist, kind},
    error::{Doing, Error, Result},
    exec::{Run, find},
    netlink::Links,
    reaper::Leaving,
};

/// Attaches a pod. What a failed attempt has made is undone.
pub(crate) fn add(cni: &Inner, pod: Attachment) -> Result<Attached> {
    pod.check()?;
    let conflist = cni.networks.current()?;
    cni.check_plugins(&conflist)?;
    cni.builtin.reaper.wait_for(&pod.container_id);
    let mut entry = Entry {
        attachment: pod,
        conflist: conflist.to_json(),
        builtin: cni.options.builtin,
        pod_cidrs: cni.pod_cidrs(),
        result: Value::Null,
    };
    cni.cache.write(&entry)?;
    let added = add_all(cni, &conflist, &mut entry).and_then(|()| cni.cache.write(&entry));
    if let Err(error) = added {
        if let Err(left) = detach(cni, &entry) {
            tracing::warn!(error = %left, "a failed attachment could not be undone");
        }
        return Err(error);
    }
    Ok(Attached {
        ips: ips(&entry.result),
        result: entry.result,
    })
}

/// The result of the whole is that of the last plugin that has one.
fn add_all(cni: &Inner, conflist: &Conflist, entry: &mut Entry) -> Result<()> {
    let netns = &entry.attachment.netns;
    let mut inside = Links::open_in(netns)
        .and_then(|mut links| links.set_loopback_up().map(|()| links))
        .doing(|| format!("bring lo up in {}", netns.display()))?;
    for plugin in &conflist.plugins {
        let config = config(entry, conflist, plugin);
        let pod = &entry.attachment;
        let result = if is_built_in(entry, plugin) {
            let call = Call {
                config: &config,
                pod,
            };
            cni.builtin.add(&call, &mut inside)?
        } else {
            run(cni, conflist, "ADD", &config, pod)?
        };
        if !result.is_null() {
            entry.result = result;
        }
    }
    Ok(())
}

/// Detaches a pod with the configuration that it was attached with. Without one it was never begun, or is done.
pub(crate) fn del(cni: &Inner, pod: Attachment) -> Result<()> {
    pod.check()?;
    let entry = match cni.cache.read(&pod.container_id) {
        Ok(Some(entry)) => Entry {
            // The pin may have moved with the state directory.
            attachment: Attachment {
                netns: pod.netns,
                ..entry.attachment
            },
            ..entry
        },
        Ok(None) => return cni.cache.forget_aside(&pod.container_id),
        Err(error @ Error::Configuration { .. }) => {
            tracing::warn!(%error, "a pod is detached with the configuration of today");
            Entry {
                conflist: cni.networks.current()?.to_json(),
                builtin: cni.options.builtin,
                pod_cidrs: cni.pod_cidrs(),
                result: Value::Null,
                attachment: pod,
            }
        }
        Err(error) => return Err(error),
    };
    detach(cni, &entry)
}

/// The last plugin first; one that fails does not keep the others.
fn detach(cni: &Inner, entry: &Entry) -> Result<()> {
    let conflist = Conflist::parse(&entry.conflist, None)?;
    let mut leaving = Vec::new();
    let mut first = Ok(());
    for plugin in conflist.plugins.iter().rev() {
        match detach_one(cni, &conflist, plugin, entry) {
            Ok(left) => leaving.extend(left),
            // Its program is gone, and with it the only one who knows what it made: that must not keep the pod for ever.
            Err(error @ Error::MissingPlugin { .. }) => {
                tracing::warn!(%error, "a plugin could not be asked to detach");
            }
            Err(error) => first = first.and(Err(error)),
        }
    }
    first?;
    let id = &entry.attachment.container_id;
    if leaving.is_empty() {
        return cni.cache.forget(id);
    }
    cni.cache.leave(id)?;
    for left in leaving {
        cni.builtin.reaper.take(left);
    }
    Ok(())
}

fn detach_one(
    cni: &Inner,
    conflist: &Conflist,
    plugin: &Map<String, Value>,
    entry: &Entry,
) -> Result<Option<Leaving>> {
    let config = config(entry, conflist, plugin);
    let pod = &entry.attachment;
    if is_built_in(entry, plugin) {
        let call = Call {
            config: &config,
            pod,
        };
        return cni.builtin.del(&call);
    }
    run(cni, conflist, "DEL", &config, pod).map(|_| None)
}

/// Whoever has attached a pod detaches it, whatever the options say since.
fn is_built_in(entry: &Entry, plugin: &Map<String, Value>) -> bool {
    entry.builtin && crate::builtin::has(plugin)
}

fn run(
    cni: &Inner,
    conflist: &Conflist,
    command: &'static str,
    config: &Value,
    pod: &Attachment,
) -> Result<Value> {
    let plugin = config["type"].as_str().unwrap_or_default();
    let bin_dirs = &cni.options.bin_dirs;
    let program = find(plugin, bin_dirs).ok_or_else(|| cni.missing(plugin, conflist))?;
    let run = Run {
        plugin,
        command,
        config,
        pod,
        bin_dirs,
        limit: cni.options.timeout,
    };
    run.run(&program)
}

/// What a plugin gets (CNI spec 1.1, section 3, "Deriving request configuration from plugin configuration").
pub(crate) fn config(entry: &Entry, conflist: &Conflist, plugin: &Map<String, Value>) -> Value {
    let mut config = plugin.clone();
    config.insert("name".into(), json!(conflist.name));
    config.insert("cniVersion".into(), json!(conflist.version));
    if let Some(capabilities) = config.remove("capabilities") {
        let runtime = runtime_config(&capabilities, entry);
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(runtime));
        }
    }
    if !entry.result.is_null() {
        config.insert("prevResult".into(), entry.result.clone());
    }
    Value::Object(config)
}

/// What the plugin says that it can do, of what there is to do (CNI conventions, "Dynamic Plugin specific Fields").
fn runtime_config(capabilities: &Value, entry: &Entry) -> Map<String, Value> {
    let mut runtime = Map::new();
    let pod = &entry.attachment;
    if capabilities["portMappings"] == true && !pod.port_mappings.is_empty() {
        runtime.insert("portMappings".into(), pod.port_mappings_json());
    }
    if capabilities["ipRanges"] == true && !entry.pod_cidrs.is_empty() {
        let ranges = entry.pod_cidrs.iter();
        let ranges = ranges.map(|cidr| json!([{ "subnet": cidr }]));
        runtime.insert("ipRanges".into(), ranges.collect());
    }
    runtime
}

impl Inner {
    /// Whether each plugin is built in, or is there.
    pub(crate) fn check_plugins(&self, conflist: &Conflist) -> Result<()> {
        for plugin in &conflist.plugins {
            let is_built_in = self.options.builtin && crate::builtin::has(plugin);
            if !is_built_in && find(kind(plugin), &self.options.bin_dirs).is_none() {
                return Err(self.missing(kind(plugin), conflist));
            }
        }
        Ok(())
    }

    fn missing(&self, plugin: &str, conflist: &Conflist) -> Error {
        let dirs = self.options.bin_dirs.iter();
        let dirs = dirs.map(|dir| dir.display().to_string());
        Error::MissingPlugin {
            plugin: plugin.to_owned(),
            file: conflist.file_name(),
            dirs: dirs.collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_what_it_asks_for() {
        let entry = Entry {
            attachment: Attachment {
                container_id: "id".into(),
                netns: "/netns".into(),
                pod_name: String::new(),
                pod_namespace: String::new(),
                pod_uid: String::new(),
                port_mappings: Vec::new(),
            },
            conflist: Value::Null,
            builtin: true,
            pod_cidrs: vec!["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()],
            result: Value::Null,
        };
        let all = json!({ "portMappings": true, "ipRanges": true });
        let want =
            json!({ "ipRanges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]] });
        assert_eq!(Value::Object(runtime_config(&all, &entry)), want);
        assert!(runtime_config(&json!({}), &entry).is_empty());
    }
}
