//! What a process gets: processors, signals, its environment.

use std::fs;

use serde_json::json;

use crate::site::{Site, container, program, variable};

/// The value of a line of /proc/<pid>/status.
fn line(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// runc 4814, crun 1305: on Linux 6.2 and newer, containers ran on the processors of the service manager's CPUAffinity alone.
/// crun 2058: SIGPIPE was ignored in containers, as in the runtime's parent.
///
/// Rule: the cpuset says where a container runs, and its signals have their default actions, however the daemon was started.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_not_held_to_what_the_daemon_was_started_with() {
    let all = line(
        &fs::read_to_string("/proc/self/status").unwrap(),
        "Cpus_allowed_list:",
    );
    let prelude = "taskset -pc 0 $$ >/dev/null; trap '' HUP INT QUIT PIPE USR1";
    let mut site = Site::started_by(prelude, |_, _| Ok(())).await;
    let daemon = site.node.daemon_pid().unwrap();
    let daemon = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    assert_eq!(line(&daemon, "Cpus_allowed_list:"), "0");
    let id = site.run(&program("init", &["sleep", "1000"])).await;
    let cmd = [
        "grep",
        "-hE",
        "^(Cpus_allowed_list|SigIgn|SigBlk)",
        "/proc/1/status",
        "/proc/self/status",
    ];
    let done = site.exec(&id, &cmd, 10).await.unwrap();
    let seen = String::from_utf8(done.stdout).unwrap();
    for name in ["Cpus_allowed_list:", "SigIgn:", "SigBlk:"] {
        let want = match name {
            "Cpus_allowed_list:" => all.as_str(),
            _ => "0000000000000000",
        };
        let found: Vec<_> = seen.lines().filter(|line| line.starts_with(name)).collect();
        assert_eq!(found.len(), 2, "{seen}");
        assert!(found.iter().all(|line| line.ends_with(want)), "{found:?}");
    }
}

/// runc 4704: a HOME that is set to nothing was handed on. runc 5265: an exec without an environment had no HOME.
///
/// Rule: an empty HOME is none, and takes the user's home directory, in an exec as in init.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_home_is_that_of_the_user() {
    let mut site = Site::with(|_, config| {
        config["User"] = json!("app");
        config["Env"] = json!(["PATH=/bin", "HOME="]);
        Ok(())
    })
    .await;
    let config = container("image", "sleep 1000");
    let mut request = container("request", "sleep 1000");
    request.envs = vec![variable("HOME", b"/x"), variable("HOME", b"")];
    for config in [config, request] {
        let id = site.run(&config).await;
        let script = "cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n' | grep HOME";
        assert_eq!(
            site.output(&id, script).await,
            "HOME=/home/app\nHOME=/home/app\n"
        );
    }
}

/// runtime-tools 291, runc 4325: with a variable that is set more than once it was up to the program which one counts.
///
/// Rule: each name is there once, with the last value; names that no shell takes are kept.
#[tokio::test(flavor = "multi_thread")]
async fn of_equal_variables_the_last_one_counts() {
    let mut site = Site::with(|_, config| {
        config["Env"] = json!(["PATH=/bin", "A=image", "my.name-x=1", "A=image again"]);
        Ok(())
    })
    .await;
    let mut config = program("equal", &["sleep", "1000"]);
    config.envs = ["1", "2", "3"]
        .map(|value| variable("A", value.as_bytes()))
        .into();
    let id = site.run(&config).await;
    let script = "tr '\\0' '\\n' </proc/1/environ | grep -E '^(A|my)'";
    assert_eq!(site.output(&id, script).await, "A=3\nmy.name-x=1\n");
}

/// runc 3850: the error for a bad variable had its value, and so had the logs.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_variable_is_told_without_its_value() {
    let mut site = Site::new().await;
    let mut config = container("secret", "true");
    config.envs = vec![
        variable("GOOD", b"hunter1"),
        variable("BAD", b"hunter2\0hunter2"),
    ];
    let refused = site.create(&config).await.unwrap_err();
    let message = refused.message();
    assert!(
        message.starts_with("config.envs[1]: ") && message.contains("BAD"),
        "{message}"
    );
    assert!(!message.contains("hunter"), "{message}");
    assert!(!site.node.log().contains("hunter"));
}
