//! Status.
//!
//! Rule (CRI, RuntimeStatus): the kubelet waits for the conditions RuntimeReady and NetworkReady; others are for people.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use corten_proto::cri;
use serde_json::json;

use crate::{
    context::Context,
    error::{Result, chain},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StatusRequest,
) -> Result<cri::StatusResponse> {
    let network = cx.cni.status();
    let mut conditions = vec![
        condition("RuntimeReady", Ok(())),
        condition(
            "NetworkReady",
            network.as_ref().map(drop).map_err(|error| chain(error)),
        ),
    ];
    let known = cx
        .conditions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .join("; ");
    if !known.is_empty() {
        conditions.push(condition("StoreComplete", Err(known)));
    }
    let faults = cx.cdi.faults().join("; ");
    if !faults.is_empty() {
        conditions.push(condition("CDIComplete", Err(faults)));
    }
    let handlers = &cx.config.handlers;
    let runtime_handlers = handlers.names().map(|name| cri::RuntimeHandler {
        name: name.into(),
        features: handlers.get(name).map(|handler| handler.features(&cx.host)),
    });
    Ok(cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info: if request.verbose {
            info(cx, network.ok())
        } else {
            BTreeMap::new()
        },
        runtime_handlers: runtime_handlers.collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: cx.host.user_namespaces.is_ok(),
            mount_options: true,
        }),
    })
}

fn condition(name: &str, state: Result<(), String>) -> cri::RuntimeCondition {
    let message = state.err().unwrap_or_default();
    cri::RuntimeCondition {
        r#type: name.into(),
        status: message.is_empty(),
        reason: if message.is_empty() {
            String::new()
        } else {
            format!("{name}False").replace("ReadyFalse", "NotReady")
        },
        message,
    }
}

/// What `crictl info` prints; `stateDir` and `cniconfig` are read by test suites and network plugins.
fn info(cx: &Context, network: Option<corten_cni::Network>) -> BTreeMap<String, String> {
    let mut config = serde_json::to_value(&cx.config).unwrap_or_default();
    config["stateDir"] = json!(cx.config.state);
    config["rootDir"] = json!(cx.config.root);
    let load = if network.is_some() {
        "OK"
    } else {
        "no network configuration could be loaded"
    };
    let cni = network.map(|network| json!({ "name": network.name, "file": network.file, "conflist": network.conflist }));
    BTreeMap::from([
        ("config".into(), config.to_string()),
        ("cniconfig".into(), json!(cni).to_string()),
        ("lastCNILoadStatus".into(), json!(load).to_string()),
        ("instance".into(), json!(cx.instance).to_string()),
    ])
}
