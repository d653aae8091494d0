//! Mounts. What the shim has put into the bundle is bound from there; the kernel's own file systems are the runtime's to make.

use std::path::Path;

use corten_proto::{layout, shim};
use serde_json::{Value, json};
use shim::{Propagation, mount::Kind};

use super::Invalid;

/// The list, and the propagation of the root that it needs.
pub(super) fn lower(
    mounts: Vec<shim::Mount>,
    prepared: &shim::Prepared,
    state_dir: &str,
) -> Result<(Vec<Value>, Option<&'static str>), Invalid> {
    let bundle = Path::new(state_dir).join(layout::BUNDLE);
    let mut propagations = Vec::new();
    let mut lowered = Vec::new();
    for (index, mount) in mounts.into_iter().enumerate() {
        let shim::Mount {
            destination,
            attributes,
            kind,
            // Of pods with user namespaces.
            id_mapped: _,
            field: _,
        } = mount;
        let bound = prepared
            .bound
            .iter()
            .position(|bound| usize::try_from(*bound) == Ok(index));
        let found = bound.and_then(|place| prepared.bound_attributes.get(place).copied());
        let mut options = self::attributes(found.or(attributes).unwrap_or_default());
        let (kind, source) = match kind {
            kind if bound.is_some() => {
                let propagation = propagation(kind.as_ref());
                propagations.push(propagation);
                // What is bound has its attributes. A runtime that mounts it anew, as crun does always and runc with an
                // option, takes those away that it is not told.
                options.extend(["rbind".into(), name(propagation).into()]);
                (
                    "bind".to_owned(),
                    layout::bundle_mount(&bundle, index).display().to_string(),
                )
            }
            Some(Kind::Filesystem(shim::Filesystem {
                r#type,
                options: own,
            })) => {
                let own = own.split(',').filter(|option| !option.is_empty());
                options.extend(own.map(Into::into));
                (r#type.clone(), r#type)
            }
            Some(Kind::Cgroup(shim::CgroupView {})) => ("cgroup".into(), "cgroup".into()),
            // The shim has mounted it in the root.
            Some(Kind::Declared(_)) => continue,
            Some(Kind::Bind(_) | Kind::Image(_)) | None => {
                let reason = "the shim has not made this mount for an external runtime";
                return Err(Invalid::new(format!("mount on {destination}"), reason));
            }
        };
        lowered.push(json!({ "destination": destination, "type": kind, "source": source, "options": options }));
    }
    Ok((lowered, root(&propagations)))
}

/// The mounts in the bundle have their attributes and their propagation; a bind starts from these, save that it would be
/// private.
fn propagation(kind: Option<&Kind>) -> Propagation {
    match kind {
        Some(Kind::Bind(bind)) => bind.propagation(),
        _ => Propagation::Private,
    }
}

fn name(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// Before they mount, runtimes make the root so with all below it, a slave if nothing is said: a mount that was made a
/// slave cannot be shared again with its peers.
fn root(propagations: &[Propagation]) -> Option<&'static str> {
    [Propagation::Bidirectional, Propagation::HostToContainer]
        .into_iter()
        .find(|propagation| propagations.contains(propagation))
        .map(name)
}

fn attributes(attributes: shim::MountAttributes) -> Vec<String> {
    let shim::MountAttributes {
        readonly,
        nosuid,
        nodev,
        noexec,
    } = attributes;
    let flags = [
        (readonly, "ro"),
        (nosuid, "nosuid"),
        (nodev, "nodev"),
        (noexec, "noexec"),
    ];
    flags
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name.into())
        .collect()
}
