//! Names of devices: `vendor/class=device` (CDI, SPEC.md, "Kind" and "Devices").

/// The longest that is looked at. Unit: bytes.
const MAX: usize = 253;

/// Whether `name` is a whole one.
pub(crate) fn is_qualified(name: &str) -> bool {
    name.split_once('=').is_some_and(|(kind, device)| {
        let kind = kind.split_once('/');
        kind.is_some_and(|(vendor, class)| is_vendor(vendor) && is_class(class))
            && is_device(device)
    })
}

pub(super) fn is_vendor(text: &str) -> bool {
    is_word(text, "_-.") && starts_with_letter(text)
}

pub(super) fn is_class(text: &str) -> bool {
    is_word(text, "_-.") && starts_with_letter(text)
}

pub(super) fn is_device(text: &str) -> bool {
    is_word(text, "_-.:")
}

/// Letters, digits and what is in `more`, a letter or digit at both ends.
fn is_word(text: &str, more: &str) -> bool {
    let ends = [text.chars().next(), text.chars().next_back()];
    text.len() <= MAX
        && ends
            .iter()
            .all(|end| end.is_some_and(|letter| letter.is_ascii_alphanumeric()))
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter))
}

fn starts_with_letter(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_has_vendor_class_and_device() {
        for name in [
            "vendor.com/gpu=0",
            "v/c=a",
            "v-1.x/c_2=GPU-1:2.3",
            "nvidia.com/gpu=all",
        ] {
            assert!(is_qualified(name), "{name}");
        }
        for name in [
            "", "gpu", "v/c", "v/c=", "/c=a", "v/=a", "1v/c=a", "v/c=a b", "v/c=.a", "v/c=a-",
            "v./c=a", "v/c/d=a", "v/c=a=b", "v/c=ä",
        ] {
            assert!(!is_qualified(name), "{name}");
        }
        assert!(!is_qualified(&format!("v/c={}", "a".repeat(300))));
    }
}
