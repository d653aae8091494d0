//! Whose images may be used: by registry or repository all, none, or those that a key has signed.
//!
//! ```text
//! rule for the name --accept--> in
//!                   --reject--> refused, and nothing is asked of the registry
//!                   --sigstore-> the manifest's digest is known -> signatures beside the image -> keys -> in, or refused
//! ```
//!
//! Signatures are cosign's, found by its tag or by the referrers of the image; no service but the registry is asked.

mod key;

mod signature;

mod search;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{Error, brief};
use crate::reference::Reference;
use crate::registry::Session;

/// What is asked of the images of a registry or repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Shape: `*`, `registry.example`, `registry.example/team`, `registry.example/team/app`. The longest that fits counts.
    pub scope: String,
    pub requirement: Requirement,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    Accept,
    Reject,
    /// A signature that one of these keys verifies: PEM files, read anew for each pull.
    Sigstore {
        keys: Vec<PathBuf>,
    },
}

/// All rules. What no rule fits is accepted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy(Vec<PolicyRule>);

impl Policy {
    pub(crate) fn new(rules: Vec<PolicyRule>) -> Self {
        Self(rules)
    }

    /// Before anything is fetched.
    ///
    /// # Errors
    /// SignatureValidationFailed, if the name is rejected.
    pub(crate) fn admit_name(&self, reference: &Reference) -> Result<(), Error> {
        match self.rule(&repository(reference)) {
            Some(PolicyRule {
                scope,
                requirement: Requirement::Reject,
            }) => Err(refused(
                reference,
                format!("the policy of {scope:?} rejects it"),
            )),
            _ => Ok(()),
        }
    }

    /// Before anything is unpacked. A signature of any of `digests` will do: the one that the name stands for, and the one of
    /// this platform's manifest, which the first one covers.
    ///
    /// # Errors
    /// SignatureValidationFailed with what each signature lacks; those of the registry; Io, Content for a key.
    pub(crate) async fn admit(
        &self,
        session: &Session,
        reference: &Reference,
        digests: &[Digest],
    ) -> Result<(), Error> {
        let Some(PolicyRule {
            scope,
            requirement: Requirement::Sigstore { keys },
        }) = self.rule(&repository(reference))
        else {
            return Ok(());
        };
        let keys = key::read_all(keys).await?;
        let mut reasons = Vec::new();
        for digest in digests {
            for found in search::signatures(session, digest).await? {
                match signature::verify(&found, &keys, reference, digest) {
                    Ok(key) => {
                        tracing::info!(image = %reference, %digest, key, "signature is good");
                        return Ok(());
                    }
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        reasons.dedup();
        let reason = match reasons.is_empty() {
            true => "it has no signature".to_owned(),
            false => reasons.join("; "),
        };
        let text = format!("the policy of {scope:?} wants a signature by its keys: {reason}");
        Err(refused(reference, text))
    }

    /// An archive brings no signatures. `None` for an image without a name.
    ///
    /// # Errors
    /// SignatureValidationFailed, unless the name's images are accepted as they are.
    pub(crate) fn admit_archive(&self, name: Option<&Reference>) -> Result<(), Error> {
        let repository = name.map(repository).unwrap_or_default();
        let Some(rule) = self.rule(&repository) else {
            return Ok(());
        };
        let (scope, what) = match &rule.requirement {
            Requirement::Accept => return Ok(()),
            Requirement::Reject => (&rule.scope, "rejects it"),
            Requirement::Sigstore { .. } => (
                &rule.scope,
                "wants a signature, which an archive does not bring: pull it from a registry",
            ),
        };
        Err(Error::Policy {
            image: name.map_or_else(|| "without a name".to_owned(), ToString::to_string),
            reason: format!("the policy of {scope:?} {what}"),
        })
    }

    fn rule(&self, repository: &str) -> Option<&PolicyRule> {
        let fits = self.0.iter().filter(|rule| fits(&rule.scope, repository));
        fits.max_by_key(|rule| match rule.scope.as_str() {
            "*" => 0,
            scope => scope.len(),
        })
    }
}

fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

fn refused(reference: &Reference, reason: String) -> Error {
    Error::Policy {
        image: reference.to_string(),
        reason: brief(reason),
    }
}

fn fits(scope: &str, repository: &str) -> bool {
    scope == "*"
        || repository
            .strip_prefix(scope)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(scope: &str, requirement: Requirement) -> PolicyRule {
        PolicyRule {
            scope: scope.to_owned(),
            requirement,
        }
    }

    #[test]
    fn the_longest_scope_counts() {
        let policy = Policy::new(vec![
            rule("*", Requirement::Reject),
            rule("registry.example/team/app", Requirement::Reject),
            rule("registry.example", Requirement::Accept),
            rule(
                "registry.example/team",
                Requirement::Sigstore { keys: Vec::new() },
            ),
        ]);
        let check = |repository: &str, want: &str| {
            assert_eq!(policy.rule(repository).unwrap().scope, want, "{repository}");
        };
        check("registry.example/team/app", "registry.example/team/app");
        check("registry.example/team/application", "registry.example/team");
        check("registry.example/teams/app", "registry.example");
        check("registry.example.org/team/app", "*");
        check("docker.io/library/busybox", "*");
        check("", "*");
        assert!(
            Policy::default()
                .rule("docker.io/library/busybox")
                .is_none()
        );
    }

    #[test]
    fn an_archive_has_to_be_accepted_by_its_name() {
        let policy = Policy::new(vec![
            rule("a.example", Requirement::Sigstore { keys: Vec::new() }),
            rule("b.example", Requirement::Reject),
        ]);
        let admit = |name: &str| policy.admit_archive(Some(&Reference::parse(name).unwrap()));
        assert!(
            admit("a.example/x")
                .unwrap_err()
                .to_string()
                .contains("does not bring")
        );
        assert!(
            admit("b.example/x")
                .unwrap_err()
                .to_string()
                .contains("rejects it")
        );
        assert!(admit("c.example/x").is_ok() && policy.admit_archive(None).is_ok());
        let closed = Policy::new(vec![rule("*", Requirement::Reject)]);
        assert!(closed.admit_archive(None).is_err());
    }
}
