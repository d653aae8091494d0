//! Processes of a cgroup, which the kernel lists by ids.
//!
//! An id may have gone to another process by the time that something is done to it. So a handle is opened first, a pidfd or
//! a directory of /proc, and the list is read again: an id that is in it then is a process of the cgroup; if that is not the
//! process behind the handle, the latter has ended, and what is done by the handle has no effect.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const PROCS: &str = "cgroup.procs";
/// Processes that are looked at together. Each takes a descriptor meanwhile.
const BATCH: usize = 128;

/// The processes of the cgroup and of those below it, without those that have ended and wait to be reaped.
pub(super) fn list(dir: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for dir in tree(dir) {
        found.append(&mut ids(&dir)?);
    }
    Ok(found)
}

/// Calls `act` with a handle, which `open` makes of an id, of every process of the cgroup and of those below it. A process
/// that is forked or moved meanwhile may be passed over.
///
/// # Errors
/// When the list cannot be read, or there are no descriptors left for handles.
pub(super) fn each<H>(
    dir: &Path,
    open: impl Fn(i32) -> io::Result<H>,
    mut act: impl FnMut(H),
) -> io::Result<()> {
    for dir in tree(dir) {
        let all = ids(&dir)?;
        let mut left = all.as_slice();
        while !left.is_empty() {
            let (looked_at, handles) = open_batch(&dir, left, &open)?;
            // Opened anew: v1 keeps a list for a second for those who have it open.
            let members: HashSet<i32> = ids(&dir)?.into_iter().collect();
            let handles = handles.into_iter();
            handles
                .filter(|(pid, _)| members.contains(pid))
                .for_each(|(_, handle)| act(handle));
            left = left.get(looked_at..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Number of `pids` that were looked at, and handles of those that are still there. With few descriptors both are smaller.
fn open_batch<H>(
    dir: &Path,
    pids: &[i32],
    open: &impl Fn(i32) -> io::Result<H>,
) -> io::Result<(usize, Vec<(i32, H)>)> {
    // The place of the list that is to be read next. Where it is gone, so are the processes.
    let _place = File::open(dir.join(PROCS)).ok();
    let mut handles = Vec::new();
    for (at, pid) in pids.iter().take(BATCH).enumerate() {
        match open(*pid) {
            Ok(handle) => handles.push((*pid, handle)),
            Err(error) if is_out_of_descriptors(&error) => {
                return if at == 0 {
                    Err(error)
                } else {
                    Ok((at, handles))
                };
            }
            // It has ended.
            Err(_) => {}
        }
    }
    Ok((pids.len().min(BATCH), handles))
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn ids(dir: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(dir.join(PROCS)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The cgroup's directory and those below it.
pub(super) fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let children = fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(
            children
                .map(|child| child.path())
                .filter(|path| path.is_dir()),
        );
        found.push(dir);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn cgroup(pids: &[i32]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), pids);
        dir
    }

    fn write(dir: &Path, pids: &[i32]) {
        let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        fs::write(dir.join(PROCS), text).unwrap();
    }

    #[test]
    fn an_id_that_has_left_the_list_meanwhile_is_left_alone() {
        let dir = cgroup(&[10, 11]);
        // While handles are opened 11 ends, and something else gets its id.
        let open = |pid| {
            write(dir.path(), &[10]);
            Ok(pid)
        };
        let mut reached = Vec::new();
        each(dir.path(), open, |pid| reached.push(pid)).unwrap();
        assert_eq!(reached, [10]);
    }

    #[test]
    fn processes_below_are_members_and_there_may_be_many() {
        let dir = cgroup(&[1]);
        let many: Vec<i32> = (2..1000).collect();
        fs::create_dir(dir.path().join("below")).unwrap();
        write(&dir.path().join("below"), &many);
        let mut reached = Vec::new();
        each(dir.path(), Ok, |pid| reached.push(pid)).unwrap();
        assert_eq!(reached, (1..1000).collect::<Vec<_>>());
        assert_eq!(list(dir.path()).unwrap().len(), 999);
    }

    #[test]
    fn few_descriptors_are_enough_and_none_is_an_error() {
        let many: Vec<i32> = (1..100).collect();
        let dir = cgroup(&many);
        let open_now = RefCell::new(0);
        let limited = |most: i32| {
            let open_now = &open_now;
            move |pid: i32| {
                if *open_now.borrow() >= most {
                    return Err(io::Error::from_raw_os_error(libc::EMFILE));
                }
                *open_now.borrow_mut() += 1;
                Ok(Handle { pid, open_now })
            }
        };
        let mut reached = Vec::new();
        each(dir.path(), limited(3), |handle| reached.push(handle.pid)).unwrap();
        assert_eq!(reached, many);
        assert!(each(dir.path(), limited(0), |_| ()).is_err());
    }

    struct Handle<'a> {
        pid: i32,
        open_now: &'a RefCell<i32>,
    }

    impl Drop for Handle<'_> {
        fn drop(&mut self) {
            *self.open_now.borrow_mut() -= 1;
        }
    }
}
