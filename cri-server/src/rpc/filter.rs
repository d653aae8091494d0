//! Filters of lists: everything that is set must fit (CRI, PodSandboxFilter and ContainerFilter).

use std::collections::BTreeMap;

use corten_proto::cri;

use crate::{container::Container, pod::Pod};

/// Whether `pod` fits. An id may be given by its first digits.
pub(super) fn pod_fits(filter: Option<&cri::PodSandboxFilter>, pod: &Pod) -> bool {
    let Some(filter) = filter else { return true };
    let state = filter
        .state
        .as_ref()
        .is_none_or(|wanted| wanted.state() == pod.state());
    state
        && pod.record.id.starts_with(&filter.id)
        && labels_fit(&filter.label_selector, &pod.config().labels)
}

/// Whether `container`, which is in `state`, fits.
pub(super) fn container_fits(
    filter: Option<&cri::ContainerFilter>,
    container: &Container,
    state: cri::ContainerState,
) -> bool {
    let Some(filter) = filter else { return true };
    filter
        .state
        .as_ref()
        .is_none_or(|wanted| wanted.state() == state)
        && container.record.id.starts_with(&filter.id)
        && container.record.pod_id.starts_with(&filter.pod_sandbox_id)
        && labels_fit(&filter.label_selector, &container.config().labels)
}

fn labels_fit(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use corten_proto::record;

    use super::*;

    fn pod() -> Pod {
        let labels = BTreeMap::from([
            ("app".into(), "web".into()),
            ("tier".into(), "front".into()),
        ]);
        let config = cri::PodSandboxConfig {
            labels,
            ..Default::default()
        };
        Pod::new(record::Pod {
            id: "abc123".into(),
            config: Some(config),
            ..Default::default()
        })
    }

    #[track_caller]
    fn check(id: &str, labels: &[(&str, &str)], state: Option<cri::PodSandboxState>, want: bool) {
        let filter = cri::PodSandboxFilter {
            id: id.into(),
            state: state.map(|state| cri::PodSandboxStateValue {
                state: state.into(),
            }),
            label_selector: labels
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        };
        assert_eq!(pod_fits(Some(&filter), &pod()), want);
    }

    #[test]
    fn all_that_is_set_must_fit() {
        check("", &[], None, true);
        check(
            "abc",
            &[("app", "web")],
            Some(cri::PodSandboxState::SandboxReady),
            true,
        );
        check("abc", &[("app", "db")], None, false);
        check("abd", &[("app", "web")], None, false);
        check(
            "abc123",
            &[],
            Some(cri::PodSandboxState::SandboxNotready),
            false,
        );
    }
}
