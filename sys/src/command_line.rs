//! What others see of this process's arguments.

use std::{fs, io};

use crate::process::SingleThreaded;

/// The command line of this process, as /proc/<pid>/cmdline shows it to everybody.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine {
    start: usize,
    end: usize,
}

impl CommandLine {
    /// Finds where it lies in memory (proc_pid_stat(5), arg_start and arg_end).
    pub fn find() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
        let number = |field: usize| {
            fields?
                .split_ascii_whitespace()
                .nth(field - 3)?
                .parse()
                .ok()
        };
        let found = number(48)
            .zip(number(49))
            .filter(|(start, end)| start < end);
        let (start, end) = found.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, end })
    }

    /// Shows `text`, as much of it as there is place for, in its place: in this process, which asks for its arguments no
    /// more, or in a copy of it.
    pub fn replace(&self, _proof: &SingleThreaded, text: &[u8]) {
        let length = self.end - self.start;
        let text = &text[..text.len().min(length.saturating_sub(2))];
        let mut line = vec![0; length];
        line[..text.len()].copy_from_slice(text);
        // Where the last byte is not NUL the kernel shows what is before the first one (fs/proc/base.c, get_mm_cmdline).
        line[length - 1] = 1;
        // SAFETY: the kernel has put the strings of the arguments between both addresses, in memory of the stack that is
        // writable and never unmapped. No other thread reads them meanwhile (`_proof`).
        unsafe {
            std::ptr::copy_nonoverlapping(
                line.as_ptr(),
                std::ptr::with_exposed_provenance_mut(self.start),
                length,
            );
        }
    }
}
