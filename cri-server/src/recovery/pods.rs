//! Pods: READY only if they were made in this boot and their namespaces are still pinned.

use std::{path::Path, sync::Arc};

use corten_proto::{
    layout,
    record::{self, resource::Kind},
};

use super::{names, quarantine};
use crate::{context::Context, error::Result, pod::Pod, record_file};

pub(super) fn restore(cx: &Arc<Context>) -> Result<()> {
    for name in names(&cx.config.root.join("pods"))? {
        let path = layout::pod_record(&cx.config.root, &name);
        if path.extension().is_some() {
            record_file::remove(&path)?;
            continue;
        }
        match record_file::read::<record::Pod>(&path) {
            Ok(mut record) => {
                record.stopped |= record.boot_id != cx.boot_id || !is_pinned(&record);
                if !record.selinux_level.is_empty() {
                    cx.selinux_levels.reserve(&record.id, &record.selinux_level);
                }
                cx.store.publish_pod(Arc::new(Pod::new(record)));
            }
            Err(error) => quarantine(cx, &path, &error.chain())?,
        }
    }
    Ok(())
}

fn is_pinned(record: &record::Pod) -> bool {
    record
        .resources
        .iter()
        .all(|resource| match &resource.kind {
            Some(Kind::Pin(path) | Kind::PidPin(path) | Kind::UserPin(path)) => {
                Path::new(path).exists()
            }
            _ => true,
        })
}
