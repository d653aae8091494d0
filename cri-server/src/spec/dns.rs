//! The names that a pod has and resolves: hostname, `resolv.conf`, `hosts`.

use std::{fmt::Write, net::IpAddr};

use corten_proto::cri;

use super::{Invalid, namespaces, path};

/// `sethostname(2)`, HOST_NAME_MAX.
const MAX_HOSTNAME: usize = 64;

/// The pod's hostname: its own where it has one, else the host's.
pub(crate) fn hostname(config: &cri::PodSandboxConfig) -> Result<String, Invalid> {
    validate_hostname(config)?;
    if config.hostname.is_empty() {
        let host = rustix::system::uname();
        return Ok(host.nodename().to_string_lossy().into_owned());
    }
    Ok(config.hostname.clone())
}

/// The text of `resolv.conf`. None when the pod says nothing, and the host's is to be copied.
pub(crate) fn resolv_conf(dns: Option<&cri::DnsConfig>) -> Option<String> {
    let dns = dns?;
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    (!text.is_empty()).then_some(text)
}

/// The text of `hosts`, for a pod whose containers bring none: localhost, and the pod at its
/// addresses.
pub(crate) fn hosts(hostname: &str, ips: &[String]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let short = hostname
        .split_once('.')
        .map_or(String::new(), |(short, _)| format!(" {short}"));
    for ip in ips {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{ip}\t{hostname}{short}");
    }
    text
}

/// A hostname that is empty or that the kernel takes, in letters that belong into a name.
pub(super) fn validate_hostname(config: &cri::PodSandboxConfig) -> Result<(), Invalid> {
    const FIELD: &str = "config.hostname";
    let name = config.hostname.as_str();
    if name.is_empty() {
        return Ok(());
    }
    if namespaces::of_pod(config).network() == cri::NamespaceMode::Node {
        let reason = "a pod on the host's network has the host's hostname; leave it empty";
        return Err(Invalid::new(FIELD, reason));
    }
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if !plain || name.starts_with(['-', '.']) || name.len() > MAX_HOSTNAME {
        let reason = format!(
            "{name:?} is not a hostname: want up to {MAX_HOSTNAME} letters, digits, dots and dashes"
        );
        return Err(Invalid::new(FIELD, reason));
    }
    Ok(())
}

/// That each entry is one word, and each server an address.
pub(super) fn validate(dns: Option<&cri::DnsConfig>) -> Result<(), Invalid> {
    let Some(dns) = dns else { return Ok(()) };
    for (name, list) in [
        ("servers", &dns.servers),
        ("searches", &dns.searches),
        ("options", &dns.options),
    ] {
        for (i, word) in list.iter().enumerate() {
            let field = format!("config.dns_config.{name}[{i}]");
            path::one_line(word, &field)?;
            if word.is_empty() || word.contains(char::is_whitespace) {
                return Err(Invalid::new(field, format!("{word:?} is not one word")));
            }
        }
    }
    for (i, server) in dns.servers.iter().enumerate() {
        // A link-local address names its link, as in fe80::1%eth0.
        let address = server
            .split_once('%')
            .map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            let field = format!("config.dns_config.servers[{i}]");
            return Err(Invalid::new(
                field,
                format!("{server:?} is not an IP address"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> cri::DnsConfig {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).into()).collect();
        cri::DnsConfig {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        }
    }

    #[test]
    fn resolv_conf_has_a_line_for_each_thing() {
        let all = dns(
            &["10.10.10.10", "fd00::a"],
            &["google.com", "a.b"],
            &["ndots:8", "rotate"],
        );
        let want = "search google.com a.b\nnameserver 10.10.10.10\nnameserver fd00::a\noptions ndots:8 rotate\n";
        assert_eq!(resolv_conf(Some(&all)).unwrap(), want);
        assert_eq!(
            resolv_conf(Some(&dns(&["::1"], &[], &[]))).unwrap(),
            "nameserver ::1\n"
        );
        assert_eq!(resolv_conf(Some(&dns(&[], &[], &[]))), None);
        assert_eq!(resolv_conf(None), None);
    }

    #[test]
    fn what_could_forge_a_line_is_refused() {
        for (config, field) in [
            (dns(&["1.1.1.1", "nameserver"], &[], &[]), "servers[1]"),
            (dns(&[""], &[], &[]), "servers[0]"),
            (dns(&[], &["a b"], &[]), "searches[0]"),
            (dns(&[], &[], &["a\nb"]), "options[0]"),
        ] {
            assert_eq!(
                validate(Some(&config)).unwrap_err().field,
                format!("config.dns_config.{field}")
            );
        }
        assert!(
            validate(Some(&dns(
                &["fe80::1%eth0", "1.1.1.1"],
                &["a."],
                &["ndots:1"]
            )))
            .is_ok()
        );
    }

    #[test]
    fn hosts_names_the_pod_at_each_address() {
        let text = hosts("web.a.svc", &["10.0.0.2".into(), "fd00::2".into()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("\n10.0.0.2\tweb.a.svc web\nfd00::2\tweb.a.svc web\n"),
            "{text}"
        );
        assert!(hosts("web", &["10.0.0.2".into()]).ends_with("\n10.0.0.2\tweb\n"));
    }

    #[test]
    fn a_hostname_is_one_that_the_kernel_takes() {
        let check = |name: &str, network| {
            let namespace_options = Some(cri::NamespaceOption {
                network,
                ..Default::default()
            });
            let security_context = Some(cri::LinuxSandboxSecurityContext {
                namespace_options,
                ..Default::default()
            });
            let linux = Some(cri::LinuxPodSandboxConfig {
                security_context,
                ..Default::default()
            });
            validate_hostname(&cri::PodSandboxConfig {
                hostname: name.into(),
                linux,
                ..Default::default()
            })
        };
        for name in ["", "a", "web-0.web.default", &"x".repeat(64)] {
            assert!(check(name, 0).is_ok(), "{name}");
        }
        for name in ["-a", ".", "a b", "a\nb", "a/b", &"x".repeat(65)] {
            assert_eq!(
                check(name, 0).unwrap_err().field,
                "config.hostname",
                "{name}"
            );
        }
        assert!(check("", 2).is_ok());
        assert!(check("a", 2).unwrap_err().reason.contains("host's network"));
    }
}
