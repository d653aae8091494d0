//! hugetlb: memory in huge pages, by page size. Limited are both the pages in use and those that are set aside for mappings
//! (`rsvd`): a process beyond its limit then fails at mmap, and not by SIGBUS when it touches the page.

use std::path::PathBuf;

use super::{Cgroup, Resources, setting::Setting};

pub(super) fn settings(cgroup: &Cgroup<'_>, resources: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let field = format!("hugepage_limits[{index}]");
        let files = ["rsvd.", ""].map(|kind| file(cgroup, &limit.page_size, kind));
        settings.extend(
            files
                .into_iter()
                .flatten()
                .map(|file| Setting::new(field.clone(), file, limit.limit)),
        );
    }
    settings
}

/// Whether this host cannot limit pages of this size.
pub(super) fn is_missing(cgroup: &Cgroup<'_>, page_size: &str) -> bool {
    file(cgroup, page_size, "").is_none()
}

/// Hybrid hosts may have it in either.
fn file(cgroup: &Cgroup<'_>, page_size: &str, kind: &str) -> Option<PathBuf> {
    let v1 = cgroup.v1("hugetlb");
    let v1 = v1.map(|dir| dir.join(format!("hugetlb.{page_size}.{kind}limit_in_bytes")));
    let v2 = cgroup.v2();
    let v2 = v2.map(|dir| dir.join(format!("hugetlb.{page_size}.{kind}max")));
    v1.into_iter().chain(v2).find(|file| file.exists())
}
