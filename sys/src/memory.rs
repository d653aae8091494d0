//! What the allocator keeps for itself.

/// Blocks of this size and more are mapped, and unmapped when they are freed.
const MAPPED_FROM: i32 = 32 << 10;

/// Lets the allocator keep little of what is freed: large blocks go back at once, at a system call each (mallopt(3)). For a
/// process that is mostly idle.
pub fn keep_little() {
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TRIM_THRESHOLD, MAPPED_FROM),
    ] {
        // SAFETY: the call takes integers; this process has one thread so far, or the allocator's lock is its own.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Gives free memory back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes an integer and may be made at any time.
    unsafe { libc::malloc_trim(0) };
}
