//! The pods and containers of this daemon, in memory. Lists and statuses read here alone: the lock is held for lookups in
//! maps and for nothing that can wait.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    container::Container,
    error::{Error, Result},
    pod::Pod,
};

#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: RwLock<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    pods: BTreeMap<String, Arc<Pod>>,
    containers: BTreeMap<String, Arc<Container>>,
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

    pub(crate) fn publish_pod(&self, pod: Arc<Pod>) {
        self.write().pods.insert(pod.record.id.clone(), pod);
    }

    /// Publishes `container` unless its pod was stopped or removed meanwhile.
    pub(crate) fn publish_container(&self, container: Arc<Container>) -> Result<()> {
        let mut objects = self.write();
        match objects.pods.get(&container.record.pod_id) {
            Some(pod) => pod.check_ready()?,
            None => return Err(Error::not_found("pod sandbox", &container.record.pod_id)),
        }
        objects
            .containers
            .insert(container.record.id.clone(), container);
        Ok(())
    }

    /// Puts back what an earlier daemon had published.
    pub(crate) fn restore_container(&self, container: Arc<Container>) {
        self.write()
            .containers
            .insert(container.record.id.clone(), container);
    }

    pub(crate) fn remove_pod(&self, id: &str) {
        self.write().pods.remove(id);
    }

    pub(crate) fn remove_container(&self, id: &str) {
        self.write().containers.remove(id);
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
