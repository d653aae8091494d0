//! Networks for pods by the container network interface (CNI spec 1.1): configurations, the plugins that are built in, others
//! as programs, and what each pod was attached with.
#![forbid(unsafe_code)]

mod attachment;
mod builtin;
mod cache;
mod chain;
mod conflist;
mod dev_network;
mod error;
mod exec;
mod netlink;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

pub use attachment::{Attached, Attachment, PortMapping, Protocol};
use builtin::Builtin;
use cache::Cache;
use conflist::Conflist;
pub use error::Error;
use netlink::nft::Table;
use serde_json::Value;

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
    cache: Cache,
    builtin: Arc<Builtin>,
    loaded: Mutex<Option<Loaded>>,
    pod_cidrs: Mutex<Vec<String>>,
}

/// A configuration, and what the directory looked like when it was read.
#[derive(Debug)]
struct Loaded {
    seen: Vec<(PathBuf, Option<SystemTime>, u64)>,
    conflist: Arc<Conflist>,
}

/// The configuration that pods are attached with.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    /// `None` for the embedded one.
    pub file: Option<PathBuf>,
    pub conflist: Value,
}

impl Cni {
    pub fn new(options: Options) -> Self {
        let table = Arc::new(Table::new(&options.instance));
        let builtin = Builtin {
            table,
            data_dir: options.data_dir.clone(),
        };
        Self(Arc::new(Inner {
            cache: Cache::new(options.cache_dir.clone()),
            builtin: Arc::new(builtin),
            loaded: Mutex::new(None),
            pod_cidrs: Mutex::default(),
            options,
        }))
    }

    /// The configuration that the next pod is attached with.
    ///
    /// # Errors
    /// Why there is none: the condition NetworkReady.
    pub fn status(&self) -> Result<Network, Error> {
        let conflist = self.conflist()?;
        self.check_plugins(&conflist)?;
        Ok(Network {
            name: conflist.name.clone(),
            file: conflist.file.clone(),
            conflist: conflist.to_json(),
        })
    }

    /// The node's pod networks as the kubelet tells them; for plugins with the capability `ipRanges`.
    pub fn set_pod_cidrs(&self, cidrs: Vec<String>) {
        *self
            .0
            .pod_cidrs
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = cidrs;
    }

    /// Attaches a pod: `lo` and what the configuration says. What a failed attempt has made is undone.
    ///
    /// # Errors
    /// In the failed plugin's own words.
    pub async fn add(&self, pod: Attachment) -> Result<Attached, Error> {
        let conflist = self.conflist()?;
        chain::add(self, &conflist, pod).await
    }

    /// Detaches a pod with the configuration that it was attached with. One that is not attached is detached.
    pub async fn del(&self, pod: Attachment) -> Result<(), Error> {
        chain::del(self, pod).await
    }

    /// Takes away what the built-in plugins have made for all pods, when no pod is attached any more.
    pub async fn cleanup(&self) {
        if !self.0.cache.is_empty() {
            return;
        }
        let (builtin, options) = (Arc::clone(&self.0.builtin), self.0.options.clone());
        let clean = move || {
            builtin.table.remove()?;
            builtin::remove_bridge(&dev_network::bridge(&options.instance))?;
            dev_network::forget(&options.cache_dir)
        };
        match tokio::task::spawn_blocking(clean).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the network could not be taken away"),
            Err(error) => tracing::error!(%error, "taking the network away panicked"),
        }
    }

    fn pod_cidrs(&self) -> Vec<String> {
        self.0
            .pod_cidrs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until what detached pods have left is gone.
    pub async fn wait_idle(&self) {}

    /// From memory while the directory looks as it did.
    fn conflist(&self) -> Result<Arc<Conflist>, Error> {
        let options = &self.0.options;
        let seen = conflist::fingerprint(&options.conf_dir);
        let mut loaded = self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.seen == seen) {
            return Ok(Arc::clone(&loaded.conflist));
        }
        let conflist = match conflist::load(&options.conf_dir)? {
            Some(conflist) => conflist,
            None if options.dev_network => {
                dev_network::conflist(&options.instance, &options.cache_dir)?
            }
            None => {
                return Err(Error::NoConfiguration {
                    dir: options.conf_dir.display().to_string(),
                });
            }
        };
        let conflist = Arc::new(conflist);
        *loaded = Some(Loaded {
            seen,
            conflist: Arc::clone(&conflist),
        });
        Ok(conflist)
    }

    fn check_plugins(&self, conflist: &Conflist) -> Result<(), Error> {
        for plugin in &conflist.plugins {
            let kind = plugin
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !self.is_built_in(plugin) && exec::find(kind, &self.0.options.bin_dirs).is_none() {
                return Err(self.missing(kind, conflist));
            }
        }
        Ok(())
    }

    fn is_built_in(&self, plugin: &serde_json::Map<String, Value>) -> bool {
        self.0.options.builtin && builtin::has(plugin)
    }

    fn missing(&self, plugin: &str, conflist: &Conflist) -> Error {
        let dirs = self
            .0
            .options
            .bin_dirs
            .iter()
            .map(|dir| dir.display().to_string());
        Error::MissingPlugin {
            plugin: plugin.to_owned(),
            file: conflist.file_name(),
            dirs: dirs.collect::<Vec<_>>().join(", "),
        }
    }
}
