//! The command line and the working directory, of the request and of the image.

use corten_image::ImageConfig;
use corten_proto::cri;

use super::{Invalid, path};

/// The arguments to execute.
///
/// Rule (Kubernetes, "Define a command and arguments"): `command` takes the place of the
/// entrypoint, and the image's cmd goes with the image's entrypoint only; `args` take the place of
/// the cmd.
pub(super) fn plan(
    config: &cri::ContainerConfig,
    image: &ImageConfig,
) -> Result<Vec<Vec<u8>>, Invalid> {
    // Builders write an entrypoint of one empty string to take back the base image's.
    let entrypoint = if image.entrypoint == [""] {
        &[]
    } else {
        image.entrypoint.as_slice()
    };
    let (program, arguments) = match (config.command.as_slice(), config.args.as_slice()) {
        ([], []) => (entrypoint, image.cmd.as_slice()),
        ([], args) => (entrypoint, args),
        (command, args) => (command, args),
    };
    let words: Vec<&String> = program.iter().chain(arguments).collect();
    if words.is_empty() {
        return Err(Invalid::new(
            "config.command",
            "no command: neither the request nor the image has one",
        ));
    }
    if words.first().is_some_and(|program| program.is_empty()) {
        return Err(Invalid::new(
            "config.command",
            "its first word, of the request or of the image, is empty",
        ));
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Invalid::new(
            "config.command",
            format!("{word:?} has a NUL"),
        ));
    }
    Ok(words
        .into_iter()
        .map(|word| word.clone().into_bytes())
        .collect())
}

/// Where the process starts: the request's, else the image's, else the root.
pub(super) fn working_dir(
    config: &cri::ContainerConfig,
    image: &ImageConfig,
) -> Result<String, Invalid> {
    let (field, dir) = match (config.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => return Ok("/".into()),
        ("", dir) => ("image config WorkingDir", dir),
        (dir, _) => ("config.working_dir", dir),
    };
    path::clean(dir, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    /// Command, args | entrypoint, cmd -> what is executed.
    #[track_caller]
    fn check(request: [&str; 2], image: [&str; 2], want: &str) {
        let config = cri::ContainerConfig {
            command: words(request[0]),
            args: words(request[1]),
            ..Default::default()
        };
        let image = ImageConfig {
            entrypoint: words(image[0]),
            cmd: words(image[1]),
            ..Default::default()
        };
        let args = plan(&config, &image).unwrap();
        let got: Vec<_> = args
            .iter()
            .map(|arg| String::from_utf8_lossy(arg))
            .collect();
        assert_eq!(got.join(" "), want);
    }

    #[test]
    fn the_requests_command_takes_the_place_of_the_images() {
        check(["", ""], ["/e", "c d"], "/e c d");
        check(["", ""], ["", "sh -c x"], "sh -c x");
        check(["", "x y"], ["/e", "c"], "/e x y");
        check(["", "x y"], ["", "c"], "x y");
        check(["/r", ""], ["/e", "c"], "/r");
        check(["/r", "x"], ["/e", "c"], "/r x");
    }

    #[test]
    fn an_entrypoint_of_one_empty_string_is_none() {
        let image = ImageConfig {
            entrypoint: vec![String::new()],
            cmd: words("sh"),
            ..Default::default()
        };
        assert_eq!(
            plan(&cri::ContainerConfig::default(), &image).unwrap(),
            [b"sh"]
        );
    }

    #[test]
    fn no_command_and_a_nul_are_refused() {
        let image = ImageConfig::default();
        let error = plan(&cri::ContainerConfig::default(), &image).unwrap_err();
        assert!(error.reason.contains("no command"), "{error}");
        let config = cri::ContainerConfig {
            command: vec!["a\0b".into()],
            ..Default::default()
        };
        assert!(plan(&config, &image).is_err());
    }

    #[test]
    fn the_working_dir_is_the_requests_then_the_images_then_the_root() {
        let dir = |request: &str, image: &str| {
            let config = cri::ContainerConfig {
                working_dir: request.into(),
                ..Default::default()
            };
            working_dir(
                &config,
                &ImageConfig {
                    working_dir: image.into(),
                    ..Default::default()
                },
            )
        };
        assert_eq!(dir("", "").unwrap(), "/");
        assert_eq!(dir("", "/app/").unwrap(), "/app");
        assert_eq!(dir("/r", "/app").unwrap(), "/r");
        assert_eq!(dir("r", "/app").unwrap_err().field, "config.working_dir");
        assert_eq!(dir("", "app").unwrap_err().field, "image config WorkingDir");
    }
}
