//! What plugins of a pod's network may ask for (CNI conventions, "Well-known Capabilities"), as containerd derives it.

use corten_cni::{Bandwidth, Capabilities, Dns};
use corten_proto::cri;

use super::{Invalid, namespaces};

/// Rates that Kubernetes takes, in bits a second.
const RATES: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;
/// No limit in practice, in bits; a plugin wants one.
const BURST: u64 = 0xffff_ffff;
/// More digits than any rate has.
const MAX_DIGITS: usize = 30;

/// The values that the pod has for capabilities; port mappings are an attachment's own.
///
/// # Errors
/// When an annotation of the bandwidth is not a rate. A pod on the host's network is asked for none.
pub(crate) fn capabilities(config: &cri::PodSandboxConfig) -> Result<Capabilities, Invalid> {
    if namespaces::of_pod(config).network() == cri::NamespaceMode::Node {
        return Ok(Capabilities::default());
    }
    let dns = config.dns_config.as_ref().map(|dns| Dns {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    let linux = config.linux.as_ref();
    let cgroup_path = linux
        .map(|linux| linux.cgroup_parent.clone())
        .filter(|path| !path.is_empty());
    Ok(Capabilities {
        pod_annotations: Some(config.annotations.clone()),
        bandwidth: bandwidth(config)?,
        dns,
        cgroup_path,
    })
}

fn bandwidth(config: &cri::PodSandboxConfig) -> Result<Option<Bandwidth>, Invalid> {
    let rate = |direction: &str| {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = config.annotations.get(&name) else {
            return Ok(None);
        };
        let rate = quantity(text).filter(|rate| RATES.contains(rate));
        match rate.and_then(|rate| u64::try_from(rate).ok()) {
            Some(rate) => Ok(Some(rate)),
            None => Err(Invalid::new(
                format!("config.annotations[{name:?}]"),
                format!("{text:?} is not a rate from 1k to 1P bits a second, such as 10M"),
            )),
        }
    };
    let (ingress, egress) = (rate("ingress")?, rate("egress")?);
    let burst = |rate: Option<u64>| rate.map_or(0, |_| BURST);
    Ok((ingress.is_some() || egress.is_some()).then(|| Bandwidth {
        ingress_rate: ingress.unwrap_or_default(),
        ingress_burst: burst(ingress),
        egress_rate: egress.unwrap_or_default(),
        egress_burst: burst(egress),
    }))
}

/// A quantity of Kubernetes that is not negative, rounded up: digits with one point among them, and a suffix (its API
/// reference, "Quantity").
fn quantity(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let mantissa: u128 = digits.parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(power(fraction.len())?)?;
    Some(mantissa.checked_mul(factor)?.div_ceil(divisor))
}

/// Factor and divisor of the suffix.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let thousands = |letters: &str, letter: &str| {
        letters
            .find(letter)
            .filter(|_| letter.len() == 1)
            .map(|at| at + 1)
    };
    if suffix.is_empty() {
        return Some((1, 1));
    }
    if let Some(binary) = suffix.strip_suffix('i') {
        let step = thousands("KMGTPE", binary)?;
        return Some((1 << (10 * step), 1));
    }
    if let Some(step) = thousands("kMGTPE", suffix) {
        return Some((power(3 * step)?, 1));
    }
    if let Some(step) = thousands("mun", suffix) {
        return Some((1, power(3 * step)?));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let size = power(usize::try_from(exponent.unsigned_abs()).ok()?)?;
    Some(if exponent < 0 { (1, size) } else { (size, 1) })
}

fn power(exponent: usize) -> Option<u128> {
    10u128.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(annotations: &[(&str, &str)]) -> Result<Option<Bandwidth>, Invalid> {
        let named = |(direction, value): &(&str, &str)| {
            let name = format!("kubernetes.io/{direction}-bandwidth");
            (name, (*value).to_owned())
        };
        let config = cri::PodSandboxConfig {
            annotations: annotations.iter().map(named).collect(),
            ..Default::default()
        };
        Ok(capabilities(&config)?.bandwidth)
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, want) in [
            ("10M", 10_000_000),
            ("1k", 1_000),
            ("+1Ki", 1_024),
            ("1.5k", 1_500),
            (".5M", 500_000),
            ("2Gi", 2 << 30),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("15e5", 1_500_000),
            ("1e+3", 1_000),
            ("12345e-1", 1_235),
            ("1000001m", 1_001),
            ("1P", 1_000_000_000_000_000),
            ("5", 5),
            ("0", 0),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(quantity(text), Some(want), "{text}");
        }
        for text in [
            "",
            "M",
            ".",
            "-1k",
            "1 M",
            "1K",
            "10Mbit",
            "1..2",
            "1.2.3",
            "1ki",
            "e3",
            "1e",
            "0x10",
            "1e99999",
            "99999999999999999999999999999999999999k",
            "1kM",
            "1i",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn limits_are_bits_a_second_each_with_a_burst() {
        assert_eq!(limited(&[]).unwrap(), None);
        let one = limited(&[("ingress", "10M")]).unwrap().unwrap();
        assert_eq!((one.ingress_rate, one.ingress_burst), (10_000_000, BURST));
        assert_eq!((one.egress_rate, one.egress_burst), (0, 0));
        let both = limited(&[("ingress", "1Mi"), ("egress", "2k")])
            .unwrap()
            .unwrap();
        assert_eq!((both.ingress_rate, both.egress_rate), (1 << 20, 2_000));
    }

    #[test]
    fn what_is_no_rate_is_refused_by_name() {
        for value in ["", "fast", "999", "1001P", "-10M"] {
            let error = limited(&[("egress", value)]).unwrap_err();
            let want = "config.annotations[\"kubernetes.io/egress-bandwidth\"]";
            assert_eq!(error.field, want, "{value}");
        }
    }
}
