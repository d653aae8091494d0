//! Networks for pods by the container network interface (CNI spec 1.1 and its predecessors): configurations, the plugins that
//! are built in, others as programs, and what each pod was attached with.
#![forbid(unsafe_code)]

mod attachment;
mod builtin;
mod cache;
mod chain;
mod conflist;
mod dev_network;
mod directory;
mod error;
mod exec;
mod netlink;
mod reaper;
mod result;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use attachment::{Attached, Attachment, Bandwidth, Capabilities, Dns, PortMapping, Protocol};
use builtin::Builtin;
use cache::Cache;
use directory::Directory;
pub use error::Error;
use error::{Doing, Result};
pub use netlink::Counters;
use netlink::{Links, nft::Table};
use reaper::Reaper;
use serde_json::Value;
use tokio::task::spawn_blocking;

#[derive(Clone, Debug)]
pub struct Options {
    /// Configurations; the first valid one by name is used.
    pub conf_dir: PathBuf,
    /// Searched in order for programs.
    pub bin_dirs: Vec<PathBuf>,
    /// What each pod was attached with.
    pub cache_dir: PathBuf,
    /// Run the plugins that are built in, and not their programs.
    pub builtin: bool,
    /// Use a network of our own where `conf_dir` has no configuration.
    pub dev_network: bool,
    /// 8 hexadecimal digits that mark what is this daemon's.
    pub instance: String,
    /// host-local's addresses.
    pub data_dir: PathBuf,
    /// What one program may take.
    pub timeout: Duration,
}

/// The networks of one daemon.
#[derive(Clone, Debug)]
pub struct Cni(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    networks: Directory,
    cache: Arc<Cache>,
    builtin: Builtin,
    pod_cidrs: Mutex<Vec<String>>,
}

/// The configuration that pods are attached with.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    /// `None` for the embedded one.
    pub file: Option<PathBuf>,
    pub conflist: Value,
}

/// What has gone through the interfaces of the network namespace that is pinned on `netns`, without loopback. The one that
/// pods are attached by comes first. Blocks.
///
/// # Errors
/// When the namespace cannot be entered or asked.
pub fn counters(netns: &Path) -> io::Result<Vec<Counters>> {
    let mut counters = Links::open_in(netns)?.counters()?;
    counters.sort_by_key(|counters| counters.name != attachment::INTERFACE);
    Ok(counters)
}

impl Cni {
    /// Goes on with what an earlier daemon of this instance has left of detached pods.
    pub fn new(options: Options) -> Self {
        let cache = Arc::new(Cache::new(options.cache_dir.clone()));
        let reaper = Arc::new(Reaper::new(&options.instance, Arc::clone(&cache)));
        let builtin = Builtin {
            table: Table::new(&options.instance),
            reaper,
            cache: Arc::clone(&cache),
            data_dir: options.data_dir.clone(),
        };
        for entry in cache.leaving() {
            match builtin.leaving(&entry) {
                Ok(leaving) => leaving
                    .into_iter()
                    .for_each(|left| builtin.reaper.take(left)),
                Err(error) => tracing::warn!(%error, "what a detached pod has left stays"),
            }
        }
        Self(Arc::new(Inner {
            networks: Directory::new(&options),
            cache,
            builtin,
            pod_cidrs: Mutex::default(),
            options,
        }))
    }

    /// The configuration that the next pod is attached with: from memory, after a look at the directory.
    ///
    /// # Errors
    /// Why there is none: the condition NetworkReady.
    pub fn status(&self) -> Result<Network> {
        let conflist = self.0.networks.current()?;
        self.0.check_plugins(&conflist)?;
        Ok(Network {
            name: conflist.name.clone(),
            file: conflist.file.clone(),
            conflist: conflist.to_json(),
        })
    }

    /// The node's pod networks as the kubelet tells them; for plugins with the capability `ipRanges`.
    pub fn set_pod_cidrs(&self, cidrs: Vec<String>) {
        let mut pod_cidrs = self
            .0
            .pod_cidrs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *pod_cidrs = cidrs;
    }

    /// Attaches a pod: `lo` and what the configuration says. What a failed attempt has made is undone.
    ///
    /// # Errors
    /// In the failed plugin's own words.
    pub async fn add(&self, pod: Attachment) -> Result<Attached> {
        self.blocking("attach a pod", |cni| chain::add(cni, pod))
            .await
    }

    /// Detaches a pod with the configuration that it was attached with. One that is not attached is detached. Nobody reaches
    /// it any more; its link and addresses are on their way back, see [`Self::wait_idle`].
    ///
    /// # Errors
    /// Of the first plugin that failed, after all were asked. The call can be repeated.
    pub async fn del(&self, pod: Attachment) -> Result<()> {
        self.blocking("detach a pod", |cni| chain::del(cni, pod))
            .await
    }

    /// Waits until what detached pods have left is gone, for some seconds.
    pub async fn wait_idle(&self) {
        let waited = self.blocking("wait for links", |cni| {
            cni.builtin.reaper.wait();
            Ok(())
        });
        if let Err(error) = waited.await {
            tracing::error!(%error, "waiting for the network");
        }
    }

    /// Takes away what the built-in plugins have made for all pods, when no pod is attached any more.
    pub async fn cleanup(&self) {
        let cleaned = self.blocking("take the network away", Inner::cleanup);
        if let Err(error) = cleaned.await {
            tracing::warn!(%error, "the network could not be taken away");
        }
    }

    /// All work here is on files, netlink and programs.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cni = Arc::clone(&self.0);
        let ended = spawn_blocking(move || work(&cni)).await;
        ended.map_err(std::io::Error::other).doing(|| what.into())?
    }
}

impl Inner {
    fn pod_cidrs(&self) -> Vec<String> {
        let pod_cidrs = self
            .pod_cidrs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pod_cidrs.clone()
    }

    fn cleanup(&self) -> Result<()> {
        self.builtin.reaper.wait();
        if !self.cache.is_empty() {
            return Ok(());
        }
        let table = self.builtin.table.remove();
        table.doing(|| "delete the nf_tables table".into())?;
        let bridge = dev_network::bridge(&self.options.instance);
        Links::open()
            .and_then(|mut links| links.delete(&bridge))
            .doing(|| format!("delete bridge {bridge}"))?;
        dev_network::forget(&self.options.cache_dir).doing(|| "forget the network".into())
    }
}
