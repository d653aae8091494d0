//! Keys and values, in the order of keys.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    io,
};

#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<String, String>);

impl Report {
    /// A key that is there already gets a number, as for two mounts on one place.
    pub(crate) fn add(&mut self, key: impl Into<String>, value: impl Display) {
        let (key, value) = (one_line(&key.into()), one_line(&value.to_string()));
        let mut numbered = key.clone();
        let mut number = 1;
        while self.0.contains_key(&numbered) {
            number += 1;
            numbered = format!("{key}#{number}");
        }
        self.0.insert(numbered, value);
    }

    /// What a child of this program has told.
    pub(crate) fn add_lines(&mut self, lines: &str) {
        for (key, value) in lines.lines().filter_map(|line| line.split_once('\t')) {
            self.add(key, value);
        }
    }

    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        for (key, value) in &self.0 {
            // Into a string, which takes everything.
            let _ = writeln!(lines, "{key}\t{value}");
        }
        lines
    }
}

/// "ok", or the kernel's name of the error.
pub(crate) fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => failure(&error),
    }
}

pub(crate) fn failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => error.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '\t' | '\n' | '\r' | '\0' | '\x1b' => c.escape_default().collect::<Vec<_>>(),
            c => vec![c],
        })
        .collect()
}
