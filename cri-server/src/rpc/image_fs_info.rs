//! ImageFsInfo: from accounting, never from a walk.

use std::sync::Arc;

use corten_proto::cri;

use crate::{clock, context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    _: cri::ImageFsInfoRequest,
) -> Result<cri::ImageFsInfoResponse> {
    let usage = cx.images.usage();
    let filesystem = cri::FilesystemUsage {
        timestamp: clock::unix_nanos(),
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: cx.config.root.display().to_string(),
        }),
        used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
        inodes_used: Some(cri::UInt64Value {
            value: usage.inodes,
        }),
    };
    // Writable layers lie on the same file system; the kubelet compares the mount points.
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![filesystem.clone()],
        container_filesystems: vec![filesystem],
    })
}
