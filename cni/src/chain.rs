//! The plugins of a configuration, one after the other (CNI spec 1.1, section 3). Blocks, and so runs on threads that may.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::{
    Inner,
    attachment::{Attached, Attachment, Capabilities, INTERFACE},
    builtin::Call,
    cache::{Entry, Progress},
    conflist::{Conflist, kind},
    error::{Doing, Error, Result},
    exec::{Run, find},
    netlink::Links,
    reaper::Leaving,
    result::{self, ips, is_told_at_del},
};

/// Bytes of a result that an error quotes.
const MAX_QUOTED: usize = 1 << 10;

/// Attaches a pod. What a failed attempt has made is undone.
pub(crate) fn add(cni: &Inner, pod: Attachment) -> Result<Attached> {
    pod.check()?;
    let conflist = cni.networks.current()?;
    cni.check_plugins(&conflist)?;
    cni.builtin.reaper.wait_for(&pod.container_id);
    let mut entry = Entry {
        attachment: as_asked(pod, &conflist),
        conflist: conflist.to_json(),
        builtin: cni.options.builtin,
        pod_cidrs: cni.pod_cidrs(),
        result: Value::Null,
        progress: Progress::Attached,
    };
    cni.cache.write(&entry)?;
    let mut begun = 0;
    let added = add_all(cni, &conflist, &mut entry, &mut begun)
        .and_then(|()| check_addresses(&conflist, &entry))
        .and_then(|()| cni.cache.write(&entry));
    if let Err(error) = added {
        if let Err(left) = detach(cni, &mut entry, begun) {
            tracing::warn!(error = %left, "a failed attachment could not be undone");
        }
        return Err(error);
    }
    Ok(Attached {
        ips: ips(&entry.result),
        result: entry.result,
    })
}

/// The attachment with those capabilities alone that a plugin asks for: annotations can be large.
fn as_asked(mut pod: Attachment, conflist: &Conflist) -> Attachment {
    let given = std::mem::take(&mut pod.capabilities);
    let asked = |name: &str| conflist.plugins.iter().any(|plugin| asks_for(plugin, name));
    pod.capabilities = Capabilities {
        pod_annotations: given
            .pod_annotations
            .filter(|_| asked("io.kubernetes.cri.pod-annotations")),
        bandwidth: given.bandwidth.filter(|_| asked("bandwidth")),
        dns: given.dns.filter(|_| asked("dns")),
        cgroup_path: given.cgroup_path.filter(|_| asked("cgroupPath")),
    };
    pod
}

fn asks_for(plugin: &Map<String, Value>, capability: &str) -> bool {
    let capabilities = plugin.get("capabilities");
    capabilities.is_some_and(|capabilities| capabilities[capability] == true)
}

/// The result of the whole is that of the last plugin that has one. `begun` counts the plugins that were asked.
fn add_all(cni: &Inner, conflist: &Conflist, entry: &mut Entry, begun: &mut usize) -> Result<()> {
    let netns = &entry.attachment.netns;
    let mut inside = Links::open_in(netns)
        .and_then(|mut links| links.set_loopback_up().map(|()| links))
        .doing(|| format!("bring lo up in {}", netns.display()))?;
    for plugin in &conflist.plugins {
        let config = config(entry, conflist, plugin);
        let pod = &entry.attachment;
        let result = if is_built_in(entry, plugin) {
            *begun += 1;
            let call = Call {
                config: &config,
                pod,
            };
            cni.builtin.add(&call, &mut inside)?
        } else {
            let program =
                program(cni, plugin).ok_or_else(|| cni.missing(kind(plugin), conflist))?;
            *begun += 1;
            run(cni, "ADD", &config, pod).run(&program)?
        };
        if !result.is_null() {
            entry.result = result::read(result, &conflist.version).map_err(|words| {
                let (plugin, command) = (kind(plugin).to_owned(), "ADD");
                Error::Plugin {
                    plugin,
                    command,
                    words,
                }
            })?;
        }
    }
    Ok(())
}

/// A pod that nothing can reach would wait for its readiness for ever; containerd refuses it, too.
fn check_addresses(conflist: &Conflist, entry: &Entry) -> Result<()> {
    if !ips(&entry.result).is_empty() {
        return Ok(());
    }
    let result = if entry.result.is_null() {
        "no plugin has printed a result".into()
    } else {
        entry.result.to_string().chars().take(MAX_QUOTED).collect()
    };
    Err(Error::NoAddress {
        network: conflist.name.clone(),
        file: conflist.file_name(),
        interface: INTERFACE,
        result,
    })
}

/// Detaches a pod with the configuration that it was attached with. Without one it was never begun, or is done.
pub(crate) fn del(cni: &Inner, pod: Attachment) -> Result<()> {
    pod.check()?;
    let mut entry = match cni.cache.read(&pod.container_id) {
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
                progress: Progress::Attached,
                attachment: pod,
            }
        }
        Err(error) => return Err(error),
    };
    detach(cni, &mut entry, usize::MAX)
}

/// The last plugin first; one that fails does not keep the others, and what they have held is free: a program that is gone
/// keeps the pod, and never its address. The program of a plugin that an ADD has not come to, after `begun` others, may be
/// missing.
fn detach(cni: &Inner, entry: &mut Entry, begun: usize) -> Result<()> {
    let conflist = Conflist::parse(&entry.conflist, None)?;
    let is_mixed = {
        let is_program = |plugin| !is_built_in(entry, plugin);
        conflist.plugins.iter().any(is_program) && !conflist.plugins.iter().all(is_program)
    };
    if is_mixed && entry.progress == Progress::Attached {
        // Programs take their time, in which others may be given the host ports.
        entry.progress = Progress::Leaving;
        cni.cache.write(entry)?;
    }
    let (mut leaving, mut first, mut all_released) = (Vec::new(), Ok(()), true);
    for (number, plugin) in conflist.plugins.iter().enumerate().rev() {
        let detached = match detach_one(cni, &conflist, plugin, entry) {
            Err(Error::GonePlugin { .. }) if number >= begun => Ok(None),
            detached => detached,
        };
        match detached {
            Ok(left) => leaving.extend(left),
            Err(error) => {
                all_released &= !is_built_in(entry, plugin);
                tracing::warn!(%error, "a plugin could not detach a pod");
                first = first.and(Err(error));
            }
        }
    }
    let id = &entry.attachment.container_id;
    match &first {
        Ok(()) if leaving.is_empty() => return cni.cache.forget(id),
        Ok(()) => cni.cache.leave(id)?,
        Err(_) if all_released && is_mixed => {
            entry.progress = Progress::Released;
            cni.cache.write(entry)?;
        }
        // No address is free while the table may lead to it.
        Err(_) => return first,
    }
    for left in leaving {
        cni.builtin.reaper.take(left);
    }
    first
}

fn detach_one(
    cni: &Inner,
    conflist: &Conflist,
    plugin: &Map<String, Value>,
    entry: &Entry,
) -> Result<Option<Leaving>> {
    let mut config = config(entry, conflist, plugin);
    let pod = &entry.attachment;
    if is_built_in(entry, plugin) {
        let call = Call {
            config: &config,
            pod,
        };
        // What leads to its addresses may be another pod's by now.
        let is_again = entry.progress == Progress::Released && kind(plugin) == "portmap";
        return if is_again {
            Ok(None)
        } else {
            cni.builtin.del(&call)
        };
    }
    if !is_told_at_del(&conflist.version) {
        config
            .as_object_mut()
            .map(|config| config.remove("prevResult"));
    }
    let Some(program) = program(cni, plugin) else {
        return Err(cni.gone(kind(plugin), conflist, entry));
    };
    run(cni, "DEL", &config, pod).run(&program).map(|_| None)
}

/// Whoever has attached a pod detaches it, whatever the options say since.
fn is_built_in(entry: &Entry, plugin: &Map<String, Value>) -> bool {
    entry.builtin && crate::builtin::has(plugin)
}

fn program(cni: &Inner, plugin: &Map<String, Value>) -> Option<PathBuf> {
    find(kind(plugin), &cni.options.bin_dirs)
}

fn run<'a>(
    cni: &'a Inner,
    command: &'static str,
    config: &'a Value,
    pod: &'a Attachment,
) -> Run<'a> {
    Run {
        plugin: config["type"].as_str().unwrap_or_default(),
        command,
        config,
        pod,
        bin_dirs: &cni.options.bin_dirs,
        limit: cni.options.timeout,
    }
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

/// Capabilities that the plugin asks for, with their values (CNI spec 1.1, section 3, "Deriving runtimeConfig"). One without a
/// value is left out.
fn runtime_config(capabilities: &Value, entry: &Entry) -> Map<String, Value> {
    let pod = &entry.attachment;
    let mut values = match serde_json::to_value(&pod.capabilities) {
        Ok(Value::Object(values)) => values,
        _ => Map::new(),
    };
    if !pod.port_mappings.is_empty() {
        values.insert("portMappings".into(), pod.port_mappings_json());
    }
    if !entry.pod_cidrs.is_empty() {
        let ranges = entry.pod_cidrs.iter();
        let ranges = ranges.map(|cidr| json!([{ "subnet": cidr }]));
        values.insert("ipRanges".into(), ranges.collect());
    }
    values.retain(|capability, _| capabilities[capability] == true);
    values
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
        Error::MissingPlugin {
            plugin: plugin.to_owned(),
            file: conflist.file_name(),
            dirs: self.bin_dirs(),
        }
    }

    fn gone(&self, plugin: &str, conflist: &Conflist, entry: &Entry) -> Error {
        Error::GonePlugin {
            plugin: plugin.to_owned(),
            network: conflist.name.clone(),
            dirs: self.bin_dirs(),
            kept: self.cache.file(&entry.attachment.container_id),
        }
    }

    fn bin_dirs(&self) -> String {
        let dirs = self.options.bin_dirs.iter();
        let dirs = dirs.map(|dir| dir.display().to_string());
        dirs.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Bandwidth, Dns};

    fn entry() -> Entry {
        Entry {
            attachment: Attachment {
                container_id: "id".into(),
                netns: "/netns".into(),
                pod_name: String::new(),
                pod_namespace: String::new(),
                pod_uid: String::new(),
                port_mappings: Vec::new(),
                capabilities: Capabilities {
                    pod_annotations: Some(BTreeMap::from([("a/b".into(), "c".into())])),
                    bandwidth: Some(Bandwidth {
                        ingress_rate: 1000,
                        ingress_burst: 7,
                        ..Bandwidth::default()
                    }),
                    dns: Some(Dns {
                        servers: vec!["10.0.0.10".into()],
                        ..Dns::default()
                    }),
                    cgroup_path: Some("/kubepods/pod1".into()),
                },
            },
            conflist: Value::Null,
            builtin: true,
            pod_cidrs: vec!["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()],
            result: Value::Null,
            progress: Progress::Attached,
        }
    }

    #[test]
    fn a_plugin_gets_what_it_asks_for() {
        let entry = entry();
        let all = json!({ "portMappings": true, "ipRanges": true });
        let want =
            json!({ "ipRanges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]] });
        assert_eq!(Value::Object(runtime_config(&all, &entry)), want);
        for none in [json!({}), json!(null), json!({ "dns": false, "mac": true })] {
            assert!(runtime_config(&none, &entry).is_empty(), "{none}");
        }
        let all = json!({ "io.kubernetes.cri.pod-annotations": true, "bandwidth": true, "dns": true,
                          "cgroupPath": true, "ips": true, "mac": true, "aliases": true });
        let want = json!({
            "io.kubernetes.cri.pod-annotations": { "a/b": "c" },
            "bandwidth": { "ingressRate": 1000, "ingressBurst": 7, "egressRate": 0, "egressBurst": 0 },
            "dns": { "servers": ["10.0.0.10"], "searches": [], "options": [] },
            "cgroupPath": "/kubepods/pod1",
        });
        assert_eq!(Value::Object(runtime_config(&all, &entry)), want);
    }

    #[test]
    fn what_no_plugin_asks_for_is_not_kept() {
        let list = json!({ "name": "n", "plugins": [
            { "type": "a", "capabilities": { "dns": true, "bandwidth": false } }, { "type": "b" },
        ] });
        let list = Conflist::parse(&list, None).unwrap();
        let kept = as_asked(entry().attachment, &list).capabilities;
        let want = Capabilities {
            dns: entry().attachment.capabilities.dns,
            ..Capabilities::default()
        };
        assert_eq!(kept, want);
    }
}
