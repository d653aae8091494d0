//! The time, as the CRI gives it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds of Unix time.
pub(crate) fn unix_nanos() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
