//! Figures as the CRI has them.

use corten_cni::Counters;
use corten_proto::cri;
use corten_sys::cgroup::{MemoryUsage, Pressure, Stall, SwapUsage, Usage};

use crate::{container::Container, pod::Pod};

/// A moment's figures of one pod.
pub(super) struct PodFigures {
    pub(super) usage: Usage,
    /// Nanoseconds of CPU time a second.
    pub(super) cpu_rate: u64,
    pub(super) processes: usize,
    /// The one that the pod was attached by comes first; `None` on the host's network.
    pub(super) interfaces: Option<Vec<Counters>>,
    /// Unix time in nanoseconds.
    pub(super) now: i64,
}

/// `root` names the file system of the writable layers, as ImageFsInfo does: the kubelet compares the two.
pub(super) fn container(
    root: &str,
    container: &Container,
    usage: &Usage,
    cpu_rate: u64,
    now: i64,
) -> cri::ContainerStats {
    let config = container.config();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: Some(cpu(usage, cpu_rate, now)),
        memory: Some(memory(usage, now)),
        writable_layer: container
            .layer
            .last()
            .map(|(usage, at_ns)| cri::FilesystemUsage {
                timestamp: at_ns,
                fs_id: Some(cri::FilesystemIdentifier {
                    mountpoint: root.to_owned(),
                }),
                used_bytes: value(usage.bytes),
                inodes_used: value(usage.inodes),
            }),
        swap: usage
            .memory
            .and_then(|memory| memory.swap)
            .map(|usage| swap(usage, now)),
        io: Some(io(usage, now)),
    }
}

pub(super) fn pod(
    pod: &Pod,
    figures: &PodFigures,
    containers: Vec<cri::ContainerStats>,
) -> cri::PodSandboxStats {
    let (config, now) = (pod.config(), figures.now);
    let linux = cri::LinuxPodSandboxStats {
        cpu: Some(cpu(&figures.usage, figures.cpu_rate, now)),
        memory: Some(memory(&figures.usage, now)),
        network: figures
            .interfaces
            .as_deref()
            .map(|interfaces| network(interfaces, now)),
        process: Some(cri::ProcessUsage {
            timestamp: now,
            process_count: value(u64::try_from(figures.processes).unwrap_or_default()),
        }),
        containers,
        io: Some(io(&figures.usage, now)),
    };
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: pod.record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn cpu(usage: &Usage, rate: u64, timestamp: i64) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(usage.cpu.unwrap_or_default()),
        usage_nano_cores: value(rate),
        psi: usage.cpu_pressure.map(psi),
    }
}

fn memory(usage: &Usage, timestamp: i64) -> cri::MemoryUsage {
    let memory = usage.memory.unwrap_or_default();
    let available = |limit: u64| limit.saturating_sub(memory.working_set());
    let MemoryUsage {
        total,
        rss,
        page_faults,
        major_page_faults,
        ..
    } = memory;
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set()),
        available_bytes: memory.limit.and_then(|limit| value(available(limit))),
        usage_bytes: value(total),
        rss_bytes: value(rss),
        page_faults: value(page_faults),
        major_page_faults: value(major_page_faults),
        psi: usage.memory_pressure.map(psi),
    }
}

fn swap(usage: SwapUsage, timestamp: i64) -> cri::SwapUsage {
    let SwapUsage { used, limit } = usage;
    cri::SwapUsage {
        timestamp,
        swap_available_bytes: limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    }
}

fn io(usage: &Usage, timestamp: i64) -> cri::IoUsage {
    cri::IoUsage {
        timestamp,
        psi: usage.io_pressure.map(psi),
    }
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |stall: Stall| cri::PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    }
}

fn network(interfaces: &[Counters], timestamp: i64) -> cri::NetworkUsage {
    let mut interfaces = interfaces
        .iter()
        .map(|counters| cri::NetworkInterfaceUsage {
            name: counters.name.clone(),
            rx_bytes: value(counters.rx_bytes),
            rx_errors: value(counters.rx_errors),
            tx_bytes: value(counters.tx_bytes),
            tx_errors: value(counters.tx_errors),
        });
    cri::NetworkUsage {
        timestamp,
        default_interface: interfaces.next(),
        interfaces: interfaces.collect(),
    }
}

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}
