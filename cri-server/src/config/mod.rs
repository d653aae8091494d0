//! The daemon's configuration: defaults, then the file, then flags.

mod container;
mod flags;
mod handlers;
mod streaming;

use std::{
    fmt::Display,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

pub(crate) use container::{Container, DeclaredVolumes};
use corten_image::{PolicyRule, Requirement};
pub(crate) use flags::Flags;
pub(crate) use handlers::{Handler, Handlers};
use serde::{Deserialize, Serialize};
pub(crate) use streaming::{Streaming, Tls, TlsVersion};

/// The documented defaults, as `corten config default` prints them.
pub(crate) const DEFAULT: &str = include_str!("default.toml");
pub(crate) const DEFAULT_PATH: &str = "/etc/corten/config.toml";

/// A file of more bytes is not a configuration.
const MAX_FILE: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    socket: PathBuf,
    pub(crate) certs_dir: PathBuf,
    pub(crate) netns_dir: PathBuf,
    pub(crate) cdi_dirs: Vec<PathBuf>,
    pub(crate) cgroup_driver: CgroupDriver,
    shim: PathBuf,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: LogLevel,
    pub(crate) cni: Cni,
    pub(crate) image: Image,
    pub(crate) container: Container,
    pub(crate) streaming: Streaming,
    pub(crate) handlers: Handlers,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cni {
    pub(crate) conf_dir: PathBuf,
    pub(crate) bin_dirs: Vec<PathBuf>,
    cache_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) builtin: bool,
    pub(crate) dev_network: bool,
    /// Seconds.
    pub(crate) plugin_timeout: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Image {
    pub(crate) max_concurrent_downloads: usize,
    pub(crate) max_concurrent_pulls: usize,
    /// Seconds.
    pub(crate) pull_progress_timeout: u64,
    /// Seconds.
    pub(crate) pull_resume_window: u64,
    pub(crate) keep_blobs: bool,
    pub(crate) pinned: Vec<String>,
    pub(crate) layer_hosts: Vec<String>,
    policy: Vec<Rule>,
}

/// Whose images may be used.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    scope: String,
    require: Require,
    #[serde(default)]
    keys: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Require {
    Accept,
    Reject,
    Sigstore,
}

impl Image {
    pub(crate) fn policy(&self) -> Vec<PolicyRule> {
        let rules = self.policy.iter().map(|rule| PolicyRule {
            scope: rule.scope.clone(),
            requirement: match rule.require {
                Require::Accept => Requirement::Accept,
                Require::Reject => Requirement::Reject,
                Require::Sigstore => Requirement::Sigstore {
                    keys: rule.keys.clone(),
                },
            },
        });
        rules.collect()
    }

    fn check(&self) -> Result<(), Error> {
        let downloads = self.max_concurrent_downloads;
        within(
            "image.max_concurrent_downloads",
            downloads,
            1..=64,
            "downloads",
        )?;
        within(
            "image.max_concurrent_pulls",
            self.max_concurrent_pulls,
            1..=10_000,
            "pulls",
        )?;
        for host in &self.layer_hosts {
            let (scheme, name) = host.split_once("://").unwrap_or_default();
            let is_host = !name.is_empty() && !name.contains(['/', '?', '#', '@', ' ']);
            if !matches!(scheme, "http" | "https") || !is_host {
                let wanted = "want https://HOST or https://HOST:PORT, or http for https";
                return Err(invalid("image.layer_hosts", host, wanted));
            }
        }
        for rule in &self.policy {
            let of = |reason| Err(invalid("image.policy", &rule.scope, reason));
            let path = rule.scope.split_once('/').map_or("", |(_, path)| path);
            if rule.scope.is_empty() || rule.scope.ends_with('/') || path.contains([':', '@']) {
                return of(
                    "want * or a registry with, if need be, the beginning of a name, without a tag",
                );
            }
            if (rule.require == Require::Sigstore) == rule.keys.is_empty() {
                return of("want keys with sigstore, and only there");
            }
            if !rule.keys.iter().all(|key| key.is_absolute()) {
                return of("want absolute paths as keys");
            }
        }
        Ok(())
    }
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub(crate) enum CgroupDriver {
    Cgroupfs,
    Systemd,
}

impl TryFrom<String> for CgroupDriver {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            _ => Err(format!(
                "cgroup driver {name:?} is not known: want \"cgroupfs\" or \"systemd\""
            )),
        }
    }
}

impl From<CgroupDriver> for &'static str {
    fn from(driver: CgroupDriver) -> Self {
        match driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read {path}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} is larger than {MAX_FILE} bytes")]
    Size { path: String },
    #[error("{path}")]
    Parse {
        path: String,
        source: Box<toml::de::Error>,
    },
    #[error("{key} = {value:?}: {reason}")]
    Value {
        key: &'static str,
        value: String,
        reason: String,
    },
}

impl Config {
    /// Reads `path`, or the default path where a file is there, and puts `flags` over it.
    pub(crate) fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, Error> {
        let mut config = match path {
            Some(path) => Self::read(path)?,
            None if Path::new(DEFAULT_PATH).exists() => Self::read(Path::new(DEFAULT_PATH))?,
            None => Self::default(),
        };
        flags.apply(&mut config);
        config.check()?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let read = |source| Error::Read {
            path: name(),
            source,
        };
        if fs::metadata(path).map_err(read)?.len() > MAX_FILE {
            return Err(Error::Size { path: name() });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        toml::from_str(&text).map_err(|source| Error::Parse {
            path: name(),
            source: Box::new(source),
        })
    }

    fn check(&self) -> Result<(), Error> {
        let paths = [
            ("root", &self.root),
            ("state", &self.state),
            ("certs_dir", &self.certs_dir),
            ("netns_dir", &self.netns_dir),
            ("cni.conf_dir", &self.cni.conf_dir),
            ("cni.data_dir", &self.cni.data_dir),
        ];
        let cdi_dirs = self.cdi_dirs.iter().map(|dir| ("cdi_dirs", dir));
        let sources = &self.container.absent_mount_sources_to_reject;
        let sources = sources
            .iter()
            .map(|path| ("container.absent_mount_sources_to_reject", path));
        for (key, path) in paths.into_iter().chain(cdi_dirs).chain(sources) {
            if !path.is_absolute() {
                return Err(invalid(key, path.display(), "want an absolute path"));
            }
        }
        if self.root.starts_with(&self.state) || self.state.starts_with(&self.root) {
            return Err(invalid(
                "state",
                self.state.display(),
                "root and state must not lie in one another",
            ));
        }
        self.image.check()?;
        self.streaming.check()?;
        self.handlers.check()?;
        self.container.check()?;
        Ok(())
    }

    /// The path of the socket, without scheme.
    pub(crate) fn socket(&self) -> PathBuf {
        if self.socket.as_os_str().is_empty() {
            self.state.join("corten.sock")
        } else {
            without_scheme(&self.socket)
        }
    }

    pub(crate) fn cni_cache_dir(&self) -> PathBuf {
        if self.cni.cache_dir.as_os_str().is_empty() {
            self.root.join("cni")
        } else {
            self.cni.cache_dir.clone()
        }
    }

    /// The shim's binary, if one is configured.
    pub(crate) fn shim(&self) -> Option<&Path> {
        (!self.shim.as_os_str().is_empty()).then_some(&*self.shim)
    }
}

fn invalid(key: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::Value {
        key,
        value: value.to_string(),
        reason: reason.into(),
    }
}

/// Refuses a number outside of `range`; `unit` is said behind it.
fn within<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    range: RangeInclusive<T>,
    unit: &str,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!("want {} to {} {unit}", range.start(), range.end());
    Err(invalid(key, value, reason))
}

/// Takes `unix://` away, which `crictl` and the kubelet want and paths have not.
pub(crate) fn without_scheme(socket: &Path) -> PathBuf {
    match socket
        .to_str()
        .and_then(|text| text.strip_prefix("unix://"))
    {
        Some(path) => path.into(),
        None => socket.into(),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/corten".into(),
            state: "/run/corten".into(),
            socket: PathBuf::new(),
            certs_dir: "/etc/corten/certs.d".into(),
            netns_dir: "/run/netns".into(),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            cgroup_driver: CgroupDriver::Cgroupfs,
            shim: PathBuf::new(),
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            cni: Cni::default(),
            image: Image::default(),
            container: Container::default(),
            streaming: Streaming::default(),
            handlers: Handlers::default(),
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: PathBuf::new(),
            data_dir: "/var/lib/cni/networks".into(),
            builtin: true,
            dev_network: false,
            plugin_timeout: 60,
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            max_concurrent_pulls: 100,
            pull_progress_timeout: 300,
            pull_resume_window: 900,
            keep_blobs: false,
            pinned: Vec::new(),
            layer_hosts: Vec::new(),
            policy: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        assert_eq!(
            toml::from_str::<Config>(DEFAULT).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn the_printed_defaults_name_every_key() {
        let printed: toml::Table = toml::from_str(DEFAULT).unwrap();
        let known = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(printed, known);
    }

    #[test]
    fn a_wrong_key_is_told_with_its_line() {
        let error = toml::from_str::<Config>("root = \"/a\"\nrooot = \"/b\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("rooot"),
            "{error}"
        );
    }

    #[test]
    fn drivers_are_known_by_name() {
        let driver = |name| toml::from_str::<Config>(&format!("cgroup_driver = {name:?}"));
        assert_eq!(
            driver("systemd").unwrap().cgroup_driver,
            CgroupDriver::Systemd
        );
        let error = driver("openrc").unwrap_err().to_string();
        assert!(error.contains("\"openrc\" is not known"), "{error}");
    }

    #[test]
    fn a_relative_root_is_refused_by_name() {
        let config = Config {
            root: "data".into(),
            ..Config::default()
        };
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("root =")
        );
    }

    #[test]
    fn a_socket_may_have_a_scheme() {
        let config = Config {
            socket: "unix:///run/x.sock".into(),
            ..Config::default()
        };
        assert_eq!(config.socket(), Path::new("/run/x.sock"));
    }
}
