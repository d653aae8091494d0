//! Making a pod: plan everything, write it down, make it, publish it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_proto::{
    cri::{self, NamespaceMode},
    layout,
    record::{self, Network, Operation, Resource, Scope, resource::Kind},
    shim,
};
use corten_sys::cgroup::Cgroup;

use super::{Pod, files, init, name, namespaces};
use crate::{
    blocking::blocking,
    clock,
    config::CgroupDriver,
    context::Context,
    error::{Error, Result},
    network,
    operation::{self, Hash, attempt},
    record_file, spec,
};

/// A pod that is about to be made.
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) hostname: String,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) sysctls: spec::Sysctls,
    capabilities: corten_cni::Capabilities,
    pub(crate) resources: Vec<Resource>,
    /// See [`record::Pod::cgroup_parent`].
    pub(super) cgroup_parent: String,
    pub(super) scope: Option<Scope>,
    pub(crate) selinux_level: String,
    pub(crate) paths: Paths,
    /// The ids of the pod's user namespace, which it has if there is a path for its pin.
    pub(crate) ids: Option<shim::UserNamespace>,
}

impl Plan {
    /// Who is root in the pod, on the host.
    pub(crate) fn root(&self) -> (u32, u32) {
        spec::owner(self.ids.as_ref(), 0, 0)
    }
}

/// Pins of the pod's namespaces, `None` for the host's, and places of its own file systems.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) net: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
    /// File system of the pod's files in /etc.
    pub(crate) etc: PathBuf,
    pub(crate) user: Option<PathBuf>,
}

impl Paths {
    /// The paths of pod `id` as its namespace options ask for them (CRI, NamespaceOption).
    pub(crate) fn of(cx: &Context, id: &str, options: &cri::NamespaceOption) -> Self {
        let own_users = options
            .userns_options
            .as_ref()
            .is_some_and(|users| users.mode() != NamespaceMode::Node);
        let state_dir = layout::pod_state(&cx.config.state, id);
        let pin = |name: &str| state_dir.join("ns").join(name);
        let own_network = options.network() != NamespaceMode::Node;
        let own_ipc = options.ipc() != NamespaceMode::Node;
        Self {
            net: own_network.then(|| {
                cx.config
                    .netns_dir
                    .join(format!("corten-{}-{}", cx.instance, &id[..16]))
            }),
            ipc: own_ipc.then(|| pin("ipc")),
            // A pod on the host's network has the host's name.
            uts: own_network.then(|| pin("uts")),
            pid: (options.pid() == NamespaceMode::Pod).then(|| pin("pid")),
            shm: own_ipc.then(|| state_dir.join("shm")),
            etc: state_dir.join(files::ETC_NAME),
            user: own_users.then(|| pin("user")),
        }
    }
}

/// Makes a pod and returns its id. A pod of this name whose id nobody has used yet is the answer of an earlier attempt: it
/// is given again for an equal request, and makes room for a different one.
pub(crate) async fn run(
    cx: Arc<Context>,
    request: cri::RunPodSandboxRequest,
    hash: Hash,
) -> Result<String> {
    let config = request.config.unwrap_or_default();
    if let Some(pod) = cx
        .store
        .pod_named(&config.metadata.as_ref().map(name).unwrap_or_default())
    {
        if pod.is_known() {
            return Err(Error::Exists {
                kind: "pod sandbox",
                name: pod.name.clone(),
                id: pod.record.id.clone(),
            });
        }
        if pod.record.request_hash == hash && pod.is_ready() {
            return Ok(pod.record.id.clone());
        }
        super::remove::remove(&cx, &pod).await?;
    }

    let plan = plan(&cx, config)?;
    let mut record = record::Pod {
        id: plan.id.clone(),
        config: Some(plan.config.clone()),
        runtime_handler: request.runtime_handler,
        created_at_ns: clock::unix_nanos(),
        cgroup_parent: plan.cgroup_parent.clone(),
        scope: plan.scope.clone(),
        selinux_level: plan.selinux_level.clone(),
        request_hash: hash.to_vec(),
        resources: plan.resources.clone(),
        boot_id: cx.boot_id.clone(),
        ..record::Pod::default()
    };
    let operation = Operation {
        name: "RunPodSandbox".into(),
        resources: plan.resources.clone(),
        key: key(&plan.config),
        pod: Some(record.clone()),
        container: None,
    };
    let path = layout::pod_record(&cx.config.root, &plan.id);
    let entry = cx
        .ledger
        .begin(&plan.id, path, &operation)
        .inspect_err(|_| cx.selinux_levels.release(&plan.id))?;
    let (made, act_cx) = (record.clone(), Arc::clone(&cx));
    match attempt(&cx.undo, entry, &record.resources, make(act_cx, plan, made)).await {
        Ok(pod) => {
            let id = pod.record.id.clone();
            tracing::info!(sandbox = %id, name = pod.name, "pod sandbox is ready");
            Ok(id)
        }
        Err(failed) => {
            if let Some(entry) = failed.left_over {
                record.stopped = true;
                publish(&cx, Pod::new(record))?;
                operation::close(entry);
            }
            Err(failed.error)
        }
    }
}

fn plan(cx: &Context, config: cri::PodSandboxConfig) -> Result<Plan> {
    let id = crate::identity::random_id()?;
    let state_dir = layout::pod_state(&cx.config.state, &id);
    let paths = Paths::of(cx, &id, &spec::pod_namespaces(&config));
    let sysctls = spec::sysctls(&config)?;
    let capabilities = spec::network_capabilities(&config)?;
    let hostname = spec::hostname(&config)?;
    let ids = spec::user_namespace(&config)?;
    if let (Some(_), Err(reason)) = (&ids, &cx.host.user_namespaces) {
        let reason = format!("this host cannot give pods user namespaces: {reason}");
        return Err(Error::invalid(spec::user_namespace_field(), reason));
    }
    let (cgroup_parent, scope) = cgroup(cx, &id, &config)?;
    let cgroup = match &scope {
        Some(scope) => Some(Kind::Scope(scope.clone())),
        None => shared_cgroup(cx, &cgroup_parent),
    };
    let selinux_level = selinux_level(cx, &id, &config)?;
    let init_cgroup = paths
        .pid
        .as_ref()
        .and_then(|_| init::cgroup(&id, &cgroup_parent, scope.as_ref()));
    let cgroups = cgroup.into_iter().chain(init_cgroup.map(Kind::Cgroup));
    let mut resources = resources(&id, &config, &state_dir, &paths, cgroups);
    if !selinux_level.is_empty() {
        let kind = Some(Kind::SelinuxLevel(id.clone()));
        resources.insert(0, Resource { kind });
    }
    Ok(Plan {
        id,
        state_dir,
        hostname,
        config,
        sysctls,
        capabilities,
        resources,
        cgroup_parent,
        scope,
        selinux_level,
        paths,
        ids,
    })
}

fn resources(
    id: &str,
    config: &cri::PodSandboxConfig,
    dir: &Path,
    paths: &Paths,
    cgroups: impl IntoIterator<Item = Kind>,
) -> Vec<Resource> {
    let text = |path: &Path| path.display().to_string();
    let mut kinds = vec![Kind::Directory(text(dir))];
    kinds.extend(cgroups);
    kinds.push(Kind::Mount(text(&paths.etc)));
    kinds.extend(paths.shm.as_deref().map(|path| Kind::Mount(text(path))));
    kinds.extend(
        [&paths.net, &paths.ipc, &paths.uts]
            .into_iter()
            .flatten()
            .map(|path| Kind::Pin(text(path))),
    );
    kinds.extend(paths.user.as_deref().map(|path| Kind::UserPin(text(path))));
    if let Some(netns) = &paths.net {
        let metadata = config.metadata.clone().unwrap_or_default();
        kinds.push(Kind::Network(Network {
            container_id: id.to_owned(),
            netns: text(netns),
            pod_name: metadata.name,
            pod_namespace: metadata.namespace,
            pod_uid: metadata.uid,
            port_mappings: config.port_mappings.clone(),
        }));
    }
    kinds.extend(paths.pid.as_deref().map(|path| Kind::PidPin(text(path))));
    kinds
        .into_iter()
        .map(|kind| Resource { kind: Some(kind) })
        .collect()
}

/// The cgroup below which the pod's containers get theirs, and the scope that it is with systemd.
fn cgroup(
    cx: &Context,
    id: &str,
    config: &cri::PodSandboxConfig,
) -> Result<(String, Option<Scope>)> {
    let driver = cx.config.cgroup_driver;
    let parent = spec::cgroup_parent(config, driver)?.unwrap_or_else(|| cx.cgroup_root());
    if driver == CgroupDriver::Cgroupfs {
        return Ok((parent, None));
    }
    let unit = format!("corten-{id}.scope");
    let cgroup = format!("{parent}/{unit}");
    let metadata = config.metadata.clone().unwrap_or_default();
    let scope = Scope {
        unit,
        cgroup: cgroup.clone(),
        description: format!("Pod {}/{}", metadata.namespace, metadata.name),
    };
    Ok((cgroup, Some(scope)))
}

/// Taken, so that no other pod is given it; empty without SELinux.
fn selinux_level(cx: &Context, id: &str, config: &cri::PodSandboxConfig) -> Result<String> {
    if !cx.host.selinux {
        return Ok(String::new());
    }
    match spec::pod_selinux_level(config)? {
        Some(level) => {
            cx.selinux_levels.reserve(id, &level);
            Ok(level)
        }
        None => cx.selinux_levels.allocate(id),
    }
}

/// One that is not there yet, and is the kubelet's or ours together with other pods.
fn shared_cgroup(cx: &Context, path: &str) -> Option<Kind> {
    let exists = Cgroup::new(&cx.undo.hierarchies, path).exists();
    (!exists).then(|| Kind::SharedCgroup(path.to_owned()))
}

async fn make(cx: Arc<Context>, plan: Plan, mut record: record::Pod) -> Result<Arc<Pod>> {
    let plan = Arc::new(plan);
    let planned = Arc::clone(&plan);
    blocking(move || {
        files::create(&planned)?;
        namespaces::create(&planned)
    })
    .await?;
    if let Some(pin) = &plan.paths.user {
        namespaces::create_in_user_namespace(&cx, &plan, pin).await?;
    }
    if let Some(pin) = &plan.paths.pid {
        init::start(&cx, &plan, pin).await?;
    }
    if let Some(mut attachment) = attachment(&plan.resources) {
        attachment.capabilities = plan.capabilities.clone();
        let pod = attachment.pod_name.clone();
        let attached = cx
            .cni
            .add(attachment)
            .await
            .map_err(|source| Error::Network { pod, source })?;
        record.ips = attached.ips.iter().map(ToString::to_string).collect();
        record.cni_result = serde_json::to_vec(&attached.result).unwrap_or_default();
    }
    let ips = record.ips.clone();
    blocking(move || {
        namespaces::set_late_sysctls(&plan)?;
        files::write_hosts(&plan, &ips)
    })
    .await?;
    publish(&cx, Pod::new(record))
}

fn attachment(resources: &[Resource]) -> Option<corten_cni::Attachment> {
    resources.iter().find_map(|resource| match &resource.kind {
        Some(Kind::Network(network)) => Some(network::attachment(network)),
        _ => None,
    })
}

/// The operations' key for a pod of this configuration.
pub(crate) fn key(config: &cri::PodSandboxConfig) -> String {
    format!("pod {}", name_of(config))
}

/// See [`super::name`].
pub(crate) fn name_of(config: &cri::PodSandboxConfig) -> String {
    config.metadata.as_ref().map(name).unwrap_or_default()
}

/// Writes the record, then lets everybody see the pod. One of which something is left that could not be undone is published
/// as stopped: so it stays in sight, and the kubelet has it removed.
pub(crate) fn publish(cx: &Context, pod: Pod) -> Result<Arc<Pod>> {
    record_file::write(
        &layout::pod_record(&cx.config.root, &pod.record.id),
        &pod.to_record(),
    )?;
    let pod = Arc::new(pod);
    cx.store.publish_pod(Arc::clone(&pod));
    Ok(pod)
}
