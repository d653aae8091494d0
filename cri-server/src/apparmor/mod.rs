//! AppArmor profiles in the kernel: which are loaded, and our own, which is loaded when it is first needed.

use std::{
    fs, io,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex, time::timeout};

use crate::{
    blocking::blocking,
    error::{Error, Result},
    spec::Apparmor,
};

/// The profile of containers that ask for RuntimeDefault, or for nothing.
const DEFAULT: &str = "corten-default";
const DEFAULT_TEXT: &str = include_str!("corten-default.profile");
/// "name (mode)", one a line, children and those of hats too.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Where the parser is, for a daemon whose PATH lacks sbin.
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
/// It takes 0.1 s on an idle machine.
const PARSE: Duration = Duration::from_secs(60);

/// The kernel's profiles, as one daemon sees them.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    /// Held while the default profile is loaded: once is enough.
    loading: Mutex<()>,
    /// That containers go without the default profile has been said.
    told: AtomicBool,
}

impl Profiles {
    /// The name of the loaded profile that `asked` means; none is unconfined.
    ///
    /// # Errors
    /// A profile that is not loaded, with field and name; a default profile that was asked for and cannot be loaded.
    pub(crate) async fn resolve(&self, asked: Apparmor) -> Result<Option<String>> {
        match asked {
            Apparmor::Unconfined => Ok(None),
            Apparmor::Localhost { name, field } => {
                if is_loaded(&name).await? {
                    return Ok(Some(name));
                }
                let reason = format!(
                    "the AppArmor profile {name:?} is not loaded on this node: load it with apparmor_parser"
                );
                Err(Error::invalid(field, reason))
            }
            Apparmor::RuntimeDefault { asked } => match self.load_default().await {
                Ok(()) => Ok(Some(DEFAULT.into())),
                Err(error) if asked => Err(error),
                Err(error) => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            error = error.chain(),
                            "containers that ask for no AppArmor profile run unconfined"
                        );
                    }
                    Ok(None)
                }
            },
        }
    }

    async fn load_default(&self) -> Result<()> {
        if is_loaded(DEFAULT).await? {
            return Ok(());
        }
        let _loading = self.loading.lock().await;
        if is_loaded(DEFAULT).await? {
            return Ok(());
        }
        let parsed = match timeout(PARSE, parse()).await {
            Ok(parsed) => parsed,
            Err(_elapsed) => Err(io::Error::other(format!(
                "apparmor_parser did not end within {PARSE:?}"
            ))),
        };
        parsed.map_err(|source| Error::Io {
            doing: format!("load the AppArmor profile {DEFAULT:?}"),
            source,
        })?;
        tracing::info!(profile = DEFAULT, "the AppArmor profile is loaded");
        Ok(())
    }
}

/// Has the default profile compiled and loaded. A dropped future ends the parser.
async fn parse() -> io::Result<()> {
    let parser = PARSERS
        .into_iter()
        .find(|path| fs::exists(path).is_ok_and(|there| there))
        .ok_or_else(|| {
            let text = "apparmor_parser is not installed: install the package apparmor, or load the profile otherwise";
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(DEFAULT_TEXT.as_bytes()).await?;
    }
    let ended = child.wait_with_output().await?;
    if ended.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&ended.stderr);
    let text = format!("{parser}: {}: {}", ended.status, words.trim());
    Err(io::Error::other(text))
}

async fn is_loaded(name: &str) -> Result<bool> {
    let name = name.to_owned();
    blocking(move || {
        let list = fs::read_to_string(LOADED).map_err(|source| Error::Io {
            doing: format!(
                "read the loaded AppArmor profiles from {LOADED} (is securityfs mounted?)"
            ),
            source,
        })?;
        Ok(lists(&list, &name))
    })
    .await
}

/// Names may have spaces and brackets; modes have none.
fn lists(list: &str, name: &str) -> bool {
    let names = list.lines().filter_map(|line| line.rsplit_once(" ("));
    names
        .map(|(loaded, _mode)| loaded)
        .any(|loaded| loaded == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_listed_by_its_whole_name() {
        let list = "man_groff (enforce)\n/usr/bin/x (y) (complain)\ncorten-default (enforce)\n";
        for name in ["man_groff", "/usr/bin/x (y)", DEFAULT] {
            assert!(lists(list, name), "{name}");
        }
        for name in [
            "",
            "man",
            "corten-default (enforce)",
            "default",
            "(enforce)",
        ] {
            assert!(!lists(list, name), "{name}");
        }
    }

    #[test]
    fn the_default_profile_bears_its_name() {
        assert!(DEFAULT_TEXT.contains(&format!("\nprofile {DEFAULT} ")));
        assert!(DEFAULT_TEXT.contains(&format!("peer={DEFAULT},")));
    }
}
