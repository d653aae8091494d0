//! Making a container, up to the point before its program is run: plan, write down, start the shim, record, publish.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_image::{Image, LayerHold};
use corten_proto::{
    cri::{self, NamespaceMode},
    layout,
    record::{self, Operation, Resource, resource::Kind},
    shim::{Exited, Plan, UserNamespace, mount},
};
use corten_sys::{ns, private};

use super::{Container, State, exit, external::External, image_volumes::ImageVolumes, name};
use crate::{
    blocking::blocking,
    cdi::{self, Injection},
    clock,
    config::DeclaredVolumes,
    context::Context,
    error::{At, Error, Result},
    operation::{self, Hash, attempt},
    pod::{self, Pod},
    record_file, selinux, spec, systemd,
};

/// The field that names a container whose PID namespace is to be joined.
const TARGET: &str = "config.linux.security_context.namespace_options.target_id";

/// Makes a container in `pod` and returns its id. As with pods, one of this name whose id nobody has used yet is given
/// again for an equal request, and makes room for a different one.
pub(crate) async fn create(
    cx: Arc<Context>,
    pod: Arc<Pod>,
    config: cri::ContainerConfig,
    hash: Hash,
) -> Result<String> {
    let _member = pod.share().await;
    pod.check_ready()?;
    if let Some(there) = cx.store.container_named(
        &pod.record.id,
        &config.metadata.as_ref().map(name).unwrap_or_default(),
    ) {
        if there.is_known() {
            return Err(Error::Exists {
                kind: "container",
                name: there.name.clone(),
                id: there.record.id.clone(),
            });
        }
        there.settled().await;
        if there.record.request_hash == hash && there.state() == State::Created {
            return Ok(there.record.id.clone());
        }
        super::remove::remove(&cx, &there).await?;
    }

    let draft = draft(&cx, pod, config, hash)?;
    let target = match &draft.target {
        Some(target) => Some(target_pids(target).await?),
        None => None,
    };
    let (plan, external) = plan(&cx, &draft).await?;
    let record = draft.record(&cx, &plan);
    let operation = Operation {
        name: "CreateContainer".into(),
        resources: record.resources.clone(),
        key: key(&draft.pod, &draft.config),
        pod: None,
        container: Some(record.clone()),
    };
    let path = super::record_path(&cx, &draft.id);
    let entry = cx.ledger.begin(&draft.id, path, &operation)?;
    let (id, resources) = (draft.id.clone(), operation.resources);
    let layers = [draft.layers]
        .into_iter()
        .chain(draft.image_volumes.into_layers());
    let made = attempt(
        &cx.undo,
        entry,
        &resources,
        make(
            Arc::clone(&cx),
            plan,
            external,
            record,
            draft.pod,
            (layers.collect(), target),
        ),
    )
    .await;
    match made {
        Ok(()) => Ok(id),
        Err(failed) => {
            if let (Some(entry), Some(record)) = (failed.left_over, operation.container) {
                publish_left_over(&cx, record)?;
                operation::close(entry);
            }
            Err(failed.error)
        }
    }
}

/// The operations' key for a container of `pod`.
pub(crate) fn key(pod: &Pod, config: &cri::ContainerConfig) -> String {
    format!("container {} of pod {}", name_of(config), pod.record.id)
}

/// See [`super::name`].
pub(crate) fn name_of(config: &cri::ContainerConfig) -> String {
    config.metadata.as_ref().map(name).unwrap_or_default()
}

/// Keeps in sight what could not be undone of a container: it has ended, and is removed by its id or with its pod.
pub(crate) fn publish_left_over(cx: &Context, mut record: record::Container) -> Result<()> {
    let dir = layout::container_root(&cx.config.root, &record.id);
    private::create_dir_all(&dir).at("create", &dir)?;
    record.shim_may_live = true;
    let container = Container::new(record, State::Created, Vec::new());
    let exit = Exited {
        message: "the container could not be made, and what was made of it could not be undone"
            .into(),
        ..exit::unseen()
    };
    container.end(cx, exit, String::new());
    // What is not recorded stays in the ledger.
    container.save(cx)?;
    cx.store.restore_container(Arc::new(container));
    Ok(())
}

/// A container that is about to be made.
struct Draft {
    id: String,
    pod: Arc<Pod>,
    config: cri::ContainerConfig,
    image: Arc<Image>,
    layers: LayerHold,
    image_volumes: ImageVolumes,
    hash: Hash,
    /// The container whose PID namespace it joins.
    target: Option<Arc<Container>>,
}

fn draft(cx: &Context, pod: Arc<Pod>, config: cri::ContainerConfig, hash: Hash) -> Result<Draft> {
    let reference = config.image.as_ref().map_or("", |spec| &spec.image);
    let image = cx
        .images
        .resolve(reference)
        .ok_or_else(|| Error::not_found("image", reference))?;
    // Removed between the two looks.
    let layers = cx
        .images
        .hold(&image)
        .ok_or_else(|| Error::not_found("image", reference))?;
    Ok(Draft {
        id: crate::identity::random_id()?,
        image_volumes: ImageVolumes::hold(cx, &config.mounts)?,
        target: target(cx, &pod, &config)?,
        pod,
        config,
        image,
        layers,
        hash,
    })
}

impl Draft {
    /// Pin of the PID namespace of its target, if it has one.
    fn target_pids(&self, cx: &Context) -> Option<PathBuf> {
        let state_dir = layout::container_state(&cx.config.state, &self.id);
        let pin = state_dir.join(layout::TARGET_PIDS);
        self.target.as_ref().map(|_| pin)
    }

    fn record(&self, cx: &Context, plan: &Plan) -> record::Container {
        let cgroup = plan
            .cgroup
            .as_ref()
            .map(|cgroup| cgroup.path.clone())
            .unwrap_or_default();
        let state_dir = layout::container_state(&cx.config.state, &self.id);
        let root_dir = layout::container_root(&cx.config.root, &self.id);
        let mut resources = vec![
            Kind::Directory(state_dir.display().to_string()),
            Kind::Directory(root_dir.display().to_string()),
            Kind::Cgroup(cgroup.clone()),
            Kind::Shim(self.id.clone()),
        ];
        let pin = self.target_pids(cx);
        resources.extend(pin.map(|pin| Kind::Pin(pin.display().to_string())));
        let mut config = self.config.clone();
        self.image_volumes.tell(&mut config.mounts);
        record::Container {
            id: self.id.clone(),
            pod_id: self.pod.record.id.clone(),
            config: Some(config),
            image_id: self.image.id.clone(),
            image_ref: self
                .image
                .repo_digests
                .first()
                .unwrap_or(&self.image.id)
                .clone(),
            created_at_ns: clock::unix_nanos(),
            layers: self.layers.names().to_vec(),
            stop_signal: spec::stop_signal(&self.config, &self.image.config),
            cgroup,
            request_hash: self.hash.to_vec(),
            resources: resources
                .into_iter()
                .map(|kind| Resource { kind: Some(kind) })
                .collect(),
            boot_id: cx.boot_id.clone(),
            log_path: plan
                .log
                .as_ref()
                .map(|log| log.path.clone())
                .unwrap_or_default(),
            mounts: plan.mounts.clone(),
            image_volumes: self.image_volumes.records(),
            limits: spec::limits(&self.config, plan),
            ..record::Container::default()
        }
    }
}

async fn plan(cx: &Context, draft: &Draft) -> Result<(Plan, Option<External>)> {
    let options = spec::pod_namespaces(draft.pod.config());
    let paths = pod::run::Paths::of(cx, &draft.pod.record.id, &options);
    let pod_state = layout::pod_state(&cx.config.state, &draft.pod.record.id);
    let pod = spec::Pod {
        id: &draft.pod.record.id,
        config: draft.pod.config(),
        state_dir: &pod_state,
        etc: &pod::files::etc(&draft.pod.record, &pod_state),
        netns: paths.net.as_deref(),
        ipc: paths.ipc.as_deref(),
        uts: paths.uts.as_deref(),
        pid: paths.pid.as_deref(),
        user: paths.user.as_deref(),
        cgroup_parent: &draft.pod.record.cgroup_parent,
        delegated: draft.pod.record.scope.is_some(),
        selinux_level: &draft.pod.record.selinux_level,
    };
    let seccomp_profile = match spec::seccomp_localhost_path(&draft.config)? {
        Some(path) => Some(blocking(move || Ok(spec::read_seccomp_profile(&path)?)).await?),
        None => None,
    };
    let apparmor_profile = cx
        .apparmor
        .resolve(spec::apparmor(&draft.config, &cx.host)?)
        .await?;
    let mut lower = draft.layers.lower_dirs().to_vec();
    lower.push(layout::skeleton(&cx.config.root));
    let root_dir = layout::container_root(&cx.config.root, &draft.id);
    let volumes_dir = root_dir.join("volumes");
    let target_pids = draft.target_pids(cx);
    let container = spec::Container {
        id: &draft.id,
        config: &draft.config,
        image: &draft.image.config,
        lower: &lower,
        image_volumes: &draft.image_volumes.lower_dirs(cx),
        absent_sources_to_reject: &cx.config.container.absent_mount_sources_to_reject,
        root_dir: &root_dir,
        volumes_dir: (cx.config.container.declared_volumes == DeclaredVolumes::Copy)
            .then_some(&volumes_dir),
        state_dir: &layout::container_state(&cx.config.state, &draft.id),
        target_pids: target_pids.as_deref(),
        injection: &injection(cx, &draft.config).await?,
        seccomp_profile: seccomp_profile.as_deref(),
        apparmor_profile: apparmor_profile.as_deref(),
    };
    let plan = spec::plan(&cx.host, &pod, &container, &cx.defaults)?;
    selinux::check(&plan).await?;
    if pod.selinux_level.is_empty() && spec::asks_for_selinux(&draft.config) {
        tracing::info!(
            container = draft.id,
            "SELinux options are of no effect: the host has no SELinux, or container.selinux is off"
        );
    }
    let external = External::plan(cx, &draft.pod, &container, &plan)?;
    Ok((plan, external))
}

/// What the CDI devices of a container add to it.
async fn injection(cx: &Context, config: &cri::ContainerConfig) -> Result<Injection> {
    let requests = cdi::requests(config)?;
    if requests.is_empty() {
        return Ok(Injection::default());
    }
    let cdi = Arc::clone(&cx.cdi);
    blocking(move || Ok(cdi.inject(&requests)?)).await
}

/// The container whose PID namespace one of this configuration joins (CRI, NamespaceMode TARGET).
fn target(
    cx: &Context,
    pod: &Pod,
    config: &cri::ContainerConfig,
) -> Result<Option<Arc<Container>>> {
    let context = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let Some(options) = context.and_then(|context| context.namespace_options.as_ref()) else {
        return Ok(None);
    };
    if options.pid() != NamespaceMode::Target {
        return Ok(None);
    }
    let target = cx
        .store
        .container(&options.target_id)
        .map_err(|error| Error::invalid(TARGET, error.to_string()))?;
    if target.record.pod_id != pod.record.id {
        return Err(Error::invalid(
            TARGET,
            format!("container {} is in another pod", options.target_id),
        ));
    }
    match target.state() {
        State::Running { .. } => Ok(Some(target)),
        _ => Err(Error::invalid(
            TARGET,
            format!("container {} does not run", options.target_id),
        )),
    }
}

/// PID namespace of `target`, from its shim: a number may be another process's by the time that it is looked up.
async fn target_pids(target: &Container) -> Result<OwnedFd> {
    let shim = target.running_shim()?;
    shim.pid_namespace().await.map_err(|source| Error::Shim {
        doing: format!(
            "ask the shim of container {} ({TARGET}) for its PID namespace",
            target.record.id
        ),
        source,
    })
}

/// The layers begin with those of the root. The PID namespace is another container's, to be joined.
async fn make(
    cx: Arc<Context>,
    plan: Plan,
    external: Option<External>,
    mut record: record::Container,
    pod: Arc<Pod>,
    (layers, target): (Vec<LayerHold>, Option<OwnedFd>),
) -> Result<()> {
    let state_dir = layout::container_state(&cx.config.state, &record.id);
    let root_dir = layout::container_root(&cx.config.root, &record.id);
    let dirs = (state_dir.clone(), root_dir);
    let volumes = declared_volumes(&plan);
    let root = layers.first().map(LayerHold::lower_dirs);
    let top = root.and_then(<[_]>::first).cloned();
    let ids = plan.user_namespace.clone();
    let is_own_level = spec::is_own_level(&plan.mount_label, &pod.record.selinux_level);
    let pod_state = layout::pod_state(&cx.config.state, &pod.record.id);
    let etc = pod::files::etc(&pod.record, &pod_state);
    blocking(move || {
        if is_own_level {
            pod::files::share(&etc)?;
        }
        create_dirs(&dirs.0, &dirs.1, top.as_deref(), ids.as_ref())?;
        if let Some(target) = target {
            let pin = dirs.0.join(layout::TARGET_PIDS);
            let source = format!("/proc/self/fd/{}", target.as_raw_fd());
            ns::pin_file(Path::new(&source), &pin).at("pin a PID namespace on", &pin)?;
        }
        volumes
            .iter()
            .try_for_each(|dir| fs::create_dir_all(dir).at("create", dir))
    })
    .await?;

    let failed = |doing: &'static str| move |source| Error::of_shim(doing, source);
    let started = cx
        .launcher
        .start(&record.id, &state_dir)
        .map_err(failed("start the container's shim"))?;
    if let Some(scope) = &pod.record.scope {
        let _turn = pod.placing.lock().await;
        systemd::place(&cx.undo.hierarchies, scope, started.pid).await?;
    }
    let (client, events) = started
        .connect()
        .await
        .map_err(failed("start the container's shim"))?;
    let events = tokio::spawn(events.end());
    let template = cx.launcher.template();
    let creating = async {
        match external {
            Some(external) => external.create(&client, plan, template).await,
            None => {
                let created = client.create(plan, template).await;
                created.map_err(failed("create the container's environment"))
            }
        }
    };
    // A volume that hangs does not hold up the end of the pod.
    let created = tokio::select! {
        created = creating => created?,
        () = pod.stopped() => return Err(pod.not_ready()),
    };
    for warning in &created.warnings {
        tracing::warn!(container = %record.id, warning, "a container is not wholly as it was asked for");
    }
    record.init_pid = created.init_pid;
    record.user = created.identity;
    record_file::write(&super::record_path(&cx, &record.id), &record)?;

    let container = Arc::new(Container::new(record, State::Created, layers));
    container.set_shim(Some(Arc::new(client)));
    cx.store.publish_container(Arc::clone(&container))?;
    tokio::spawn(exit::supervise(cx, container, events));
    Ok(())
}

/// The directories of the volumes that the image declares.
fn declared_volumes(plan: &Plan) -> Vec<PathBuf> {
    let sources = plan.mounts.iter().filter_map(|mount| match &mount.kind {
        Some(mount::Kind::Declared(volume)) => Some(PathBuf::from(&volume.source)),
        _ => None,
    });
    sources.collect()
}

/// upper and work are new for every attempt: a volatile overlay refuses a used workdir (overlayfs.rst, "Volatile mount").
/// The root directory looks as in `top`, the image's topmost layer, and belongs to the same user of the pod.
fn create_dirs(
    state_dir: &Path,
    root_dir: &Path,
    top: Option<&Path>,
    ids: Option<&UserNamespace>,
) -> Result<()> {
    private::create_dir(state_dir).at("create", state_dir)?;
    private::create_dir(root_dir).at("create", root_dir)?;
    let (upper, work) = (root_dir.join("upper"), root_dir.join("work"));
    fs::create_dir(&upper).at("create", &upper)?;
    private::create_dir(&work).at("create", &work)?;
    if let Some(top) = top {
        let looks = fs::metadata(top).at("stat", top)?;
        let (uid, gid) = spec::owner(ids, looks.uid(), looks.gid());
        chown(&upper, Some(uid), Some(gid)).at("chown", &upper)?;
        fs::set_permissions(&upper, looks.permissions()).at("chmod", &upper)?;
    }
    Ok(())
}
