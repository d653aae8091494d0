//! cpu: shares and quota, and the time that was used (cpuacct on v1).

use std::{fs, io};

use super::{Cgroup, Resources, keyed, write};

pub(super) fn apply(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    if let Some(dir) = cgroup.v1("cpu") {
        if resources.cpu_shares != 0 {
            write(&dir.join("cpu.shares"), &resources.cpu_shares.to_string())?;
        }
        // The period first: a quota is checked against it.
        if resources.cpu_period != 0 {
            write(
                &dir.join("cpu.cfs_period_us"),
                &resources.cpu_period.to_string(),
            )?;
        }
        if resources.cpu_quota != 0 {
            write(
                &dir.join("cpu.cfs_quota_us"),
                &resources.cpu_quota.to_string(),
            )?;
        }
        return Ok(());
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(());
    };
    if resources.cpu_shares != 0 {
        write(
            &dir.join("cpu.weight"),
            &weight(resources.cpu_shares).to_string(),
        )?;
    }
    if resources.cpu_period != 0 || resources.cpu_quota != 0 {
        let quota = if resources.cpu_quota > 0 {
            resources.cpu_quota.to_string()
        } else {
            "max".into()
        };
        let period = if resources.cpu_period == 0 {
            100_000
        } else {
            resources.cpu_period
        };
        write(&dir.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    Ok(())
}

/// Nanoseconds of CPU time.
pub(super) fn usage(cgroup: &Cgroup<'_>) -> io::Result<Option<u64>> {
    if let Some(dir) = cgroup.v1("cpuacct") {
        let text = fs::read_to_string(dir.join("cpuacct.usage"))?;
        return Ok(text.trim().parse().ok());
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(None);
    };
    // There without the controller, too (cgroup-v2.rst, "CPU Interface Files").
    let text = fs::read_to_string(dir.join("cpu.stat"))?;
    Ok(keyed(&text, "usage_usec").map(|microseconds| microseconds * 1000))
}

/// v1's shares 2 to 262144 onto v2's weights 1 to 10000, with 1024 at 100: the quadratic fit in the logarithms that OCI
/// runtimes agreed on (runtime-spec v1.2, config-linux.md, "CPU").
fn weight(shares: i64) -> i64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "2 to 18, and 1 to 10000"
            )]
            {
                let log = (shares as f64).log2();
                let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
                10f64.powf(exponent).ceil() as i64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, want) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
