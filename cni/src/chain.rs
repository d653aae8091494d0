//! The plugins of a configuration, one after the other (CNI spec 1.1, section 3).

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use crate::{
    Cni,
    attachment::{Attached, Attachment, ips},
    builtin::Call,
    cache::Entry,
    conflist::Conflist,
    error::{Doing, Error, Result},
    exec::{self, Run},
    netlink::Links,
};

pub(crate) async fn add(cni: &Cni, conflist: &Conflist, pod: Attachment) -> Result<Attached> {
    cni.check_plugins(conflist)?;
    let mut entry = Entry {
        attachment: pod.clone(),
        conflist: conflist.to_json(),
        result: Value::Null,
    };
    cni.0.cache.write(&entry)?;
    match add_all(cni, conflist, &pod).await {
        Ok(result) => {
            entry.result.clone_from(&result);
            cni.0.cache.write(&entry)?;
            Ok(Attached {
                ips: ips(&result),
                result,
            })
        }
        Err(error) => {
            if let Err(left) = del(cni, pod).await {
                tracing::warn!(error = %left, "a failed attachment could not be undone");
            }
            Err(error)
        }
    }
}

async fn add_all(cni: &Cni, conflist: &Conflist, pod: &Attachment) -> Result<Value> {
    let netns = pod.netns.clone();
    blocking(move || {
        let doing = || format!("bring lo up in {}", netns.display());
        let mut links = Links::open_in(&netns).doing(doing)?;
        match links.find("lo").doing(doing)? {
            Some(lo) => links.set_up(lo.index, &[], &[]).doing(doing),
            None => Ok(()),
        }
    })
    .await?;
    let mut result = Value::Null;
    for plugin in &conflist.plugins {
        let config = config(cni, conflist, plugin, pod, &result);
        result = match call(cni, conflist, plugin, "ADD", config, pod).await? {
            // A plugin that adds nothing may say nothing.
            Value::Null => result,
            new => new,
        };
    }
    Ok(result)
}

pub(crate) async fn del(cni: &Cni, pod: Attachment) -> Result<()> {
    let (conflist, result, pod) = match cni.0.cache.read(&pod.container_id)? {
        Some(entry) => {
            let conflist = Conflist::parse(&entry.conflist, None)?;
            // The pin may have moved with the state directory.
            let pod = Attachment {
                netns: pod.netns,
                ..entry.attachment
            };
            (conflist, entry.result, pod)
        }
        // It was never begun.
        None => return cni.0.cache.remove(&pod.container_id),
    };
    let mut first = Ok(());
    for plugin in conflist.plugins.iter().rev() {
        let config = config(cni, &conflist, plugin, &pod, &result);
        match call(cni, &conflist, plugin, "DEL", config, &pod).await {
            // Its program is gone, and with it the only one who knows what it made: that must not keep the pod for ever.
            Err(error @ Error::MissingPlugin { .. }) => {
                tracing::warn!(%error, "a plugin could not be asked to detach")
            }
            Err(error) => first = first.and(Err(error)),
            Ok(_) => {}
        }
    }
    first?;
    cni.0.cache.remove(&pod.container_id)
}

/// What a plugin gets (CNI spec 1.1, section 3, "Deriving request configuration from plugin configuration").
fn config(
    cni: &Cni,
    conflist: &Conflist,
    plugin: &Map<String, Value>,
    pod: &Attachment,
    result: &Value,
) -> Value {
    let mut config = plugin.clone();
    config.insert("name".into(), json!(conflist.name));
    config.insert("cniVersion".into(), json!(conflist.version));
    if let Some(capabilities) = config.remove("capabilities") {
        let runtime = runtime_config(&capabilities, pod, &cni.pod_cidrs());
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(runtime));
        }
    }
    if !result.is_null() {
        config.insert("prevResult".into(), result.clone());
    }
    Value::Object(config)
}

/// What the plugin says that it can do, of what there is to do (CNI conventions, "Dynamic Plugin specific Fields").
fn runtime_config(
    capabilities: &Value,
    pod: &Attachment,
    pod_cidrs: &[String],
) -> Map<String, Value> {
    let mut runtime = Map::new();
    if capabilities["portMappings"] == true && !pod.port_mappings.is_empty() {
        runtime.insert("portMappings".into(), pod.port_mappings_json());
    }
    if capabilities["ipRanges"] == true && !pod_cidrs.is_empty() {
        let ranges = pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr }]));
        runtime.insert("ipRanges".into(), ranges.collect());
    }
    runtime
}

async fn call(
    cni: &Cni,
    conflist: &Conflist,
    plugin: &Map<String, Value>,
    command: &'static str,
    config: Value,
    pod: &Attachment,
) -> Result<Value> {
    let kind = plugin
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if cni.is_built_in(plugin) {
        let (builtin, pod) = (Arc::clone(&cni.0.builtin), pod.clone());
        return blocking(move || {
            let call = Call {
                config: &config,
                pod: &pod,
            };
            if command == "ADD" {
                builtin.add(&call)
            } else {
                builtin.del(&call).map(|()| Value::Null)
            }
        })
        .await;
    }
    let options = &cni.0.options;
    let program = exec::find(kind, &options.bin_dirs).ok_or_else(|| cni.missing(kind, conflist))?;
    let run = Run {
        plugin: kind,
        command,
        config: &config,
        pod,
        bin_dirs: &options.bin_dirs,
        limit: options.timeout,
    };
    run.run(&program).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io {
            doing: "run a built-in plugin".into(),
            source: std::io::Error::other(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_what_it_asks_for() {
        let pod = Attachment {
            container_id: "id".into(),
            netns: "/netns".into(),
            pod_name: String::new(),
            pod_namespace: String::new(),
            pod_uid: String::new(),
            port_mappings: Vec::new(),
        };
        let cidrs = ["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()];
        let all = json!({ "portMappings": true, "ipRanges": true });
        let want =
            json!({ "ipRanges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]] });
        assert_eq!(Value::Object(runtime_config(&all, &pod, &cidrs)), want);
        assert!(runtime_config(&json!({}), &pod, &cidrs).is_empty());
    }
}
