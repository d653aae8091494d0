//! What has to hold in a container. Each scenario panics where it does not.

/// Functions with their names.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as Scenario)),*] };
}

mod mounts;
mod processes;
mod security;

use std::process::ExitCode;

use corten_proto::shim::{Plan, Process};
use scenarios;

use crate::site::Site;

type Scenario = fn(&Site);

/// Every scenario, by its name.
pub(crate) fn all() -> impl Iterator<Item = &'static (&'static str, Scenario)> {
    [processes::ALL, mounts::ALL, security::ALL]
        .into_iter()
        .flatten()
}

pub(crate) fn run(name: &str) -> ExitCode {
    let Some((_, scenario)) = all().find(|(known, _)| *known == name) else {
        return ExitCode::FAILURE;
    };
    let site = Site::new();
    scenario(&site);
    ExitCode::SUCCESS
}

fn process(plan: &mut Plan) -> &mut Process {
    plan.process.as_mut().unwrap()
}

/// Runs the plan and compares what it prints.
#[track_caller]
fn check(plan: Plan, want: &str) {
    let outcome = crate::site::run(plan).unwrap();
    assert_eq!((outcome.out.as_str(), outcome.code), (want, 0));
}
