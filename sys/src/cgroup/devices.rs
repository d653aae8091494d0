//! devices: which device nodes may be opened: lines for v1's controller, a program for v2.

use std::{
    fmt::Write,
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
    path::Path,
};

use super::{device_program, named, write};
use crate::bpf;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DeviceKind {
    All,
    Block,
    Char,
}

/// `major` and `minor` of `None` are all.
#[derive(Clone, Debug)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Subset of "rwm".
    pub permissions: String,
}

/// A new cgroup has what its parent has: for all devices nothing is to be done. A rule beyond the parent's is left out,
/// as on a host that is a container itself.
pub(super) fn allow(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    if rules.iter().any(|rule| rule.kind == DeviceKind::All) {
        return Ok(());
    }
    write(&dir.join("devices.deny"), "a")?;
    let path = dir.join("devices.allow");
    let mut file = OpenOptions::new().write(true).open(&path)?;
    // One rule a write.
    for line in rules.iter().map(line) {
        match io::Write::write_all(&mut file, line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => {
                result.map_err(|error| named(&error, &format!("write {line:?} to"), &path))?;
            }
        }
    }
    Ok(())
}

/// A cgroup that may use every device needs no program.
pub(super) fn allow_by_program(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    if rules.iter().any(|rule| rule.kind == DeviceKind::All) {
        return Ok(());
    }
    let program = bpf::load_device_program(&device_program::compile(rules))?;
    bpf::attach_device_program(File::open(dir)?.as_fd(), program.as_fd())
}

fn line(rule: &DeviceRule) -> String {
    let mut line = match rule.kind {
        DeviceKind::All => "a ".to_owned(),
        DeviceKind::Block => "b ".to_owned(),
        DeviceKind::Char => "c ".to_owned(),
    };
    for (number, end) in [(rule.major, ':'), (rule.minor, ' ')] {
        match number {
            Some(number) => {
                let _ = write!(line, "{number}{end}");
            }
            None => {
                let _ = write!(line, "*{end}");
            }
        }
    }
    line + &rule.permissions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also on hybrid hosts, where v1's controller does the work otherwise.
    #[test]
    fn a_program_refuses_what_is_not_listed() {
        let hierarchies = crate::cgroup::Hierarchies::detect().unwrap();
        let mount = hierarchies.v2.unwrap();
        let dir = mount.join(format!("corten-test-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let null = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(3),
            permissions: "rw".into(),
        };
        let attached = allow_by_program(&dir, &[null]);
        let script = "echo $$ > $0/cgroup.procs && : > /dev/null && echo null; : < /dev/zero && echo zero; true";
        let run = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(&dir)
            .output()
            .unwrap();
        std::fs::remove_dir(&dir).unwrap();
        attached.unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "null\n");
        assert!(String::from_utf8_lossy(&run.stderr).contains("/dev/zero"));
    }

    #[test]
    fn a_rule_is_a_line() {
        let rule = |major, minor| DeviceRule {
            kind: DeviceKind::Char,
            major,
            minor,
            permissions: "rwm".into(),
        };
        assert_eq!(line(&rule(Some(1), Some(3))), "c 1:3 rwm");
        assert_eq!(line(&rule(Some(136), None)), "c 136:* rwm");
        assert_eq!(line(&rule(None, None)), "c *:* rwm");
    }
}
