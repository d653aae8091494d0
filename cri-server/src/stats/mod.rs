//! What pods and containers use, read when it is asked for: cgroups and pod networks on one blocking thread, writable layers
//! by walks that nobody has to wait for ([`layer`]).
//!
//! A container that ends meanwhile, or whose cgroup cannot be read, is left out: it must not take the others' figures along.

mod disk_usage;
mod layer;
mod rate;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use corten_proto::cri;
use corten_sys::cgroup::{Cgroup, Hierarchies, MemoryUsage, Usage};

pub(crate) use self::layer::{Layer, Walks};
use self::rate::Rate;
use crate::{
    blocking::blocking, clock, container::Container, context::Context, error::Result, pod::Pod,
};

/// The samples that a pod's or container's next CPU rate is counted from; none before the first figure.
#[derive(Debug, Default)]
pub(crate) struct CpuSamples(Mutex<Option<Rate>>);

impl CpuSamples {
    /// The rate up to now in nanoseconds a second. Before the first sample there is the one that `start` gives.
    fn next(&self, used: u64, start: impl FnOnce() -> Option<Rate>) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match samples.take().or_else(start) {
            Some(rate) => Some(samples.insert(rate).next(now, used)),
            None => {
                *samples = Some(Rate::from(now, used));
                None
            }
        }
    }
}

/// A moment's figures of one container.
struct Figures<'a> {
    container: &'a Container,
    usage: Usage,
    /// Nanoseconds of CPU time a second.
    cpu_rate: u64,
    stats: cri::ContainerStats,
}

/// The usage of those of `containers` that have not ended.
pub(crate) async fn of_containers(
    cx: &Arc<Context>,
    containers: Vec<Arc<Container>>,
) -> Result<Vec<cri::ContainerStats>> {
    let containers = living(cx, containers).await;
    let hierarchies = Arc::clone(&cx.undo.hierarchies);
    let root = cx.config.root.display().to_string();
    blocking(move || {
        let figures = read_all(&hierarchies, &root, &containers);
        Ok(figures.map(|figures| figures.stats).collect())
    })
    .await
}

/// The usage of `pods`, with their containers'.
pub(crate) async fn of_pods(
    cx: &Arc<Context>,
    pods: Vec<Arc<Pod>>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let containers = pods
        .iter()
        .flat_map(|pod| cx.store.containers_of(&pod.record.id));
    let containers = living(cx, containers.collect()).await;
    let hierarchies = Arc::clone(&cx.undo.hierarchies);
    let root = cx.config.root.display().to_string();
    blocking(move || {
        let mut by_pod: HashMap<_, Vec<_>> = HashMap::new();
        for figures in read_all(&hierarchies, &root, &containers) {
            by_pod
                .entry(&*figures.container.record.pod_id)
                .or_default()
                .push(figures);
        }
        let stats = pods.iter().map(|pod| {
            let containers = by_pod.remove(&*pod.record.id).unwrap_or_default();
            read_pod(&hierarchies, pod, containers)
        });
        Ok(stats.collect())
    })
    .await
}

/// Those that have not ended, with their layers looked at.
async fn living(cx: &Arc<Context>, mut containers: Vec<Arc<Container>>) -> Vec<Arc<Container>> {
    containers.retain(|container| !container.is_exited());
    layer::refresh(cx, &containers).await;
    containers
}

fn read_all<'a>(
    hierarchies: &'a Hierarchies,
    root: &'a str,
    containers: &'a [Arc<Container>],
) -> impl Iterator<Item = Figures<'a>> {
    containers.iter().filter_map(move |container| {
        let (id, path) = (&container.record.id, &container.record.cgroup);
        match Cgroup::new(hierarchies, path).usage() {
            Ok(usage) => Some(figures(root, container, usage)),
            Err(error) => {
                tracing::debug!(container = %id, cgroup = path, %error, "the usage could not be read");
                None
            }
        }
    })
}

fn figures<'a>(root: &str, container: &'a Container, usage: Usage) -> Figures<'a> {
    let now = clock::unix_nanos();
    // Its cgroup was made when it was created, and had used nothing then.
    let start = || {
        let age = u64::try_from(now - container.record.created_at_ns).unwrap_or_default();
        Some(Rate::from(
            Instant::now().checked_sub(Duration::from_nanos(age))?,
            0,
        ))
    };
    let cpu_rate = container
        .cpu_samples
        .next(usage.cpu.unwrap_or_default(), start)
        .unwrap_or_default();
    let stats = view::container(root, container, &usage, cpu_rate, now);
    Figures {
        container,
        usage,
        cpu_rate,
        stats,
    }
}

fn read_pod(
    hierarchies: &Hierarchies,
    pod: &Pod,
    containers: Vec<Figures<'_>>,
) -> cri::PodSandboxStats {
    let now = clock::unix_nanos();
    let own = pod.own_cgroup().and_then(|path| {
        let usage = Cgroup::new(hierarchies, path).usage();
        let tell = |error: &std::io::Error| {
            tracing::debug!(sandbox = %pod.record.id, cgroup = path, %error, "the usage could not be read");
        };
        usage.inspect_err(tell).ok()
    });
    // Its containers may be all that is known: their parent may hold other pods, too.
    let rates = containers.iter().map(|figures| figures.cpu_rate).sum();
    let (usage, cpu_rate) = match own {
        Some(usage) => {
            let cpu = usage.cpu.unwrap_or_default();
            // What the cgroup had used before the pod was made is not known.
            let rate = pod.cpu_samples.next(cpu, || None);
            (usage, rate.unwrap_or(rates))
        }
        None => (sum(containers.iter().map(|figures| &figures.usage)), rates),
    };
    let alone: Vec<_> = containers
        .iter()
        .map(|figures| &*figures.container.record.cgroup)
        .collect();
    let counted = pod.own_cgroup().map_or(alone, |own| vec![own]);
    let count = |path: &str| {
        Cgroup::new(hierarchies, path)
            .all_procs()
            .map_or(0, |processes| processes.len())
    };
    let processes = counted.into_iter().map(count).sum();
    let interfaces = pod.netns().and_then(|netns| {
        let tell = |error: &std::io::Error| {
            tracing::debug!(sandbox = %pod.record.id, %error, "the network could not be asked");
        };
        corten_cni::counters(&netns).inspect_err(tell).ok()
    });
    let containers = containers
        .into_iter()
        .map(|figures| figures.stats)
        .collect();
    view::pod(
        pod,
        &view::PodFigures {
            usage,
            cpu_rate,
            processes,
            interfaces,
            now,
        },
        containers,
    )
}

/// What all use together. Shares of time cannot be added, nor can limits that some have and others have not.
fn sum<'a>(all: impl Iterator<Item = &'a Usage>) -> Usage {
    let mut sum = Usage::default();
    for usage in all {
        sum.cpu = Some(sum.cpu.unwrap_or_default() + usage.cpu.unwrap_or_default());
        let Some(one) = usage.memory else { continue };
        let memory = sum.memory.get_or_insert_default();
        *memory = MemoryUsage {
            total: memory.total + one.total,
            inactive_file: memory.inactive_file + one.inactive_file,
            rss: memory.rss + one.rss,
            page_faults: memory.page_faults + one.page_faults,
            major_page_faults: memory.major_page_faults + one.major_page_faults,
            limit: None,
            swap: None,
        };
    }
    sum
}
