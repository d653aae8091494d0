//! The program that a process becomes: its arguments, its environment, and execve(2).

use std::{
    ffi::{CString, OsStr},
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use corten_proto::shim::{Failure, FailureKind};
use nix::{errno::Errno, libc, unistd::execve};

use crate::failure::{Result, failure, invalid};

/// Where a program is looked for when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A home directory that images and requests set to nothing.
const NO_HOME: &[u8] = b"HOME=";

#[derive(Debug)]
pub(super) struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Adds those of `defaults`, `KEY=value`, whose key is missing in `env`. An empty HOME is none, as for runc.
    pub(super) fn new(args: &[Vec<u8>], env: &[Vec<u8>], defaults: &[Vec<u8>]) -> Result<Self> {
        if args.first().is_none_or(Vec::is_empty) {
            return Err(invalid(
                "exec",
                "",
                "neither the image nor the request names a program to run",
            ));
        }
        let mut variables = strings("environment", env)?;
        variables.retain(|variable| variable.as_bytes() != NO_HOME);
        for default in strings("environment", defaults)? {
            let key = default
                .as_bytes()
                .split_inclusive(|byte| *byte == b'=')
                .next();
            if variable(&variables, key.unwrap_or_default()).is_none() {
                variables.push(default);
            }
        }
        Ok(Self {
            args: strings("arguments", args)?,
            env: variables,
        })
    }

    /// Becomes the program; returns only why it could not. A name without `/` is looked for in PATH.
    pub(super) fn execute(&self) -> Failure {
        let name = self
            .args
            .first()
            .map(|name| name.as_bytes())
            .unwrap_or_default();
        let (path, errno) = if name.contains(&b'/') {
            (name.to_vec(), self.attempt(name))
        } else {
            self.search(name)
        };
        let mut failure = failure(
            FailureKind::FailureExec,
            "exec",
            String::from_utf8_lossy(name),
            &errno.into(),
        );
        failure.hint = hint(errno, Path::new(OsStr::from_bytes(&path)));
        failure
    }

    /// As execvp(3): what may not be run is passed over, and is the answer when nothing else is found.
    fn search(&self, name: &[u8]) -> (Vec<u8>, Errno) {
        let path = variable(&self.env, b"PATH=")
            .filter(|path| !path.is_empty())
            .unwrap_or(DEFAULT_PATH);
        let files = || {
            let directories = path.split(|byte| *byte == b':');
            directories.map(|directory| match directory {
                b"" => [b"./", name].concat(),
                directory => [directory, b"/", name].concat(),
            })
        };
        let mut answer = (name.to_vec(), Errno::ENOENT);
        for file in files() {
            match self.attempt(&file) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => answer = (file, Errno::EACCES),
                errno => return (file, errno),
            }
        }
        if answer.1 == Errno::ENOENT
            && let Some(file) = files().find(|file| is_there(file))
        {
            answer.0 = file;
        }
        answer
    }

    fn attempt(&self, path: &[u8]) -> Errno {
        match CString::new(path) {
            Ok(path) => match execve(&path, &self.args, &self.env) {
                Err(errno) => errno,
                Ok(never) => match never {},
            },
            Err(_nul) => Errno::EINVAL,
        }
    }
}

/// Whether a variable of `env` has this key, which ends in `=`.
pub(super) fn names(env: &[Vec<u8>], key: &[u8]) -> bool {
    env.iter().any(|variable| variable.starts_with(key))
}

/// The variable that names a user's home directory.
pub(super) fn home(path: &[u8]) -> Vec<u8> {
    [NO_HOME, path].concat()
}

/// Adds the variable of `path` to an environment that has none, or an empty one.
pub(super) fn add_home(env: &mut Vec<Vec<u8>>, path: &[u8]) {
    env.retain(|variable| variable != NO_HOME);
    if !names(env, NO_HOME) {
        env.push(home(path));
    }
}

/// The last value of `key`, which ends in `=`.
fn variable<'a>(env: &'a [CString], key: &[u8]) -> Option<&'a [u8]> {
    env.iter()
        .rev()
        .find_map(|variable| variable.as_bytes().strip_prefix(key))
}

fn strings(what: &str, list: &[Vec<u8>]) -> Result<Vec<CString>> {
    let string = |bytes: &Vec<u8>| {
        CString::new(bytes.as_slice())
            .map_err(|_nul| invalid("read", what, "one of them has a NUL byte"))
    };
    list.iter().map(string).collect()
}

fn is_there(path: &[u8]) -> bool {
    fs::metadata(OsStr::from_bytes(path)).is_ok()
}

/// What errno does not say. The file is seen as the container sees it.
fn hint(errno: Errno, path: &Path) -> String {
    let file = fs::metadata(path).ok();
    let words = match (errno as i32, file) {
        (libc::ENOENT, Some(_)) => "the file is there, its interpreter or dynamic loader is not",
        (libc::ENOENT, None) => "no such program in the container",
        (libc::EACCES, Some(file)) if file.is_dir() => "it is a directory",
        (libc::EACCES, Some(file)) if file.permissions().mode() & 0o111 == 0 => {
            "the file is not executable"
        }
        // execve(2), "Limits on size of arguments and environment".
        (libc::E2BIG, _) => {
            "an argument or variable takes at most 128 KiB, and all together a quarter of the limit of the stack"
        }
        (libc::ELOOP, _) => {
            "symlinks, or scripts that are each other's interpreter, lead in a circle"
        }
        (libc::ENOEXEC, _) => "not a program for this machine; a script needs #! in its first line",
        _ => "",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(args: &[&str], env: &[&str]) -> Result<Program> {
        let bytes = |list: &[&str]| {
            list.iter()
                .map(|text| text.as_bytes().to_vec())
                .collect::<Vec<_>>()
        };
        Program::new(&bytes(args), &bytes(env), &bytes(&["HOME=/home"]))
    }

    #[test]
    fn home_is_added_where_it_is_missing() {
        let env = |program: Program| {
            program
                .env
                .into_iter()
                .map(|s| s.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            env(program(&["a"], &["X=1"]).unwrap()),
            ["X=1", "HOME=/home"]
        );
        assert_eq!(env(program(&["a"], &["HOME="]).unwrap()), ["HOME=/home"]);
        assert_eq!(env(program(&["a"], &["HOME=/x"]).unwrap()), ["HOME=/x"]);
    }

    #[test]
    fn what_cannot_be_a_program_is_refused() {
        assert!(program(&[], &[]).is_err());
        assert!(program(&[""], &[]).is_err());
        assert!(program(&["a\0b"], &[]).is_err());
    }

    #[track_caller]
    fn check(name: &str, env: &[&str], errno: i32, hint: &str) {
        let failure = program(&[name], env).unwrap().execute();
        assert_eq!(
            (failure.kind(), failure.errno, &*failure.subject),
            (FailureKind::FailureExec, errno, name)
        );
        assert!(failure.hint.contains(hint), "{}", failure.hint);
    }

    #[test]
    fn failures_name_the_program_and_the_reason() {
        check(
            "no-such-program",
            &["PATH=/bin:/etc"],
            libc::ENOENT,
            "no such program",
        );
        check("/etc/passwd", &[], libc::EACCES, "not executable");
        check("/etc", &[], libc::EACCES, "directory");
        check(
            "passwd",
            &["PATH=/nowhere:/etc:/proc"],
            libc::EACCES,
            "not executable",
        );
        check("/etc/passwd/x", &[], libc::ENOTDIR, "");
    }
}
