//! Open descriptors, and what paths show: those that are masked, read-only, of the kernel, of the pod, of the row.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::libc;
use rustix::net;

use crate::report::{Report, failure, outcome};

/// Looked at, read from and opened for writing, without writing.
const PATHS: &[&str] = &[
    "/",
    "/absent",
    "/dev",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/file",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/home",
    "/made/for/it",
    "/nested",
    "/nested/inner",
    "/proc",
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/irq",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/readonly",
    "/readonly/inner",
    "/recursive",
    "/recursive/inner",
    "/shared",
    "/shared/inner",
    "/slave",
    "/slave/inner",
    "/sys",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/kernel",
    "/sys/kernel/profiling",
    "/tmp",
    "/volume",
];
/// Whose text is the pod's. /etc/hosts has its address.
const TEXTS: &[&str] = &["/etc/hostname", "/etc/resolv.conf"];
const SYSCTLS: &[&str] = &[
    "fs/mqueue/msg_max",
    "kernel/domainname",
    "kernel/hostname",
    "kernel/msgmax",
    "kernel/shm_rmid_forced",
    "kernel/shmmax",
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "net/ipv6/conf/all/disable_ipv6",
];

/// Those of this process, but for the one that reads them.
pub(crate) fn descriptors(report: &mut Report) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return report.add("descriptors", "unreadable");
    };
    let names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    for path in names {
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let text = target.display().to_string();
        if text.starts_with("/proc/") && text.ends_with("/fd") {
            continue;
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Pipes have numbers.
        let kind = text.split(":[").next().unwrap_or_default();
        let owner = fs::metadata(&path)
            .map(|meta| format!("{}:{} {:o}", meta.uid(), meta.gid(), meta.mode()));
        let owner = owner.unwrap_or_else(|error| failure(&error));
        report.add(format!("descriptor.{name}"), format!("{kind} {owner}"));
        // Programs write to /dev/stdout by name.
        let again = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        report.add(format!("descriptor.{name}.again"), outcome(again));
    }
}

pub(crate) fn all(report: &mut Report) {
    for path in PATHS {
        look(report, path);
    }
    for path in TEXTS {
        let text = fs::read_to_string(path);
        report.add(
            format!("text.{path}"),
            text.unwrap_or_else(|error| failure(&error)),
        );
    }
    for name in SYSCTLS {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name));
        let text = text.map_or_else(|error| failure(&error), |text| text.trim().to_owned());
        report.add(format!("sysctl.{name}"), text);
    }
    let mut interfaces: Vec<_> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    interfaces.sort();
    report.add("interfaces", interfaces.join(" "));
    let raw = net::socket(
        net::AddressFamily::INET,
        net::SocketType::RAW,
        Some(net::ipproto::ICMP),
    );
    report.add("socket.raw", outcome(raw.map_err(io::Error::from)));
}

fn look(report: &mut Report, path: &str) {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return report.add(format!("path.{path}"), failure(&error)),
    };
    let mut value = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if meta.is_dir() {
        let entries = fs::read_dir(path).map(Iterator::count);
        let entries = match entries {
            Ok(0) => "empty".to_owned(),
            Ok(_) => "has entries".to_owned(),
            Err(error) => failure(&error),
        };
        value += &format!(" {entries}");
        // Without a name in the file system: nothing to remove.
        let made = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(path);
        value += &format!(" new file {}", outcome(made));
    } else if meta.file_type().is_char_device() || meta.is_file() {
        value += &format!(
            " read {} write {}",
            outcome(read(path)),
            outcome(open_to_write(path))
        );
    }
    report.add(format!("path.{path}"), value);
}

fn read(path: &str) -> io::Result<usize> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    // The kernel's log answers EAGAIN when there is nothing new.
    match file.read(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

fn open_to_write(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
