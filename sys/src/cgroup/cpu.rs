//! cpu: shares and quota, and the time that was used (cpuacct on v1).

use std::{fs, io, path::Path};

use super::{
    Cgroup, Resources, keyed,
    setting::{OrMax, Setting},
};

/// The kernel's own, in microseconds.
const PERIOD: i64 = 100_000;

pub(super) fn settings(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(dir) = cgroup.v1("cpu") {
        if resources.cpu_shares != 0 {
            let file = dir.join("cpu.shares");
            settings.push(Setting::new("cpu_shares", file, resources.cpu_shares));
        }
        settings.extend(bandwidth_v1(&dir, resources)?);
        return Ok(settings);
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(settings);
    };
    if resources.cpu_shares != 0 {
        let weight = weight(resources.cpu_shares);
        settings.push(Setting::new("cpu_shares", dir.join("cpu.weight"), weight));
    }
    let (quota, period) = (resources.cpu_quota, resources.cpu_period);
    if period != 0 || quota != 0 {
        let quota = OrMax(if quota == 0 { -1 } else { quota });
        let period = if period == 0 { PERIOD } else { period };
        let value = format!("{quota} {period}");
        settings.push(Setting::new("cpu_quota", dir.join("cpu.max"), value));
    }
    Ok(settings)
}

/// The kernel checks each write against the parent's share of time, so that the one that makes the share smaller comes
/// first.
fn bandwidth_v1(dir: &Path, resources: &Resources) -> io::Result<Vec<Setting>> {
    let setting = |field, file, value| {
        let setting = Setting::new(field, dir.join(file), value);
        (value != 0).then_some(setting)
    };
    let quota = setting("cpu_quota", "cpu.cfs_quota_us", resources.cpu_quota);
    let period = setting("cpu_period", "cpu.cfs_period_us", resources.cpu_period);
    let mut both = [period, quota];
    if both.iter().all(Option::is_some) {
        let now = fs::read_to_string(dir.join("cpu.cfs_period_us"))?;
        if now.trim().parse().unwrap_or(PERIOD) > resources.cpu_period {
            both.reverse();
        }
    }
    Ok(both.into_iter().flatten().collect())
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
