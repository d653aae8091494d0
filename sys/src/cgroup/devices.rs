//! devices: which device nodes may be opened (v1's devices controller).

use std::{fmt::Write, fs::OpenOptions, io, path::Path};

use super::{named, write};

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

pub(super) fn allow(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    if rules.iter().any(|rule| rule.kind == DeviceKind::All) {
        return write(&dir.join("devices.allow"), "a");
    }
    write(&dir.join("devices.deny"), "a")?;
    let path = dir.join("devices.allow");
    let mut file = OpenOptions::new().write(true).open(&path)?;
    // One rule a write.
    rules.iter().map(line).try_for_each(|line| {
        io::Write::write_all(&mut file, line.as_bytes())
            .map_err(|error| named(&error, &format!("write {line:?} to"), &path))
    })
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
