//! Ids of pod sandboxes and containers.

use std::{fmt, str::FromStr};

/// An id as the CRI's clients see it.
///
/// Shape: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Box<str>);

/// Text that is not an [`Id`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an id: want 64 lower-case hexadecimal digits")]
pub struct Invalid(String);

impl Id {
    /// The length of every id, in characters.
    pub const LEN: usize = 64;

    /// An id from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                .into(),
        )
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as `crictl` prints ids.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Id {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == Self::LEN && digits {
            Ok(Self(text.into()))
        } else {
            Err(Invalid(text.into()))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_digits_are_an_id() {
        let good = "0123456789abcdef".repeat(4);
        assert_eq!(good.parse::<Id>().unwrap().as_str(), good);
        for bad in ["", "0123", &"0123456789ABCDEF".repeat(4), &"../".repeat(22)] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
