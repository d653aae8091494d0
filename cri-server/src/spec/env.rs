//! The environment. HOME is the shim's to add, since only it can read the image's `/etc/passwd`.

use std::collections::HashMap;

use corten_image::ImageConfig;
use corten_proto::cri;

use super::Invalid;

/// What a program finds when nobody says otherwise.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `KEY=value` in this order: PATH, TERM (with a terminal), HOSTNAME, the image's, the request's. A
/// later one takes the earlier one's place in the list. Values are bytes and need not be UTF-8.
pub(super) fn plan(
    config: &cri::ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
) -> Result<Vec<Vec<u8>>, Invalid> {
    let mut env = Environment::default();
    env.set(b"PATH", PATH);
    if config.tty {
        env.set(b"TERM", b"xterm");
    }
    env.set(b"HOSTNAME", hostname.as_bytes());
    for entry in &image.env {
        match entry.split_once('=') {
            Some((key, value)) => {
                check(key, value.as_bytes(), "image config Env")?;
                env.set(key.as_bytes(), value.as_bytes());
            }
            // A name alone takes the variable away, as images built with Docker expect.
            None => env.unset(entry.as_bytes()),
        }
    }
    for (i, variable) in config.envs.iter().enumerate() {
        check(&variable.key, &variable.value, &format!("config.envs[{i}]"))?;
        env.set(variable.key.as_bytes(), &variable.value);
    }
    Ok(env.entries.into_iter().flatten().collect())
}

/// The variables of CDI devices take the place of all others.
pub(super) fn with_devices(mut env: Vec<Vec<u8>>, devices: &[String]) -> Vec<Vec<u8>> {
    for variable in devices {
        let key = variable.split_inclusive('=').next().unwrap_or_default();
        env.retain(|other| !other.starts_with(key.as_bytes()));
        env.push(variable.as_bytes().into());
    }
    env
}

/// Variables in the order in which they were first set. Pods of a namespace with many services have
/// thousands.
#[derive(Default)]
struct Environment {
    entries: Vec<Option<Vec<u8>>>,
    places: HashMap<Vec<u8>, usize>,
}

impl Environment {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        let entry = Some([key, b"=", value].concat());
        match self.places.get(key) {
            Some(&place) => self.entries[place] = entry,
            None => {
                self.places.insert(key.into(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    fn unset(&mut self, key: &[u8]) {
        if let Some(place) = self.places.remove(key) {
            self.entries[place] = None;
        }
    }
}

fn check(key: &str, value: &[u8], field: &str) -> Result<(), Invalid> {
    if key.is_empty() {
        return Err(Invalid::new(field, "the variable has no name"));
    }
    if key.contains(['=', '\0']) || value.contains(&0) {
        return Err(Invalid::new(
            field,
            format!("{key:?} has a NUL, or an equals sign in its name"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &[u8]) -> cri::KeyValue {
        cri::KeyValue {
            key: key.into(),
            value: value.into(),
        }
    }

    #[track_caller]
    fn check_env(tty: bool, image: &[&str], request: &[(&str, &[u8])], want: &[&[u8]]) {
        let envs = request
            .iter()
            .map(|(key, value)| pair(key, value))
            .collect();
        let config = cri::ContainerConfig {
            tty,
            envs,
            ..Default::default()
        };
        let image = ImageConfig {
            env: image.iter().map(|entry| (*entry).into()).collect(),
            ..Default::default()
        };
        assert_eq!(plan(&config, &image, "h").unwrap(), want);
    }

    const DEFAULT: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    #[test]
    fn path_and_hostname_are_there_and_term_with_a_terminal() {
        check_env(false, &[], &[], &[DEFAULT, b"HOSTNAME=h"]);
        check_env(true, &[], &[], &[DEFAULT, b"TERM=xterm", b"HOSTNAME=h"]);
    }

    #[test]
    fn the_request_overrides_the_image_which_overrides_the_defaults_in_place() {
        check_env(
            true,
            &["PATH=/bin", "A=1", "B=2=3", "TERM=dumb"],
            &[("A", b"9"), ("C", b"")],
            &[
                b"PATH=/bin",
                b"TERM=dumb",
                b"HOSTNAME=h",
                b"A=9",
                b"B=2=3",
                b"C=",
            ],
        );
        check_env(
            false,
            &[],
            &[("HOSTNAME", b"mine")],
            &[DEFAULT, b"HOSTNAME=mine"],
        );
        check_env(
            false,
            &[],
            &[("A", b"1"), ("A", b"2")],
            &[DEFAULT, b"HOSTNAME=h", b"A=2"],
        );
    }

    #[test]
    fn a_devices_variable_wins() {
        let env = vec![b"A=1".to_vec(), b"AB=2".to_vec()];
        let devices = ["A=3=4".to_owned(), "C=".to_owned()];
        let want: [&[u8]; 3] = [b"AB=2", b"A=3=4", b"C="];
        assert_eq!(with_devices(env, &devices), want);
    }

    #[test]
    fn a_name_alone_in_the_image_unsets() {
        check_env(
            false,
            &["A=1", "A", "PATH"],
            &[("A", b"2")],
            &[b"HOSTNAME=h", b"A=2"],
        );
    }

    #[test]
    fn a_value_that_is_not_utf_8_survives() {
        check_env(
            false,
            &[],
            &[("A", b"\xff\n")],
            &[DEFAULT, b"HOSTNAME=h", b"A=\xff\n"],
        );
    }

    #[test]
    fn bad_names_and_nuls_are_refused_by_place() {
        for (key, value) in [("", &b"1"[..]), ("a=b", b"1"), ("a\0", b"1"), ("a", b"1\0")] {
            let config = cri::ContainerConfig {
                envs: vec![pair("ok", b"1"), pair(key, value)],
                ..Default::default()
            };
            let error = plan(&config, &ImageConfig::default(), "h").unwrap_err();
            assert_eq!(error.field, "config.envs[1]");
        }
        let image = ImageConfig {
            env: vec!["A=\0".into()],
            ..Default::default()
        };
        assert_eq!(
            plan(&cri::ContainerConfig::default(), &image, "h")
                .unwrap_err()
                .field,
            "image config Env"
        );
    }
}
