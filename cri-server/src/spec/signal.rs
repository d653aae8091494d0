//! Stop signals: names as images and the CRI write them, numbers as the kernel has them on x86-64
//! and arm64.

use corten_image::ImageConfig;
use corten_proto::cri;

use super::Invalid;

/// First and last real-time signal, as the C library hands them out (the kernel's 32 and 33 are its
/// own).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
const SIGTERM: i32 = 15;

/// `asm/signal.h`. Of two names for one number the usual one comes first.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The signal that StopContainer sends first: the request's, else the image's, else SIGTERM. For a
/// container that has been planned, so that neither can be bad.
pub(crate) fn stop_signal(config: &cri::ContainerConfig, image: &ImageConfig) -> i32 {
    checked(config, image).unwrap_or(SIGTERM)
}

/// The same, with what is bad about it.
pub(super) fn checked(config: &cri::ContainerConfig, image: &ImageConfig) -> Result<i32, Invalid> {
    let asked = cri::Signal::try_from(config.stop_signal)
        .map_err(|unknown| Invalid::new("config.stop_signal", unknown.to_string()))?;
    match (asked, image.stop_signal.as_str()) {
        (cri::Signal::RuntimeDefault, "") => Ok(SIGTERM),
        (cri::Signal::RuntimeDefault, name) => parse(name).ok_or_else(|| {
            Invalid::new(
                "image config StopSignal",
                format!("{name:?} is not a signal"),
            )
        }),
        (asked, _) => from_cri(asked).ok_or_else(|| {
            Invalid::new(
                "config.stop_signal",
                format!("{} has no number", asked.as_str_name()),
            )
        }),
    }
}

/// The CRI's word for a signal's number, for ContainerStatus.
pub(crate) fn cri_signal(number: i32) -> cri::Signal {
    let all = (1..).map_while(|value| cri::Signal::try_from(value).ok());
    all.into_iter()
        .find(|signal| from_cri(*signal) == Some(number))
        .unwrap_or(cri::Signal::RuntimeDefault)
}

/// The number of a signal written as `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1` or, in the
/// CRI's way, `SIGRTMINPLUS3`.
fn parse(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(number);
    }
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => (RTMIN, 0),
        (_, Some("")) => (RTMAX, 0),
        (Some(rest), _) => (RTMIN, offset(rest, ["+", "PLUS"])?),
        (_, Some(rest)) => (RTMAX, -offset(rest, ["-", "MINUS"])?),
        _ => return None,
    };
    let number = base + offset;
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn offset(rest: &str, signs: [&str; 2]) -> Option<i32> {
    let digits = signs.iter().find_map(|sign| rest.strip_prefix(sign))?;
    let plain = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn from_cri(signal: cri::Signal) -> Option<i32> {
    parse(signal.as_str_name().strip_prefix("SIGNAL_")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_way_to_write_a_signal_is_known() {
        for (name, want) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("SIGKILL", 9),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMIN+15", 49),
            ("SIGRTMAX", 64),
            ("SIGRTMAX-14", 50),
            ("SIGRTMINPLUS1", 35),
            ("SIGRTMAXMINUS1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(name), Some(want), "{name}");
        }
        for name in [
            "", "0", "-1", "65", "SIG", "FOO", "RTMIN+31", "RTMIN+-1", "RTMAX-31", "RTMIN3",
            "RTMIN+", "RTMAX+1",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_signal_of_the_cri_has_a_number_that_leads_back() {
        for value in 1..=65 {
            let signal = cri::Signal::try_from(value).unwrap();
            let number = from_cri(signal).unwrap();
            assert_eq!(
                from_cri(cri_signal(number)),
                Some(number),
                "{}",
                signal.as_str_name()
            );
        }
        assert_eq!(cri_signal(15).as_str_name(), "SIGNAL_SIGTERM");
        assert_eq!(cri_signal(6).as_str_name(), "SIGNAL_SIGABRT");
        assert_eq!(cri_signal(37).as_str_name(), "SIGNAL_SIGRTMINPLUS3");
    }

    #[test]
    fn the_request_goes_before_the_image_and_sigterm_is_the_last_resort() {
        let signal = |request: cri::Signal, image: &str| {
            let config = cri::ContainerConfig {
                stop_signal: request.into(),
                ..Default::default()
            };
            checked(
                &config,
                &ImageConfig {
                    stop_signal: image.into(),
                    ..Default::default()
                },
            )
        };
        assert_eq!(signal(cri::Signal::RuntimeDefault, ""), Ok(15));
        assert_eq!(signal(cri::Signal::RuntimeDefault, "SIGQUIT"), Ok(3));
        assert_eq!(signal(cri::Signal::Sigusr1, "SIGQUIT"), Ok(10));
        assert_eq!(
            signal(cri::Signal::RuntimeDefault, "SIGNOT")
                .unwrap_err()
                .field,
            "image config StopSignal"
        );
        let config = cri::ContainerConfig {
            stop_signal: 99,
            ..Default::default()
        };
        assert_eq!(
            checked(&config, &ImageConfig::default()).unwrap_err().field,
            "config.stop_signal"
        );
    }
}
