//! Which SELinux labels a request asks for.

use super::{Host, Invalid, Security};

/// That no label is lost. Where SELinux is absent, labels ask for nothing, as under every runtime.
pub(super) fn check(security: Security<'_>, host: &Host) -> Result<(), Invalid> {
    match security.0 {
        Some(context) if host.selinux && context.selinux_options.is_some() => Err(Invalid::new(
            format!("{}.selinux_options", Security::FIELD),
            "SELinux labels are not supported",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use corten_proto::cri;

    use super::*;

    #[test]
    fn selinux_options_count_only_where_selinux_is() {
        let context = cri::LinuxContainerSecurityContext {
            selinux_options: Some(cri::SeLinuxOption::default()),
            ..Default::default()
        };
        assert_eq!(check(Security(Some(&context)), &Host::for_test()), Ok(()));
        let host = Host {
            selinux: true,
            ..Host::for_test()
        };
        assert!(check(Security(Some(&context)), &host).is_err());
    }
}
