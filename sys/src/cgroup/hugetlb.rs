//! hugetlb: memory in huge pages, by page size.

use std::io;

use super::{Cgroup, Resources, write};

pub(super) fn apply(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    for limit in &resources.hugepage_limits {
        let (size, bytes) = (&limit.page_size, limit.limit.to_string());
        // Hybrid hosts may have it in either.
        let v1 = cgroup
            .v1("hugetlb")
            .map(|dir| dir.join(format!("hugetlb.{size}.limit_in_bytes")));
        let v2 = cgroup
            .v2()
            .map(|dir| dir.join(format!("hugetlb.{size}.max")));
        match v1.or(v2.filter(|file| file.exists())) {
            Some(file) => write(&file, &bytes)?,
            // The kubelet asks for a limit of 0 for every size, also where there is no controller.
            None if limit.limit == 0 => {}
            None => {
                return Err(io::Error::other(format!(
                    "this host cannot limit huge pages of {size}"
                )));
            }
        }
    }
    Ok(())
}
