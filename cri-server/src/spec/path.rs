//! Checks of paths as text. Nothing here looks at a file system.

use std::path::Path;

use super::Invalid;

/// Longest path that the kernel takes, PATH_MAX with its final NUL.
const MAX: usize = 4096;

/// An absolute path inside the container without `.`, `..`, and double or final slashes, resolved
/// as text; symbolic links on it are the shim's to resolve, inside the root.
pub(crate) fn clean(path: &str, field: &str) -> Result<String, Invalid> {
    absolute(path, field)?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// That `path` is absolute and one that the kernel can take.
pub(super) fn absolute(path: &str, field: &str) -> Result<(), Invalid> {
    if !path.starts_with('/') {
        return Err(Invalid::new(
            field,
            format!("{path:?} is not an absolute path"),
        ));
    }
    one_line(path, field)?;
    if path.len() >= MAX {
        return Err(Invalid::new(
            field,
            format!("{} bytes are too long for a path", path.len()),
        ));
    }
    Ok(())
}

/// That `text` has no NUL and no line break, so that it can stand in a file or a system call.
pub(super) fn one_line(text: &str, field: &str) -> Result<(), Invalid> {
    if text.contains(['\0', '\n']) {
        return Err(Invalid::new(
            field,
            format!("{text:?} has a NUL or a line break"),
        ));
    }
    Ok(())
}

/// That no part of `path` is `..`.
pub(super) fn stays_below(path: &str, field: &str) -> Result<(), Invalid> {
    if path.split('/').any(|part| part == "..") {
        return Err(Invalid::new(
            field,
            format!("{path:?} leads upwards with \"..\""),
        ));
    }
    Ok(())
}

/// One of the daemon's own paths, as the shim's protocol has it.
pub(super) fn text(path: &Path) -> Result<String, Invalid> {
    let text = path.to_str().ok_or_else(|| {
        Invalid::new(
            "state or root of the daemon",
            format!("{path:?} is not UTF-8"),
        )
    })?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_has_no_dots_and_stays_below_the_root() {
        for (path, want) in [
            ("/", "/"),
            ("/a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../etc", "/etc"),
        ] {
            assert_eq!(clean(path, "f").unwrap(), want, "{path}");
        }
        for path in [
            "",
            "a",
            "./a",
            "/a\0b",
            "/a\nb",
            &format!("/{}", "x".repeat(5000)),
        ] {
            assert!(clean(path, "f").is_err(), "{path:?}");
        }
    }

    #[test]
    fn only_the_part_dot_dot_leads_upwards() {
        assert!(stays_below("a/..b/c...", "f").is_ok());
        assert!(stays_below("a/../b", "f").is_err());
        assert!(stays_below("..", "f").is_err());
    }
}
