//! Plugins that are programs (CNI spec 1.1, section 2).

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    attachment::{Attachment, INTERFACE},
    error::{Doing, Error, Result},
};

/// A result that is larger is none.
const MAX_RESULT: u64 = 1 << 20;
/// What is quoted of a plugin's complaints.
const MAX_WORDS: u64 = 4 << 10;

/// One run of a plugin.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) plugin: &'a str,
    /// "ADD", "DEL" ...
    pub(crate) command: &'static str,
    pub(crate) config: &'a Value,
    pub(crate) pod: &'a Attachment,
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) limit: Duration,
}

/// Where the plugin is.
pub(crate) fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Option<PathBuf> {
    bin_dirs
        .iter()
        .map(|dir| dir.join(plugin))
        .find(|path| path.is_file())
}

impl Run<'_> {
    /// Runs the program and returns what it prints, null where it prints nothing.
    pub(crate) async fn run(&self, program: &Path) -> Result<Value> {
        let doing = || format!("run plugin {}", program.display());
        let mut child = self.command(program).spawn().doing(doing)?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok());
        let ended = timeout(self.limit, self.talk(&mut child)).await;
        // Whatever it has started ends with it.
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let Ok(ended) = ended else {
            let _ = child.wait().await;
            let (plugin, command, limit) = (self.plugin.to_owned(), self.command, self.limit);
            return Err(Error::Hung {
                plugin,
                command,
                limit,
            });
        };
        let (success, output, words) = ended.doing(doing)?;
        if !success {
            return Err(self.failed(&output, &words));
        }
        if output.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output).map_err(|error| {
            self.refuse(format!(
                "its result is not JSON ({error}): {}",
                String::from_utf8_lossy(&output)
            ))
        })
    }

    fn command(&self, program: &Path) -> Command {
        let path = std::env::join_paths(self.bin_dirs).unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", &self.pod.container_id)
            .env("CNI_NETNS", self.pod.present_netns())
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", self.pod.args())
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    async fn talk(&self, child: &mut Child) -> io::Result<(bool, Vec<u8>, Vec<u8>)> {
        let config = self.config.to_string();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A plugin need not read its configuration.
                let _ = stdin.write_all(config.as_bytes()).await;
            }
        };
        let (_, output, words) =
            tokio::join!(write, read(stdout, MAX_RESULT), read(stderr, MAX_WORDS));
        let status = child.wait().await?;
        Ok((status.success(), output?, words?))
    }

    /// In its own words: the error that it prints, or else what it has complained of.
    fn failed(&self, output: &[u8], words: &[u8]) -> Error {
        let told: Option<Value> = serde_json::from_slice(output).ok();
        let text = |key: &str| {
            told.as_ref()
                .and_then(|told| told[key].as_str())
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let (message, details) = (text("msg"), text("details"));
        let complaint = String::from_utf8_lossy(words).trim().to_owned();
        let words = [message, details, complaint]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>();
        self.refuse(if words.is_empty() {
            String::from_utf8_lossy(output).trim().to_owned()
        } else {
            words.join("; ")
        })
    }

    fn refuse(&self, words: String) -> Error {
        Error::Plugin {
            plugin: self.plugin.to_owned(),
            command: self.command,
            words,
        }
    }
}

/// Reads to the end and keeps the first `limit` bytes.
async fn read(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = pipe else {
        return Ok(bytes);
    };
    (&mut pipe).take(limit).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(bytes)
}
