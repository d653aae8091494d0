//! What the allocator keeps for itself.

/// Blocks of this size and more are mapped, and unmapped when they are freed; what is free at the heap's end beyond it is
/// given back.
const MOST: i32 = 16 << 10;
/// By how much more than asked for the heap grows, and how much stays of it.
const PAD: i32 = 4 << 10;

/// Lets the allocator keep little of what is freed, at the cost of system calls (mallopt(3)). For a process that is mostly
/// idle.
pub fn keep_little() {
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, MOST),
        (libc::M_TRIM_THRESHOLD, MOST),
        (libc::M_TOP_PAD, PAD),
    ] {
        // SAFETY: the call takes integers and may be made at any time.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Gives free memory back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes an integer and may be made at any time.
    unsafe { libc::malloc_trim(0) };
}
