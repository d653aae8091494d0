//! A container's log in the CRI's format, as readers take it apart, and its rotation, as the kubelet does it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri;

use crate::pod::Runtime;

/// A line of the log: `<time> <stream> <P|F> <text>`.
#[derive(Debug)]
pub struct Entry<'a> {
    pub time: &'a [u8],
    /// All that follows.
    pub rest: &'a [u8],
    pub stream: &'a [u8],
    /// F: a line of the container's output ends here.
    pub is_full: bool,
    pub text: &'a [u8],
}

/// What is in a log, whose last line is whole, and whose times do not go backwards.
pub fn entries(log: &[u8]) -> impl Iterator<Item = Result<Entry<'_>>> {
    let mut last: &[u8] = b"";
    log.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let entry = entry(line)
            .with_context(|| format!("no line of a log: {:?}", String::from_utf8_lossy(line)))?;
        ensure!(entry.time >= last, "times go backwards");
        last = entry.time;
        Ok(entry)
    })
}

fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n")?;
    let (time, rest) = split(line)?;
    let (stream, tagged) = split(rest)?;
    let (tag, text) = split(tagged)?;
    matches!(tag, b"P" | b"F").then_some(Entry {
        time,
        rest,
        stream,
        is_full: tag == b"F",
        text,
    })
}

/// At the first space.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

/// A log, and the files that it was rotated to.
#[derive(Debug)]
pub struct Rotated {
    log: PathBuf,
    /// Oldest first.
    old: Vec<PathBuf>,
}

impl Rotated {
    pub fn new(log: PathBuf) -> Self {
        Self {
            log,
            old: Vec::new(),
        }
    }

    /// The file that is written to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Renames the log and has it opened anew. Where that fails, the name is given back, over whatever has it by then.
    ///
    /// # Errors
    /// Reopening's own, or that there was no new file after it.
    pub async fn rotate(&mut self, runtime: &mut Runtime, container: &str) -> Result<()> {
        let old = self.log.with_extension(format!("{}", self.old.len()));
        fs::rename(&self.log, &old)?;
        let request = cri::ReopenContainerLogRequest {
            container_id: container.into(),
        };
        if let Err(status) = runtime.reopen_container_log(request).await {
            fs::rename(&old, &self.log)?;
            return Err(status.into());
        }
        self.old.push(old);
        ensure!(self.log.exists(), "there is no new file");
        Ok(())
    }

    /// Reads and removes the files, oldest first.
    pub fn take(&mut self, mut read: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for path in self.old.drain(..).chain([self.log.clone()]) {
            let text = fs::read(&path).with_context(|| path.display().to_string())?;
            read(&text).with_context(|| path.display().to_string())?;
            fs::remove_file(&path)?;
        }
        Ok(())
    }
}
