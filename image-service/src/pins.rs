//! Images that the operator wants to stay: the kubelet and `corten image gc` pass them over.

use crate::reference::Reference;

/// Names, or patterns in which `*` stands for any characters, slashes too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Vec<String>);

impl Pins {
    pub(crate) fn new(patterns: &[String]) -> Self {
        let whole = |pattern: &String| match Reference::parse(pattern) {
            Ok(reference) => reference.to_string(),
            Err(_) => pattern.clone(),
        };
        Self(patterns.iter().map(whole).collect())
    }

    pub(crate) fn hold<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> bool {
        names.any(|name| self.0.iter().any(|pattern| matches(pattern, name)))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<_> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, want: bool) {
        let pins = Pins::new(&[pattern.to_owned()]);
        assert_eq!(
            pins.hold([name.to_owned()].iter()),
            want,
            "{pattern} {name}"
        );
    }

    #[test]
    fn names_and_patterns() {
        check("busybox", "docker.io/library/busybox:latest", true);
        check("busybox", "docker.io/library/busybox:1", false);
        check("registry.k8s.io/*", "registry.k8s.io/a/b:1", true);
        check("registry.k8s.io/*", "mirror/registry.k8s.io/a", false);
        check("*/pause:*", "registry.k8s.io/pause:3.10", true);
        check("*/pause:*", "registry.k8s.io/pauses:3.10", false);
        check("*ab*ab", "xabab", true);
        check("*ab*ab", "xab", false);
        check("*", "anything", true);
    }
}
