//! The capability sets of this thread (capget(2)).

use std::io;

/// include/uapi/linux/capability.h, version 3.
const VERSION: u32 = 0x2008_0522;

/// Bit masks by capability number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

pub fn get() -> io::Result<Sets> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 reads the header and writes two data structs, which these are; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let join = |part: fn(&Data) -> u32| u64::from(part(&data[1])) << 32 | u64::from(part(&data[0]));
    Ok(Sets {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

pub fn set(sets: Sets) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: low(sets.effective >> shift),
        permitted: low(sets.permitted >> shift),
        inheritable: low(sets.inheritable >> shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads the header and two data structs, which these are; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn low(mask: u64) -> u32 {
    mask as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_what_one_has_is_allowed() {
        let sets = get().unwrap();
        set(sets).unwrap();
        assert_eq!(get().unwrap(), sets);
    }
}
