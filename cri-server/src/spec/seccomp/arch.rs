//! Architectures, as the kernel tells them apart in `seccomp_data`.

use libseccomp::ScmpArch;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arch {
    /// In OCI profiles.
    pub(super) name: &'static str,
    /// In `includes` and `excludes` of Docker's form.
    pub(super) in_rules: &'static str,
    pub(super) libseccomp: ScmpArch,
    /// AUDIT_ARCH_*, `include/uapi/linux/audit.h`.
    pub(super) audit: u32,
    /// The lowest number of its system calls. Not 0 for x32 only, which is told from x86-64 by
    /// nothing else.
    pub(super) base: u32,
}

/// `__X32_SYSCALL_BIT`, `arch/x86/include/uapi/asm/unistd.h`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

pub(super) static X86_64: Arch = Arch {
    name: "SCMP_ARCH_X86_64",
    in_rules: "amd64",
    libseccomp: ScmpArch::X8664,
    audit: 0xc000_003e,
    base: 0,
};
pub(super) static X86: Arch = Arch {
    name: "SCMP_ARCH_X86",
    in_rules: "x86",
    libseccomp: ScmpArch::X86,
    audit: 0x4000_0003,
    base: 0,
};
pub(super) static X32: Arch = Arch {
    name: "SCMP_ARCH_X32",
    in_rules: "x32",
    libseccomp: ScmpArch::X32,
    audit: 0xc000_003e,
    base: X32_BIT,
};
pub(super) static AARCH64: Arch = Arch {
    name: "SCMP_ARCH_AARCH64",
    in_rules: "arm64",
    libseccomp: ScmpArch::Aarch64,
    audit: 0xc000_00b7,
    base: 0,
};
pub(super) static ARM: Arch = Arch {
    name: "SCMP_ARCH_ARM",
    in_rules: "arm",
    libseccomp: ScmpArch::Arm,
    audit: 0x4000_0028,
    base: 0,
};

/// What this machine's programs may be built for, its own architecture first.
pub(super) fn native() -> Vec<&'static Arch> {
    if cfg!(target_arch = "aarch64") {
        vec![&AARCH64, &ARM]
    } else {
        vec![&X86_64, &X86, &X32]
    }
}

/// Of a profile's list, those that can occur on this machine; its own is always one.
pub(super) fn named(names: &[String]) -> Vec<&'static Arch> {
    let mut arches = native();
    let own = arches[0];
    arches.retain(|arch| *arch == own || names.iter().any(|name| name == arch.name));
    arches
}
