//! What the allocator keeps for itself.

/// Gives free memory back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes an integer and may be made at any time.
    unsafe { libc::malloc_trim(0) };
}
