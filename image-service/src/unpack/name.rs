//! Names in archives: bytes that a stranger chose.

/// `PATH_MAX` without its NUL, include/uapi/linux/limits.h. The kernel refuses more in one call.
const MAX_PATH: usize = 4095;

/// A name below the layer's root, in parts that cannot lead upwards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Without a slash at either end; empty for the root itself.
    pub(crate) parent: Vec<u8>,
    /// Without a slash; empty if the whole name means the root.
    pub(crate) last: Vec<u8>,
}

impl Name {
    /// Absolute names are taken as relative to the root, as every tar does. `..` is refused: no tool that
    /// packs a file system writes it.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, &'static str> {
        if raw.contains(&0) {
            return Err("the name contains a NUL byte");
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("the name leads out of the layer by `..`"),
                part => parts.push(part),
            }
        }
        let last = parts.pop().unwrap_or_default().to_vec();
        let parent = parts.join(&b'/');
        if parent.len() + 1 + last.len() > MAX_PATH {
            return Err("the name is longer than 4095 bytes");
        }
        Ok(Self { parent, last })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.last.is_empty()
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        match self.parent.is_empty() {
            true => self.last.clone(),
            false => [&self.parent, &b"/"[..], &self.last].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, want: Result<(&str, &str), &str>) {
        let got = Name::parse(raw.as_bytes());
        let got = got.as_ref().map(|name| {
            (
                std::str::from_utf8(&name.parent).unwrap(),
                std::str::from_utf8(&name.last).unwrap(),
            )
        });
        match want {
            Ok(want) => assert_eq!(got, Ok(want)),
            Err(part) => assert!(got.unwrap_err().contains(part)),
        }
    }

    #[test]
    fn names_stay_below_the_root() {
        check("a/b/c", Ok(("a/b", "c")));
        check("./a", Ok(("", "a")));
        check("/etc//passwd/", Ok(("etc", "passwd")));
        check("./", Ok(("", "")));
        check("", Ok(("", "")));
        check("..", Err("`..`"));
        check("a/../../b", Err("`..`"));
        check("/..", Err("`..`"));
        check("a\0b", Err("NUL"));
        check("...", Ok(("", "...")));
        check(&"a/".repeat(3000), Err("4095"));
    }
}
