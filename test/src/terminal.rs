//! A real terminal, by tmux, with a person's keys and eyes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{node::Node, wait::until};

/// One window in a tmux server of its own, inside of a node.
#[derive(Debug)]
pub struct Terminal<'a> {
    node: &'a Node,
    socket: PathBuf,
}

impl<'a> Terminal<'a> {
    /// Runs `command`, a shell's line, in a window of 80 columns and 24 rows. Its exit code is shown at its end.
    pub fn open(node: &'a Node, name: &str, command: &str) -> Result<Self> {
        let terminal = Self {
            node,
            socket: node.dir().join(format!("tmux-{name}")),
        };
        let line = format!("{command}; echo \"ended with $?\"; exec sleep 1000");
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &line,
        ])?;
        Ok(terminal)
    }

    /// Types text, then presses enter.
    pub fn type_line(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text])?;
        self.press("Enter")
    }

    /// Presses a key, as tmux names it: C-c, Escape.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows])
            .map(drop)
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until a line of the screen is `wanted`, but for spaces at its end.
    pub async fn shows(&self, wanted: &str) -> Result<()> {
        until(|| async { self.shows_now(wanted) }).await
    }

    /// Waits until the command has ended with this exit code, whatever it has left on the line.
    pub async fn ended(&self, code: i32) -> Result<()> {
        let wanted = format!("ended with {code}\n");
        until(|| async {
            let screen = self.screen()?;
            ensure!(screen.contains(&wanted), "no {wanted:?}:\n{screen}");
            Ok(())
        })
        .await
    }

    /// [`Self::shows`] without waiting.
    pub fn shows_now(&self, wanted: &str) -> Result<()> {
        let screen = self.screen()?;
        let is_there = screen.lines().any(|line| line.trim_end() == wanted);
        ensure!(is_there, "no line is {wanted:?}:\n{screen}");
        Ok(())
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = self.node.command("tmux");
        command
            .env("TERM", "xterm")
            .env_remove("TMUX")
            .arg("-S")
            .arg(&self.socket);
        let output = command.args(args).output().context("run tmux")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {args:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
