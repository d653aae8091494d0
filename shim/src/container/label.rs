//! The label that execve(2) gives to a process: its AppArmor profile, or its SELinux label.
//!
//! It is asked for in the first steps of a child, on the host's /proc and before the seccomp filter, and waits in the kernel
//! until execve. no_new_privs does not hold it up: the child is unconfined until then.

use std::{
    fs::File,
    io::{self, Write},
};

use corten_proto::shim::{FailureKind, Process};

use crate::failure::{Doing, Result, failure};

/// Since Linux 5.8; before, AppArmor has the one below, as SELinux always does.
const APPARMOR: &str = "/proc/thread-self/attr/apparmor/exec";
const ATTRIBUTE: &str = "/proc/thread-self/attr/exec";

/// Has the next execve change to the labels of `process`.
pub(super) fn set_for_exec(process: &Process) -> Result<()> {
    let label = &process.selinux_label;
    if !label.is_empty() {
        // setexeccon(3)
        let written = open(ATTRIBUTE).and_then(|mut file| file.write_all(label.as_bytes()));
        written.doing("change to SELinux label", label)?;
    }
    match process.apparmor_profile.as_str() {
        "" => Ok(()),
        profile => change_profile(profile),
    }
}

fn change_profile(profile: &str) -> Result<()> {
    let operation = "change to AppArmor profile";
    let mut file = open(APPARMOR)
        .or_else(|_| open(ATTRIBUTE))
        .doing(operation, profile)?;
    match file.write_all(format!("exec {profile}").as_bytes()) {
        // aa_change_profile(2)
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut failure = failure(FailureKind::FailureInvalid, operation, profile, &error);
            failure.hint = "it is not loaded any more".into();
            Err(failure)
        }
        written => written.doing(operation, profile),
    }
}

/// As it is: SELinux takes O_CREAT for an attempt to make a file in proc.
fn open(file: &str) -> io::Result<File> {
    File::options().write(true).open(file)
}
