//! The pods and containers of this daemon, in memory. Lists and statuses read here alone: the lock is held for lookups in
//! maps and for nothing that can wait.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use corten_proto::cri;

use crate::{
    container::Container,
    error::{Error, Result},
    limit::{Count, Share},
    pod::Pod,
    spec,
};

/// Bytes of all pods in one list. Clients take answers of 16 MiB, and a list of pods' stats has containers, too.
const MAX_PODS: usize = 8 << 20;
/// Bytes of all containers in one list.
const MAX_CONTAINERS: usize = 6 << 20;

#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: RwLock<Objects>,
    /// Bytes in lists of what is on its way.
    coming_pods: Count,
    coming_containers: Count,
}

#[derive(Debug, Default)]
struct Objects {
    pods: BTreeMap<String, Arc<Pod>>,
    containers: BTreeMap<String, Arc<Container>>,
    /// Bytes of them in lists.
    pod_bytes: usize,
    container_bytes: usize,
}

impl Objects {
    fn put_pod(&mut self, pod: Arc<Pod>) {
        self.pod_bytes += spec::listed_pod(pod.config());
        if let Some(old) = self.pods.insert(pod.record.id.clone(), pod) {
            self.pod_bytes -= spec::listed_pod(old.config());
        }
    }

    fn put_container(&mut self, container: Arc<Container>) {
        self.container_bytes += spec::listed_container(container.config());
        let id = container.record.id.clone();
        if let Some(old) = self.containers.insert(id, container) {
            self.container_bytes -= spec::listed_container(old.config());
        }
    }
}

impl Store {
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        self.read()
            .containers
            .values()
            .filter(|container| container.record.pod_id == pod)
            .cloned()
            .collect()
    }

    /// The pod with this id, or the only one whose id begins with it.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        find(&self.read().pods, "pod sandbox", id)
    }

    /// The container with this id, or the only one whose id begins with it.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.read().containers, "container", id)
    }

    pub(crate) fn pod_named(&self, name: &str) -> Option<Arc<Pod>> {
        self.read()
            .pods
            .values()
            .find(|pod| pod.name == name)
            .cloned()
    }

    pub(crate) fn container_named(&self, pod: &str, name: &str) -> Option<Arc<Container>> {
        let objects = self.read();
        objects
            .containers
            .values()
            .find(|container| container.record.pod_id == pod && container.name == name)
            .cloned()
    }

    /// Room in the lists for a pod that is about to be made; to be kept until it is published. One of this name that is
    /// there has its room, and is given again or makes way.
    ///
    /// # Errors
    /// When a list of all pods would be more than clients take: then none of them would see any pod.
    pub(crate) fn room_for_pod(&self, name: &str, config: &cri::PodSandboxConfig) -> Result<Share> {
        let old = self.pod_named(name);
        let old = old.map_or(0, |old| spec::listed_pod(old.config()));
        let bytes = spec::listed_pod(config).saturating_sub(old);
        // While the lock is held, none of those on their way becomes one of those that are there.
        let objects = self.read();
        let share = self.coming_pods.take(bytes, objects.pod_bytes, MAX_PODS);
        share.ok_or(Error::TooMany {
            what: "bytes of labels and annotations that all pods may have together: remove pods, or take annotations away",
            limit: MAX_PODS,
        })
    }

    /// The same for a container.
    pub(crate) fn room_for_container(
        &self,
        pod: &str,
        name: &str,
        config: &cri::ContainerConfig,
    ) -> Result<Share> {
        let old = self.container_named(pod, name);
        let old = old.map_or(0, |old| spec::listed_container(old.config()));
        let bytes = spec::listed_container(config).saturating_sub(old);
        let objects = self.read();
        let share = self
            .coming_containers
            .take(bytes, objects.container_bytes, MAX_CONTAINERS);
        share.ok_or(Error::TooMany {
            what: "bytes of labels and annotations that all containers may have together: remove containers, or take annotations away",
            limit: MAX_CONTAINERS,
        })
    }

    pub(crate) fn publish_pod(&self, pod: Arc<Pod>) {
        self.write().put_pod(pod);
    }

    /// Publishes `container` unless its pod was stopped or removed meanwhile.
    pub(crate) fn publish_container(&self, container: Arc<Container>) -> Result<()> {
        let mut objects = self.write();
        match objects.pods.get(&container.record.pod_id) {
            Some(pod) => pod.check_ready()?,
            None => return Err(Error::not_found("pod sandbox", &container.record.pod_id)),
        }
        objects.put_container(container);
        Ok(())
    }

    /// Puts back what an earlier daemon had published.
    pub(crate) fn restore_container(&self, container: Arc<Container>) {
        self.write().put_container(container);
    }

    pub(crate) fn remove_pod(&self, id: &str) {
        let mut objects = self.write();
        if let Some(pod) = objects.pods.remove(id) {
            objects.pod_bytes -= spec::listed_pod(pod.config());
        }
    }

    pub(crate) fn remove_container(&self, id: &str) {
        let mut objects = self.write();
        if let Some(container) = objects.containers.remove(id) {
            objects.container_bytes -= spec::listed_container(container.config());
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<T>(objects: &BTreeMap<String, Arc<T>>, kind: &'static str, id: &str) -> Result<Arc<T>> {
    if id.is_empty() {
        return Err(Error::not_found(kind, id));
    }
    let from = (Bound::Included(id), Bound::Unbounded);
    let mut fitting = objects
        .range::<str, _>(from)
        .take_while(|(key, _)| key.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some((_, object)), None) => Ok(Arc::clone(object)),
        (None, _) => Err(Error::not_found(kind, id)),
        _ => Err(Error::Ambiguous {
            kind,
            id: id.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> BTreeMap<String, Arc<u8>> {
        ["aa1", "aa2", "b"]
            .into_iter()
            .map(|id| (id.to_owned(), Arc::new(0)))
            .collect()
    }

    #[test]
    fn a_prefix_finds_the_only_one_it_fits() {
        assert!(find(&objects(), "pod sandbox", "aa1").is_ok());
        assert!(find(&objects(), "pod sandbox", "b").is_ok());
    }

    #[test]
    fn a_prefix_of_two_is_ambiguous_and_of_none_not_found() {
        assert!(matches!(
            find(&objects(), "pod sandbox", "aa"),
            Err(Error::Ambiguous { .. })
        ));
        assert!(matches!(
            find(&objects(), "pod sandbox", "c"),
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(
            find(&objects(), "pod sandbox", ""),
            Err(Error::NotFound { .. })
        ));
    }
}
