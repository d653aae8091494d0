//! A container that prints numbered lines as fast as it can, and the check of its log, byte by byte.
//!
//! The lines are a file of its image, printed again and again, so that the pipe is the bottleneck. Their lengths vary, with
//! some at and beyond what a line of the log may have.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    image,
    log::{self, Entry},
    node::Node,
};

/// The image's name.
pub const IMAGE: &str = "test.example/flood:1";
/// Longest text of a line of the log, the daemon's default.
const MAX_LINE: usize = 16 << 10;
const LINES: usize = 20_000;
/// Shell functions: `flood` prints whole passes until /done is there, then how many; `flood_on` for ever. The passes that
/// are done are counted in the file that is the argument.
pub const SCRIPT: &str = "\
    flood() { n=0; until test -e /done; do cat /numbers; n=$((n+1)); echo $n >$1; done; printf \"end $n\"; }; \
    flood_on() { n=0; while :; do cat /numbers; n=$((n+1)); echo $n >$1; done; }; ";

/// Adds the image to the node's daemon.
pub async fn load(node: &Node) -> Result<()> {
    image::load_changed(node, IMAGE, |tree, _| {
        Ok(fs::write(tree.join("numbers"), numbers())?)
    })
    .await
}

/// What one pass prints.
pub fn numbers() -> Vec<u8> {
    let line = |number: usize| {
        let length = match number % 1000 {
            100 => MAX_LINE,
            200 => MAX_LINE + 1,
            300 => 2 * MAX_LINE,
            400 => 40_000,
            500 => 0,
            other => other * 7919 % 160,
        };
        let mut line = number.to_string();
        let fill = "abcdefghijklmnopqrstuvwxyz".chars().cycle();
        line.extend(fill.take(length.saturating_sub(line.len())));
        line.truncate(if length == 0 { 0 } else { line.len() });
        line + "\n"
    };
    (0..LINES)
        .flat_map(|number| line(number).into_bytes())
        .collect()
}

/// What of the two streams has been read, in order.
#[derive(Debug)]
pub struct Reader {
    numbers: Vec<u8>,
    pub stdout: Progress,
    pub stderr: Progress,
}

#[derive(Debug, Default)]
pub struct Progress {
    /// That are whole.
    pub passes: usize,
    /// Bytes of the present one.
    at: usize,
    /// The line has begun.
    is_part: bool,
    /// A part has come that is short, as only the last may be.
    is_over: bool,
    /// What came after the last pass.
    pub end: String,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            numbers: numbers(),
            stdout: Progress::default(),
            stderr: Progress::default(),
        }
    }

    /// Reads on in `log`.
    ///
    /// # Errors
    /// The first line that is not the next one, that was split where it should not have been, or is older than the one before.
    pub fn read(&mut self, log: &[u8]) -> Result<()> {
        for entry in log::entries(log) {
            let entry = entry?;
            match entry.stream {
                b"stdout" => self.stdout.read(&self.numbers, &entry)?,
                b"stderr" => self.stderr.read(&self.numbers, &entry)?,
                other => anyhow::bail!("a stream {:?}", String::from_utf8_lossy(other)),
            }
        }
        Ok(())
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    fn read(&mut self, numbers: &[u8], entry: &Entry<'_>) -> Result<()> {
        let &Entry { text, is_full, .. } = entry;
        let shown = || String::from_utf8_lossy(&text[..text.len().min(80)]);
        let after = format!("after {} passes and {} bytes", self.passes, self.at);
        ensure!(!self.is_over, "{after}, the last, there is {:?}", shown());
        if self.at == 0 && text.starts_with(b"end ") {
            self.is_over = true;
            self.end = String::from_utf8(text.to_vec())?;
            return Ok(());
        }
        let rest = &numbers[self.at..];
        ensure!(rest.starts_with(text), "{after} there is {:?}", shown());
        let is_line = rest.get(text.len()) == Some(&b'\n');
        self.at += text.len();
        match is_full {
            true => {
                ensure!(is_line, "{after} a line ends early: {:?}", shown());
                ensure!(
                    !(self.is_part && text.is_empty()),
                    "{after} a part is empty"
                );
                self.at += 1;
            }
            false => self.is_over = is_line || text.len() < MAX_LINE,
        }
        ensure!(text.len() <= MAX_LINE, "{after} a part is too long");
        self.is_part = !is_full;
        if self.at == numbers.len() {
            self.at = 0;
            self.passes += 1;
        }
        Ok(())
    }
}
