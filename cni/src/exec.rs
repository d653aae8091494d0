//! Plugins that are programs (CNI spec 1.1, section 2).

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
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
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::{
    attachment::{Attachment, INTERFACE},
    error::{Doing, Error, Result},
};

/// A result that is larger is none.
const MAX_RESULT: usize = 1 << 20;
/// Most bytes that are quoted of a plugin's complaints.
const MAX_WORDS: usize = 4 << 10;
const CHUNK: usize = 16 << 10;
/// Time that a busy program is tried for, as in the reference library.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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

/// What came of it.
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    /// What it has complained of.
    words: Vec<u8>,
}

/// Where the plugin is.
pub(crate) fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Option<PathBuf> {
    let mut paths = bin_dirs.iter().map(|dir| dir.join(plugin));
    paths.find(|path| path.is_file())
}

impl Run<'_> {
    /// Runs the program and returns its result, null where it prints none. Blocks; of a runtime's threads, those may
    /// call it that may block.
    pub(crate) fn run(&self, program: &Path) -> Result<Value> {
        let ended = Handle::current().block_on(self.end(program))?;
        if !ended.status.success() {
            return Err(self.failed(&ended));
        }
        if !ended.words.is_empty() {
            let (plugin, command) = (self.plugin, self.command);
            let words = String::from_utf8_lossy(&ended.words);
            tracing::debug!(plugin, command, %words, "a plugin has succeeded and complains");
        }
        // No other command has a result (CNI spec 1.1, section 2), and some plugins print whatever they like.
        if self.command != "ADD" {
            return Ok(Value::Null);
        }
        if ended.output.len() > MAX_RESULT {
            return Err(self.refuse(format!("its result is larger than {MAX_RESULT} bytes")));
        }
        if ended.output.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&ended.output).map_err(|error| {
            let output = String::from_utf8_lossy(&ended.output);
            let start: String = output.chars().take(MAX_WORDS).collect();
            self.refuse(format!("its result is not JSON ({error}): {start}"))
        })
    }

    async fn end(&self, program: &Path) -> Result<Ended> {
        let doing = || format!("run plugin {}", program.display());
        let mut child = self.spawn(program).await.doing(doing)?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Ok(ended) = timeout(self.limit, self.talk(&mut child)).await {
            return ended.doing(doing);
        }
        // It is not reaped yet, so that the group is its own; whatever it has started ends with it.
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait().await;
        let (plugin, command, limit) = (self.plugin.to_owned(), self.command, self.limit);
        Err(Error::Hung {
            plugin,
            command,
            limit,
        })
    }

    /// A program that is being installed is waited for: the kernel refuses it with ETXTBSY while it is open for writing.
    async fn spawn(&self, program: &Path) -> io::Result<Child> {
        let end = Instant::now() + BUSY_PATIENCE.min(self.limit);
        loop {
            match self.command(program).spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < end =>
                {
                    sleep(LOOK_AGAIN).await;
                }
                result => return result,
            }
        }
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

    async fn talk(&self, child: &mut Child) -> io::Result<Ended> {
        let config = self.config.to_string();
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A plugin need not read its configuration.
                let _ = stdin.write_all(config.as_bytes()).await;
            }
        };
        let ((), output, words) = tokio::join!(write, read_start(stdout), read_tail(stderr));
        Ok(Ended {
            status: child.wait().await?,
            output: output?,
            words: words?,
        })
    }

    /// In its own words: the error that it prints (CNI spec 1.1, section 5, "Error"), and what it has complained of.
    fn failed(&self, ended: &Ended) -> Error {
        let told: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
        let mut words = Vec::new();
        if let Some(code) = told["code"].as_u64() {
            words.push(format!("code {code}"));
        }
        let told = ["msg", "details"].map(|key| told[key].as_str().unwrap_or_default().to_owned());
        words.extend(told);
        words.push(String::from_utf8_lossy(&ended.words).into_owned());
        if words.iter().all(|part| part.trim().is_empty()) {
            let output = String::from_utf8_lossy(&ended.output);
            words.push(output.chars().take(MAX_WORDS).collect());
        }
        let words = words
            .iter()
            .map(|part| part.trim())
            .filter(|part| !part.is_empty());
        let words = words.collect::<Vec<_>>().join("; ");
        let status = ended.status;
        self.refuse(match (words.is_empty(), status.code()) {
            (true, _) => format!("it does not say why ({status})"),
            // It had no say in its end.
            (false, None) => format!("{status}; {words}"),
            (false, Some(_)) => words,
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

/// Reads to the end and keeps the start: one byte more than a result may have, if there are so many.
async fn read_start(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    read(pipe, |chunk| {
        let room = (MAX_RESULT + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    })
    .await?;
    Ok(kept)
}

/// Reads to the end and keeps it: complaints end with what went wrong.
async fn read_tail(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    read(pipe, |chunk| {
        kept.extend_from_slice(chunk);
        kept.drain(..kept.len().saturating_sub(MAX_WORDS));
    })
    .await?;
    Ok(kept)
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, mut keep: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(mut pipe) = pipe else {
        return Ok(());
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        match pipe.read(&mut buffer).await? {
            0 => return Ok(()),
            length => keep(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_result_keeps_its_start_and_complaints_their_end() {
        let mut bytes = vec![b'a'; MAX_RESULT];
        bytes.extend([b'b'; MAX_WORDS]);
        let start = read_start(Some(&bytes[..])).await.unwrap();
        assert_eq!((start.len(), start.last()), (MAX_RESULT + 1, Some(&b'b')));
        assert_eq!(
            read_tail(Some(&bytes[..])).await.unwrap(),
            [b'b'; MAX_WORDS]
        );
    }
}
