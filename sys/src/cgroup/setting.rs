//! Limits as what they are to the kernel: values of files, written in an order in which each is allowed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// One value of one file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    /// Field of [`super::Resources`].
    field: String,
    path: PathBuf,
    value: String,
}

impl Setting {
    pub(super) fn new(field: impl Into<String>, path: PathBuf, value: impl ToString) -> Self {
        Self {
            field: field.into(),
            path,
            value: value.to_string(),
        }
    }

    /// Writes the value to its file.
    ///
    /// # Errors
    /// InvalidInput where the kernel does not take the value.
    pub(super) fn write(&self) -> io::Result<()> {
        write(&self.path, &self.value).map_err(|error| {
            let Self { field, path, value } = self;
            let doing = format!("{field}: write {value:?} to {}", path.display());
            let kind = if is_refusal(&error) {
                io::ErrorKind::InvalidInput
            } else {
                error.kind()
            };
            io::Error::new(kind, format!("{doing}: {error}"))
        })
    }

    /// Setting with the value that is there now.
    fn read(&self) -> io::Result<Self> {
        let read = |path: &Path| {
            let text = fs::read_to_string(path).map_err(|error| {
                let doing = format!("{}: read {}", self.field, path.display());
                io::Error::new(error.kind(), format!("{doing}: {error}"))
            });
            Ok::<_, io::Error>(text?.trim_end().to_owned())
        };
        let mut value = read(&self.path)?;
        if value.is_empty() {
            // A cpuset on v2 that has what its parent has. Once it has been given some, the kernel does not take it back
            // while there are processes, so that the same is written as a list.
            let mut effective = self.path.clone().into_os_string();
            effective.push(".effective");
            value = read(Path::new(&effective)).unwrap_or_default();
        }
        Ok(Self {
            value,
            ..self.clone()
        })
    }
}

/// Whether the kernel refuses the value: it is out of range, no such processor or node, or beyond what the parent has (v1
/// says EACCES), or no controller has the file (opening it would make it, which is not permitted).
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [
        libc::EINVAL,
        libc::ERANGE,
        libc::EDOM,
        libc::ENODEV,
        libc::ENOSPC,
        libc::EOPNOTSUPP,
        libc::EACCES,
        libc::EPERM,
    ];
    error
        .raw_os_error()
        .is_some_and(|errno| refusals.contains(&errno))
}

/// Writes all of `settings`, or none: after a failure the old values are there again.
///
/// # Errors
/// Of the setting that failed, with its field and file, and of those that could not be set back.
pub(super) fn change(settings: &[Setting]) -> io::Result<()> {
    let mut old = Vec::new();
    for setting in settings {
        let written = setting.read().and_then(|before| {
            setting.write()?;
            old.push(before);
            Ok(())
        });
        if let Err(error) = written {
            return Err(set_back(&old, error));
        }
    }
    Ok(())
}

/// In reverse: what was allowed on the way there is on the way back.
fn set_back(old: &[Setting], error: io::Error) -> io::Error {
    let left: Vec<_> = old
        .iter()
        .rev()
        .filter_map(|setting| setting.write().err())
        .map(|error| format!("; and could not be set back: {error}"))
        .collect();
    if left.is_empty() {
        return error;
    }
    io::Error::new(error.kind(), format!("{error}{}", left.concat()))
}

/// The kernel takes one line a write, and an empty value only as an empty line.
fn write(path: &Path, value: &str) -> io::Result<()> {
    if value.is_empty() {
        return fs::write(path, "\n");
    }
    value.lines().try_for_each(|line| fs::write(path, line))
}

/// -1 is v2's "max".
pub(super) struct OrMax(pub(super) i64);

impl fmt::Display for OrMax {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ..0 => out.write_str("max"),
            value => value.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_change_leaves_everything_as_it_was() {
        let dir = std::env::temp_dir().join(format!("corten-settings-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let file = |name: &str, value| {
            fs::write(dir.join(name), value).unwrap();
            dir.join(name)
        };
        let (first, second) = (file("first", "1\n"), file("second", "2\n"));
        let settings = [
            Setting::new("one", first.clone(), 10),
            Setting::new("two", second.clone(), OrMax(-1)),
            Setting::new("three", dir.join("missing/file"), "x"),
        ];
        let error = change(&settings).unwrap_err().to_string();
        let text = |path| fs::read_to_string(path).unwrap();
        let now = (text(&first), text(&second));
        change(&settings[..2]).unwrap();
        let then = (text(&first), text(&second));
        fs::remove_dir_all(&dir).unwrap();
        assert!(
            error.starts_with("three: ") && error.contains("missing/file"),
            "{error}"
        );
        assert_eq!(now, ("1".into(), "2".into()));
        assert_eq!(then, ("10".into(), "max".into()));
    }
}
