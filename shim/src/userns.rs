//! A new user namespace: a child is born in it, and its parent, which has the right to, writes which ids it has.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::shim::{IdMapping, UserNamespace};
use corten_sys::{
    prctl,
    process::{self, Child, CloneFlags, Cloned, SingleThreaded},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

/// Longest answer of the child, bytes.
const MAX_ANSWER: usize = 4096;

/// Runs `inside` in a child that was born in a new user namespace with these ids, then `outside` here while the child is
/// still there. Nothing of the child is left at the end.
pub(crate) fn with<T>(
    ids: &UserNamespace,
    inside: impl FnOnce() -> io::Result<()>,
    outside: impl FnOnce(&Child) -> io::Result<T>,
) -> io::Result<T> {
    // Its copy in the child stays out of reach of whoever is root inside.
    prctl::set_undumpable()?;
    let proof = SingleThreaded::verify()?;
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    match process::clone(&proof, CloneFlags::CLONE_NEWUSER, None).map_err(hint)? {
        Cloned::Child => {
            drop(ours);
            answer(&theirs, inside);
            process::exit_now(0)
        }
        Cloned::Parent(child) => {
            drop(theirs);
            let made = write_maps(&child, ids)
                .and_then(|()| hear(&ours))
                .and_then(|()| outside(&child));
            let _ = process::kill(child.pidfd.as_fd());
            let _ = process::wait(child.pidfd.as_fd());
            made
        }
    }
}

/// What the limits of namespaces(7) are told by.
fn hint(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::ENOSPC | nix::libc::EUSERS) => io::Error::new(
            error.kind(),
            format!("{error}: /proc/sys/user/max_user_namespaces says how many there may be"),
        ),
        _ => error,
    }
}

fn write_maps(child: &Child, ids: &UserNamespace) -> io::Result<()> {
    for (file, ids) in [("uid_map", &ids.uids), ("gid_map", &ids.gids)] {
        let lines = |ids: &[IdMapping]| -> String {
            let line = |id: &IdMapping| format!("{} {} {}\n", id.inside, id.outside, id.length);
            ids.iter().map(line).collect()
        };
        let path = format!("/proc/{}/{file}", child.pid);
        fs::write(&path, lines(ids)).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("write {:?} to {path}: {error}", lines(ids)),
            )
        })?;
    }
    Ok(())
}

/// Lets the child go on, and waits until it has.
fn hear(child: &OwnedFd) -> io::Result<()> {
    send(child, &[1], SendFlags::NOSIGNAL)?;
    let mut answer = [0; MAX_ANSWER];
    match recv(child, &mut answer[..], RecvFlags::empty())? {
        (0, _) => Err(io::Error::other(
            "the first process of the user namespace has died",
        )),
        (1, _) => Ok(()),
        (length, _) => {
            let text = String::from_utf8_lossy(answer.get(1..length).unwrap_or_default());
            Err(io::Error::other(text.into_owned()))
        }
    }
}

/// The child's part: one byte, and the words of an error. Then it waits for its end, or that of its parent.
fn answer(parent: &OwnedFd, inside: impl FnOnce() -> io::Result<()>) {
    let wait = || {
        matches!(
            recv(parent, &mut [0; 1][..], RecvFlags::empty()),
            Ok((1, _))
        )
    };
    if !wait() {
        return;
    }
    let words = inside().map_or_else(|error| error.to_string(), |()| String::new());
    let mut answer = [&[0], words.as_bytes()].concat();
    answer.truncate(MAX_ANSWER);
    let _ = send(parent, &answer, SendFlags::NOSIGNAL);
    wait();
}
