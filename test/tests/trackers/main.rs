//! What public bug reports of other runtimes describe, tried here. Each test names the reports, by project and number, and
//! the rule that holds.
#![allow(clippy::unwrap_used, reason = "tests")]

mod ends;
mod mounts;
mod process;
mod programs;
mod site;
mod users;
