//! The one way to wait in tests: for a condition, with a limit that `TEST_PATIENCE` scales.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Far beyond what anything takes; reached only by a fault.
const LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);

/// Factor of every limit, for slow machines.
pub fn patience() -> f64 {
    let wanted = std::env::var("TEST_PATIENCE").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

/// How long anything is waited for.
pub fn limit() -> Duration {
    LIMIT.mul_f64(patience())
}

/// Asks until the answer is `Ok`.
///
/// # Errors
/// The last answer when the limit is over.
pub async fn until<T, E, F: Future<Output = Result<T, E>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let end = Instant::now() + limit();
    loop {
        match ask().await {
            Err(_) if Instant::now() < end => tokio::time::sleep(STEP).await,
            answer => return answer,
        }
    }
}
