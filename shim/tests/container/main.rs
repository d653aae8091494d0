//! Containers on this kernel, made from busybox: each scenario in a process of its own, since a shim makes one container.
//!
//! Needs root and a static busybox; says so and skips where they are missing.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test, which panics where it fails"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "what is included has unit tests, which run in the binary's own test"
)]

#[path = "../../src/container/mod.rs"]
mod container;
#[path = "../../src/failure.rs"]
mod failure;
mod scenario;
mod site;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(name) = args
        .iter()
        .position(|arg| arg == "--scenario")
        .and_then(|at| args.get(at + 1))
    {
        return scenario::run(name);
    }
    site::check_prerequisites();
    let filter = args.get(1).filter(|arg| !arg.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for (name, _) in scenario::all() {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let status = Command::new(&args[0]).args(["--scenario", name]).status();
        let is_good = status.is_ok_and(|status| status.success());
        println!("test {name} ... {}", if is_good { "ok" } else { "FAILED" });
        *if is_good { &mut passed } else { &mut failed } += 1;
    }
    // As cargo's own tests end: scripts count them so.
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; 0 ignored");
    ExitCode::from(failed)
}
