//! Pressure stall information: v2's files, which a host with both versions has, too.

use std::io;

use super::{
    Cgroup, read_if_there,
    usage::{Pressure, Stall},
};

/// Of "cpu", "memory" or "io"; `None` where the kernel does not count it (`psi=0`, cgroup.pressure).
pub(super) fn of(cgroup: &Cgroup<'_>, resource: &str) -> io::Result<Option<Pressure>> {
    let Some(dir) = cgroup.v2() else {
        return Ok(None);
    };
    let text = read_if_there(&dir.join(format!("{resource}.pressure")))?;
    Ok(text.as_deref().map(parse))
}

fn parse(text: &str) -> Pressure {
    let line = |kind: &str| {
        let mut lines = text.lines();
        stall(
            lines
                .find_map(|line| line.strip_prefix(kind))
                .unwrap_or_default(),
        )
    };
    Pressure {
        some: line("some "),
        full: line("full "),
    }
}

fn stall(line: &str) -> Stall {
    let mut stall = Stall::default();
    for (name, value) in line.split(' ').filter_map(|part| part.split_once('=')) {
        let percent = value.parse().unwrap_or_default();
        match name {
            "avg10" => stall.avg10 = percent,
            "avg60" => stall.avg60 = percent,
            "avg300" => stall.avg300 = percent,
            // The kernel has microseconds.
            "total" => stall.total = value.parse::<u64>().unwrap_or_default() * 1000,
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_microseconds_become_nanoseconds() {
        let text = "some avg10=4.36 avg60=32.92 avg300=32.08 total=426218543\n\
                    full avg10=0.00 avg60=0.50 avg300=0.00 total=7\n";
        let pressure = parse(text);
        assert_eq!(
            pressure.some,
            Stall {
                avg10: 4.36,
                avg60: 32.92,
                avg300: 32.08,
                total: 426_218_543_000
            }
        );
        assert_eq!((pressure.full.avg60, pressure.full.total), (0.5, 7000));
    }
}
