//! The flags of `corten serve`: one a configuration key.

use std::path::PathBuf;

use super::{
    CgroupDriver, Config, DeclaredVolumes, LogFormat, LogLevel, streaming::StreamingFlags,
    without_scheme,
};

/// What stands on the command line wins over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Durable data
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Data that ends with a reboot
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the CRI is served
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Registry settings, <DIR>/<host>/hosts.toml
    #[arg(long, value_name = "DIR")]
    certs_dir: Option<PathBuf>,
    /// Where network namespaces are pinned
    #[arg(long, value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    /// CDI files; may be given more than once, later ones win
    #[arg(long, value_name = "DIR")]
    cdi_dir: Vec<PathBuf>,
    /// Who makes cgroups: cgroupfs or systemd
    #[arg(long, value_name = "DRIVER", value_parser = |name: &str| CgroupDriver::try_from(name.to_owned()))]
    cgroup_driver: Option<CgroupDriver>,
    /// The shim's binary
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    #[arg(long, value_enum)]
    log_level: Option<LogLevel>,
    #[command(flatten)]
    cni: CniFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    streaming: StreamingFlags,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct CniFlags {
    /// Network configurations
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Searched for plugins; may be given more than once
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Vec<PathBuf>,
    /// What each pod was attached with
    #[arg(long, value_name = "DIR")]
    cni_cache_dir: Option<PathBuf>,
    /// Addresses in use
    #[arg(long, value_name = "DIR")]
    cni_data_dir: Option<PathBuf>,
    /// Run the built-in plugins in the daemon
    #[arg(long, value_name = "BOOL")]
    cni_builtin: Option<bool>,
    /// Seconds that one plugin may take
    #[arg(long, value_name = "SECONDS")]
    cni_plugin_timeout: Option<u64>,
    /// Make a bridge network where there is no configuration
    #[arg(long)]
    dev_network: bool,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct LimitFlags {
    /// Layers of one image that are fetched at once
    #[arg(long, value_name = "N")]
    max_concurrent_downloads: Option<usize>,
    /// Images that are pulled at once
    #[arg(long, value_name = "N")]
    max_concurrent_pulls: Option<usize>,
    /// Seconds without a byte after which a pull fails
    #[arg(long, value_name = "SECONDS")]
    pull_progress_timeout: Option<u64>,
    /// Seconds that a failed pull's bytes wait for the next pull
    #[arg(long, value_name = "SECONDS")]
    pull_resume_window: Option<u64>,
    /// Keep blobs after they are unpacked
    #[arg(long)]
    keep_blobs: bool,
    /// Name of an image to keep; `*` stands for any characters; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pinned_image: Vec<String>,
    /// Processes per container where the request has no limit
    #[arg(long, value_name = "N")]
    pids_limit: Option<u32>,
    /// Longest line of a container's log, bytes
    #[arg(long, value_name = "BYTES")]
    log_line_max: Option<u32>,
    /// Bytes per second that a container's log may grow by; 0 is no limit
    #[arg(long, value_name = "BYTES")]
    log_rate_limit: Option<u32>,
    /// Bytes that may come into it at once
    #[arg(long, value_name = "BYTES")]
    log_rate_burst: Option<u32>,
    /// RLIMIT_NOFILE of containers
    #[arg(long, value_name = "N")]
    nofile_soft: Option<u64>,
    #[arg(long, value_name = "N")]
    nofile_hard: Option<u64>,
    /// Volumes that images declare
    #[arg(long, value_enum)]
    declared_volumes: Option<DeclaredVolumes>,
    /// Source of a mount that is not made where it is missing; may be repeated
    #[arg(long, value_name = "PATH")]
    absent_mount_source_to_reject: Vec<PathBuf>,
    /// Label containers where the host has SELinux
    #[arg(long, value_name = "BOOL")]
    selinux: Option<bool>,
    /// Seconds that a command's output is waited for once it has ended itself
    #[arg(long, value_name = "SECONDS")]
    exec_drain_timeout: Option<u64>,
    /// Commands and attached clients of one container at once
    #[arg(long, value_name = "N")]
    max_container_sessions: Option<usize>,
    /// Commands of ExecSync in all containers at once
    #[arg(long, value_name = "N")]
    max_exec_syncs: Option<usize>,
    /// Pods and containers that are made at once
    #[arg(long, value_name = "N")]
    max_concurrent_creations: Option<usize>,
}

impl Flags {
    pub(super) fn apply(&self, config: &mut Config) {
        set(&mut config.root, &self.root);
        set(&mut config.state, &self.state);
        set(
            &mut config.socket,
            &self.socket.as_deref().map(without_scheme),
        );
        set(&mut config.certs_dir, &self.certs_dir);
        set(&mut config.netns_dir, &self.netns_dir);
        if !self.cdi_dir.is_empty() {
            config.cdi_dirs.clone_from(&self.cdi_dir);
        }
        set(&mut config.cgroup_driver, &self.cgroup_driver);
        set(&mut config.shim, &self.shim);
        set(&mut config.log_format, &self.log_format);
        set(&mut config.log_level, &self.log_level);
        self.cni.apply(config);
        self.limits.apply(config);
        self.streaming.apply(&mut config.streaming);
    }
}

impl CniFlags {
    fn apply(&self, config: &mut Config) {
        let cni = &mut config.cni;
        set(&mut cni.conf_dir, &self.cni_conf_dir);
        if !self.cni_bin_dir.is_empty() {
            cni.bin_dirs.clone_from(&self.cni_bin_dir);
        }
        set(&mut cni.cache_dir, &self.cni_cache_dir);
        set(&mut cni.data_dir, &self.cni_data_dir);
        set(&mut cni.builtin, &self.cni_builtin);
        set(&mut cni.plugin_timeout, &self.cni_plugin_timeout);
        cni.dev_network |= self.dev_network;
    }
}

impl LimitFlags {
    fn apply(&self, config: &mut Config) {
        set(
            &mut config.image.max_concurrent_downloads,
            &self.max_concurrent_downloads,
        );
        set(
            &mut config.image.max_concurrent_pulls,
            &self.max_concurrent_pulls,
        );
        set(
            &mut config.image.pull_progress_timeout,
            &self.pull_progress_timeout,
        );
        set(
            &mut config.image.pull_resume_window,
            &self.pull_resume_window,
        );
        config.image.keep_blobs |= self.keep_blobs;
        if !self.pinned_image.is_empty() {
            config.image.pinned.clone_from(&self.pinned_image);
        }
        set(&mut config.container.pids_limit, &self.pids_limit);
        set(&mut config.container.log_line_max, &self.log_line_max);
        set(&mut config.container.log_rate_limit, &self.log_rate_limit);
        set(&mut config.container.log_rate_burst, &self.log_rate_burst);
        set(&mut config.container.nofile_soft, &self.nofile_soft);
        set(&mut config.container.nofile_hard, &self.nofile_hard);
        set(
            &mut config.container.declared_volumes,
            &self.declared_volumes,
        );
        if !self.absent_mount_source_to_reject.is_empty() {
            let rejected = &mut config.container.absent_mount_sources_to_reject;
            rejected.clone_from(&self.absent_mount_source_to_reject);
        }
        set(&mut config.container.selinux, &self.selinux);
        set(
            &mut config.container.exec_drain_timeout,
            &self.exec_drain_timeout,
        );
        let container = &mut config.container;
        set(&mut container.max_sessions, &self.max_container_sessions);
        set(&mut container.max_exec_syncs, &self.max_exec_syncs);
        set(
            &mut container.max_concurrent_creations,
            &self.max_concurrent_creations,
        );
    }
}

pub(super) fn set<T: Clone>(value: &mut T, flag: &Option<T>) {
    if let Some(flag) = flag {
        value.clone_from(flag);
    }
}
