//! Threads that change what the kernel knows of them, and are not used for anything else afterwards.

use std::{io, thread::Builder};

/// Runs `work` on a thread of its own and waits for its end. Namespaces that it enters end with it.
///
/// # Errors
/// When no thread could be started, or `work` panicked.
pub fn disposable<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_panic| io::Error::other(format!("thread {name} panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_comes_back_and_a_panic_is_told() {
        assert_eq!(disposable("t", || 7).unwrap(), 7);
        assert!(disposable("t", || panic!("on purpose")).is_err());
    }
}
