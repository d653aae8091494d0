//! Programs that cannot be run, and what is told of them.

use std::{fs, os::unix::fs::PermissionsExt};

use corten_test::pod;
use serde_json::json;
use tonic::Code;

use crate::site::{Site, container, program, variable};

/// A site with programs in `/bin` that the kernel does not run.
async fn site() -> Site {
    Site::with(|tree, _| {
        for (name, text) in [
            ("no-interpreter", "#!/opt/python3\n"),
            ("line-ends", "#!/bin/sh\r\necho\r\n"),
            ("circle", "#!/bin/circle\n"),
            ("no-line", "echo\n"),
        ] {
            let path = tree.join("bin").join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    })
    .await
}

/// runc 3237: "no such file or directory" without a word on what is missing, for a script of Windows' line ends or without
/// its interpreter, which is not what is looked for in PATH.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_interpreter_is_told_apart_from_a_missing_program() {
    let mut site = site().await;
    let running = site.run(&container("running", "sleep 1000")).await;
    for (name, words) in [
        ("no-interpreter", "its interpreter or dynamic loader is not"),
        (
            "/bin/no-interpreter",
            "its interpreter or dynamic loader is not",
        ),
        ("line-ends", "its interpreter or dynamic loader is not"),
        ("circle", "lead in a circle"),
        ("no-line", "a script needs #!"),
        ("absent", "no such program in the container"),
        (" sh", "no such program in the container"),
    ] {
        let config = program(&format!("of-{name}"), &[name]);
        let started = site.try_run(&config).await.unwrap_err();
        let executed = site.exec(&running, &[name], 10).await.unwrap_err();
        for refused in [started, executed] {
            let message = refused.message();
            assert!(
                message.contains(&format!("exec {name:?}: ")) && message.contains(words),
                "{message}"
            );
        }
    }
    // kata-containers/runtime 2001: an exec that failed took its container along.
    assert_eq!(site.output(&running, "echo here").await, "here\n");
}

/// kubernetes 84539, moby 20274: "argument list too long" where a namespace's services are in the environment, without a word
/// on what is too long.
///
/// Rule (execve(2)): 128 KiB for each, a quarter of the stack's limit for all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_for_the_kernel_is_told_with_its_limits() {
    let mut site = Site::new().await;
    let mut config = container("many", "sleep 1000");
    config.envs = (0..15)
        .map(|number| variable(&format!("SERVICE_{number}"), &[b'x'; 100_000]))
        .collect();
    let id = site.run(&config).await;
    assert_eq!(site.output(&id, "env | grep -c SERVICE_").await, "15\n");
    let mut variables = container("variable", "true");
    variables.envs = vec![variable("SERVICE", &vec![b'x'; 128 << 10])];
    let argument = program("argument", &["sh", "-c", &"x".repeat(128 << 10)]);
    for config in [variables, argument] {
        let refused = site.try_run(&config).await.unwrap_err();
        let message = refused.message();
        assert!(
            message.contains("Argument list too long") && message.contains("128 KiB"),
            "{message}"
        );
    }
    let refused = site
        .exec(&id, &["sh", "-c", &"x".repeat(128 << 10)], 10)
        .await;
    assert!(refused.unwrap_err().message().contains("128 KiB"));
}

/// containerd 7229: an image with `ENTRYPOINT [""]` and a CMD did not run. podman 25718: `exec: ""` for a program without a
/// name.
///
/// Rule: an entrypoint of one empty word is none; any other program without a name is refused by its field.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_a_name() {
    let mut site = Site::with(|_, config| {
        config["Entrypoint"] = json!([""]);
        config["Cmd"] = json!(["sh", "-c", "sleep 1000"]);
        Ok(())
    })
    .await;
    let id = site.run(&program("image", &[])).await;
    for words in [&[""][..], &["", "x"]] {
        let refused = site.create(&program("empty", words)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(
            refused.message().starts_with("config.command: "),
            "{refused}"
        );
        let refused = site.exec(&id, words, 10).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with("cmd[0]: "), "{refused}");
    }
    let refused = site.exec(&id, &["echo", "a\0b"], 10).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("cmd[1]: "), "{refused}");
    // Further words may be empty.
    let done = site.exec(&id, &["echo", "", "x"], 10).await.unwrap();
    assert_eq!(done.stdout, b" x\n");
}

/// runc 979: "no such file or directory" where a container had removed its working directory, without a word on which one.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_that_is_gone_is_named() {
    let mut site = Site::new().await;
    let mut config = container("gone", "sleep 1000");
    config.working_dir = "/work/here".into();
    let id = site.run(&config).await;
    assert_eq!(
        site.output(&id, "rmdir /work/here; pwd").await,
        "/work/here\n"
    );
    let refused = site.exec(&id, &["true"], 10).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("working directory \"/work/here\"")
            && refused.message().contains("No such file"),
        "{refused}"
    );
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 0);
}

/// moby 12448: a command that ends by a signal had the exit code 0.
///
/// Rule: 128 and the signal's number; the kernel (pid_namespaces(7)) keeps process 1 from the signals of its own namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_says_so_and_process_1_lives_on() {
    let mut site = Site::new().await;
    let id = site.run(&program("first", &["sleep", "1000"])).await;
    for (script, code) in [
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
        ("kill -9 1", 0),
        ("kill -15 1", 0),
        ("(exec sleep 1000) & kill -9 -1; wait; exit 9", 9),
    ] {
        let done = site.exec(&id, &["sh", "-c", script], 10).await.unwrap();
        assert_eq!(done.exit_code, code, "{script}");
    }
    assert_eq!(site.output(&id, "cat /proc/1/comm").await, "sleep\n");
}
