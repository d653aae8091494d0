//! `corten serve`: brings everything up, serves until a signal comes, drains. Containers run on.

mod authority;
mod connections;
mod directories;
mod socket;

use std::{path::Path, sync::Arc, time::Duration};

use corten_cni::Cni;
use corten_image::ImageService;
use corten_proto::{
    admin::admin_server::AdminServer,
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    shim::LogLimit,
};
use corten_sys::cgroup::{Cgroup, Hierarchies};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tonic::service::Routes;

use crate::{
    admin,
    apparmor::Profiles,
    blocking::blocking,
    cdi::Cdi,
    config::{CgroupDriver, Config},
    context::Context,
    error::{Error, Result},
    identity,
    limit::{Count, Gate},
    operation::{Ledger, Operations, Undo},
    recovery, rpc,
    selinux::{self, Levels},
    shim::Launcher,
    spec,
    store::Store,
    streaming, systemd,
};

/// How long a SIGTERM waits for operations in flight. What goes on for longer, such as a pull, is taken up anew after the
/// next start.
const DRAIN: Duration = Duration::from_secs(20);
/// As much as the kubelet's client takes and sends.
const MAX_MESSAGE: usize = 16 << 20;

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(config: Config) -> Result<()> {
    let socket_path = config.socket();
    let streams = streaming::Listener::bind(&config.streaming).await?;
    let (cx, _lock) = bring_up(config, streaming::Tokens::new(streams.base())).await?;
    recovery::recover(&cx).await?;
    let socket = socket::bind(&socket_path)?;
    let (mut terminate, mut interrupt) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let signalled = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
    };

    let server = rpc::Server {
        cx: Arc::clone(&cx),
    };
    let admin = admin::Server {
        cx: Arc::clone(&cx),
    };
    let routes = Routes::new(
        RuntimeServiceServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE),
    )
    .add_service(ImageServiceServer::new(server).max_decoding_message_size(MAX_MESSAGE))
    .add_service(AdminServer::new(admin));
    tracing::info!(socket = %socket_path.display(), instance = cx.instance, "serving");
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let (ends, ending) = watch::channel(());
    let streaming = tokio::spawn(streaming::serve(Arc::clone(&cx), streams, ending));
    connections::serve(socket, routes.prepare(), signalled).await;
    drop(ends);
    let _ = streaming.await;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    drain(&cx, &socket_path).await;
    Ok(())
}

fn on(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|source| Error::Io {
        doing: "listen for signals".into(),
        source,
    })
}

async fn bring_up(
    config: Config,
    tokens: streaming::Tokens,
) -> Result<(Arc<Context>, directories::Lock)> {
    let dirs_config = config.clone();
    let lock = blocking(move || directories::prepare(&dirs_config)).await?;
    let instance = identity::instance(&config.root)?;
    let images = ImageService::open(corten_image::Options {
        root: config.root.clone(),
        certs_dirs: vec![config.certs_dir.clone()],
        max_concurrent_downloads: config.image.max_concurrent_downloads,
        progress_timeout: Duration::from_secs(config.image.pull_progress_timeout),
        resume_window: Duration::from_secs(config.image.pull_resume_window),
        keep_blobs: config.image.keep_blobs,
        pinned: config.image.pinned.clone(),
        policy: config.image.policy(),
        layer_hosts: config.image.layer_hosts.clone(),
    })
    .await
    .map_err(|source| Error::Image {
        reference: "image store".into(),
        source,
    })?;
    let cni = Cni::new(corten_cni::Options {
        conf_dir: config.cni.conf_dir.clone(),
        bin_dirs: config.cni.bin_dirs.clone(),
        cache_dir: config.cni_cache_dir(),
        builtin: config.cni.builtin,
        dev_network: config.cni.dev_network,
        instance: instance.clone(),
        data_dir: config.cni.data_dir.clone(),
        timeout: Duration::from_secs(config.cni.plugin_timeout),
    });
    let hierarchies = Hierarchies::detect().map_err(|source| Error::Io {
        doing: "find the cgroup hierarchies".into(),
        source,
    })?;
    systemd::check(config.cgroup_driver, &hierarchies)?;
    let launcher = Launcher::new(config.shim()).map_err(|source| Error::Io {
        doing: "prepare the shim".into(),
        source,
    })?;
    let selinux_levels = Arc::new(Levels::default());
    let mut host = spec::Host::probe().map_err(|source| Error::Io {
        doing: "probe the host".into(),
        source,
    })?;
    host.user_namespaces = probe_user_namespaces(&launcher, &config.root).await;
    host.selinux &= config.container.selinux;
    let cx = Context {
        boot_id: identity::boot()?,
        host,
        defaults: defaults(&config),
        store: Store::default(),
        operations: Operations::default(),
        ledger: Ledger::open(&config.root)?,
        undo: Undo {
            cni: cni.clone(),
            hierarchies: Arc::new(hierarchies),
            selinux_levels: Arc::clone(&selinux_levels),
        },
        cni,
        images,
        cdi: Arc::new(Cdi::new(config.cdi_dirs.clone())),
        launcher,
        walks: crate::stats::Walks::default(),
        apparmor: Profiles::default(),
        selinux_levels,
        tokens,
        pulls: Gate::of_pulls(&config),
        creations: Gate::of_creations(&config),
        exec_syncs: Count::default(),
        conditions: std::sync::Mutex::default(),
        instance,
        config,
    };
    if cx.host.selinux {
        label_layers(&cx).await?;
    }
    let cdi = Arc::clone(&cx.cdi);
    // So that Status knows of broken files before a container asks.
    tokio::task::spawn_blocking(move || drop(cdi.look()));
    Ok((Arc::new(cx), lock))
}

/// A policy may not have the label; then all works but containers.
async fn label_layers(cx: &Context) -> Result<()> {
    let root = cx.config.root.clone();
    let labelled = blocking(move || Ok(selinux::label_layers(&root))).await?;
    if let Err(error) = labelled {
        cx.add_condition(format!(
            "layers lack their SELinux label, and containers may be kept from running: {}: install the policy for containers, or turn labels off (container.selinux)",
            error.chain()
        ));
    }
    Ok(())
}

/// What is tried out lies beside the layers, whose file system it is about.
async fn probe_user_namespaces(launcher: &Launcher, root: &Path) -> Result<(), String> {
    let dir = root.join("probe");
    // One that an earlier daemon was killed over.
    let _ = std::fs::remove_dir_all(&dir);
    let probed = launcher.probe_user_namespaces(&dir).await;
    let _ = std::fs::remove_dir_all(&dir);
    probed.map_err(|error| {
        let reason = error.to_string();
        tracing::warn!(reason, "pods cannot have user namespaces");
        reason
    })
}

fn defaults(config: &Config) -> spec::Defaults {
    let container = &config.container;
    spec::Defaults {
        pids_limit: container.pids_limit.into(),
        nofile: (container.nofile_hard != 0)
            .then_some((container.nofile_soft, container.nofile_hard)),
        max_log_line: container.log_line_max,
        log_limit: (container.log_rate_limit != 0).then_some(LogLimit {
            rate: container.log_rate_limit,
            burst: container.log_rate_burst,
        }),
    }
}

/// Waits for the operations in flight. A daemon without pods leaves nothing behind outside of `root`.
async fn drain(cx: &Arc<Context>, socket: &std::path::Path) {
    if timeout(DRAIN, cx.operations.drain()).await.is_err() {
        tracing::warn!("operations are still in flight; the next start undoes what they leave");
    }
    if let Err(error) = cx.images.close().await {
        tracing::warn!(%error, "the next start after a reboot verifies the newest layers");
    }
    let _ = std::fs::remove_file(socket);
    if cx.store.pods().is_empty() {
        cx.cni.cleanup().await;
        remove_slice(cx).await;
        let _ = directories::clear(cx);
    }
}

/// With systemd, that of pods that named no cgroup.
async fn remove_slice(cx: &Context) {
    let slice = cx.cgroup_root();
    let is_there = Cgroup::new(&cx.undo.hierarchies, &slice).exists();
    if cx.config.cgroup_driver != CgroupDriver::Systemd || !is_there {
        return;
    }
    if let Err(error) = systemd::stop_slice(&cx.slice()).await {
        tracing::warn!(error = error.chain(), "the slice stays");
    }
}
