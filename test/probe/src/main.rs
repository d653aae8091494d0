//! What a process in a container sees and may do, as lines of a key, a tab and a value: the container's own program, and
//! a further one by exec. Outside of a container: what of that is the host's.
//!
//! Everything is told as it is; what differs from container to container by nature (ids, inode numbers) is for the
//! reader to mask. Nothing is changed, save in a child that makes the last checks and ends.
#![forbid(unsafe_code)]

mod calls;
mod devices;
mod files;
mod mounts;
mod process;
mod report;

use std::{
    env,
    io::{Write, stdout},
    process::{Command, ExitCode},
    time::Duration,
};

use report::Report;

/// The last line: all has been told.
const END: &str = "end\t";

fn main() -> ExitCode {
    let told = match env::args().nth(1).as_deref() {
        Some("hold") => tell().inspect(|()| hold()),
        Some("report") => tell(),
        Some("calls") => write(&calls::report().lines()),
        _ => return ExitCode::from(2),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(_nobody_reads) => ExitCode::FAILURE,
    }
}

/// For as long as somebody wants to exec.
fn hold() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn tell() -> std::io::Result<()> {
    let mut report = Report::default();
    // What is open and mounted before this program opens anything.
    files::descriptors(&mut report);
    process::all(&mut report);
    mounts::all(&mut report);
    files::all(&mut report);
    devices::all(&mut report);
    // A filter may kill it, and some calls change it: not this process.
    let program = env::args_os().next().unwrap_or_default();
    match Command::new(program).arg("calls").output() {
        Ok(child) => {
            report.add("calls", child.status);
            report.add_lines(&String::from_utf8_lossy(&child.stdout));
        }
        Err(error) => report.add("calls", error),
    }
    write(&format!("{}{END}\n", report.lines()))
}

fn write(text: &str) -> std::io::Result<()> {
    let mut output = stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
