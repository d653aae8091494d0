//! Options of a mount as one text each, as in mount(8) `-o` (OCI runtime-spec, config.md, "Linux mount options").
//!
//! Self-contained, so that `fuzz/` can have it.

use corten_proto::shim::{Bind, Filesystem, MountAttributes, Propagation};

/// What options ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MountOptions {
    pub(crate) attributes: MountAttributes,
    propagation: Propagation,
    recursive_readonly: bool,
    non_recursive: bool,
    /// Of tmpfs, `key=value`.
    data: Vec<String>,
}

/// tmpfs(5), but for those that touch other mounts or the host's swap.
const TMPFS: [&str; 6] = ["size", "nr_blocks", "nr_inodes", "mode", "uid", "gid"];

impl MountOptions {
    /// A later option wins over an earlier one that says the contrary.
    ///
    /// # Errors
    /// The first option that is not supported.
    pub(crate) fn parse(options: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for option in options {
            if !parsed.set(option) {
                return Err(format!("option {option:?} is not supported"));
            }
        }
        Ok(parsed)
    }

    fn set(&mut self, option: &str) -> bool {
        let attributes = &mut self.attributes;
        match option {
            "defaults" => {}
            "ro" => attributes.readonly = true,
            "rw" => (attributes.readonly, self.recursive_readonly) = (false, false),
            "rro" => (attributes.readonly, self.recursive_readonly) = (true, true),
            "nosuid" => attributes.nosuid = true,
            "suid" => attributes.nosuid = false,
            "nodev" => attributes.nodev = true,
            "dev" => attributes.nodev = false,
            "noexec" => attributes.noexec = true,
            "exec" => attributes.noexec = false,
            "bind" => self.non_recursive = true,
            "rbind" => self.non_recursive = false,
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::HostToContainer,
            "shared" | "rshared" => self.propagation = Propagation::Bidirectional,
            _ => return self.set_data(option),
        }
        true
    }

    fn set_data(&mut self, option: &str) -> bool {
        // A comma would begin another option.
        let known = option
            .split_once('=')
            .is_some_and(|(key, value)| TMPFS.contains(&key) && !value.contains([',', '\0']));
        if known {
            self.data.push(option.to_owned());
        }
        known
    }

    /// # Errors
    /// Options that are for a file system of its own.
    pub(crate) fn bind(&self, source: &str) -> Result<Bind, String> {
        match self.data.first() {
            Some(option) => Err(format!("option {option:?} is for a tmpfs")),
            None => Ok(Bind {
                source: source.to_owned(),
                propagation: self.propagation.into(),
                recursive_readonly: self.recursive_readonly,
                non_recursive: self.non_recursive,
                ..Bind::default()
            }),
        }
    }

    /// # Errors
    /// Propagation, which a tmpfs of the container's own has none of.
    pub(crate) fn tmpfs(&self) -> Result<Filesystem, String> {
        if self.propagation != Propagation::Private {
            return Err("a tmpfs has private propagation".into());
        }
        Ok(Filesystem {
            r#type: "tmpfs".into(),
            options: self.data.join(","),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<MountOptions, String> {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn a_bind_mount_has_flags_and_propagation() {
        let options =
            parse(&["ro", "nosuid", "nodev", "noexec", "exec", "rbind", "rslave"]).unwrap();
        let MountAttributes {
            readonly,
            nosuid,
            nodev,
            noexec,
        } = options.attributes;
        assert_eq!((readonly, nosuid, nodev, noexec), (true, true, true, false));
        let bind = options.bind("/s").unwrap();
        assert_eq!(
            (bind.propagation(), bind.non_recursive),
            (Propagation::HostToContainer, false)
        );
        assert!(parse(&["bind"]).unwrap().bind("/s").unwrap().non_recursive);
        let recursive = parse(&["rro"]).unwrap();
        assert!(recursive.attributes.readonly && recursive.bind("/s").unwrap().recursive_readonly);
        assert!(!parse(&["rro", "rw"]).unwrap().attributes.readonly);
    }

    #[test]
    fn a_tmpfs_has_options_of_its_own() {
        let options = parse(&["size=64k", "mode=1777", "noexec"]).unwrap();
        assert_eq!(options.tmpfs().unwrap().options, "size=64k,mode=1777");
        assert!(options.bind("/s").unwrap_err().contains("size=64k"));
        assert!(parse(&["rshared"]).unwrap().tmpfs().is_err());
    }

    #[test]
    fn what_is_not_supported_is_told_by_name() {
        for option in [
            "noatime",
            "remount",
            "size=1,mpol=bind",
            "mpol=bind",
            "",
            "x=y",
            "unbindable",
        ] {
            let reason = parse(&["ro", option]).unwrap_err();
            assert!(reason.contains(&format!("{option:?}")), "{reason}");
        }
    }
}
