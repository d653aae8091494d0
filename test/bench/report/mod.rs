//! The result: a Markdown table, and what is required of each figure.

mod streaming;

use std::{fmt::Write as _, io::Write as _, time::Duration};

use crate::{
    batch::Batch,
    daemon::Runtime,
    latency::Latency,
    memory::{Memory, Range},
    mount_table::MountTable,
    pull::Pulls,
    samples::{Samples, ratio},
    seccomp::Seccomp,
};

/// How many times faster than containerd an operation's 99th percentile has to be.
const P99_FACTOR: f64 = 8.0;
/// How many times more pods per second than containerd, all at once.
const BATCH_FACTOR: f64 = 8.0;
/// How many times faster than containerd a large pull has to be, at the median.
const PULL_FACTOR: f64 = 2.0;
const PULL_PROCESSOR_FACTOR: f64 = 1.0;
/// Bytes: VmHWM of the daemon and its children.
const MAX_PULL_PEAK: u64 = 150 << 20;
/// Bytes of PSS per running pod in processes of ours.
const MAX_PER_POD: u64 = 400 << 10;
/// How much longer a container may take to start for the default seccomp profile. Unit: nanoseconds.
const MAX_SECCOMP: i64 = 300_000;
/// How many times slower a pod may start on a long mount table.
const MAX_MOUNT_FACTOR: f64 = 1.5;

/// A one-line remark for the person who waits.
pub(crate) fn note(text: &str) {
    // Nobody reads: nothing to do about it.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

pub(crate) fn progress(done: usize, of: usize) {
    let _ = write!(std::io::stderr(), "\rbench: {done}/{of} ");
}

/// An operation that is timed on both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// How many times faster than containerd its median has to be.
    pub(crate) p50_factor: f64,
}

/// A figure that has its limit whatever the other side does.
struct Limit {
    what: String,
    got: String,
    required: String,
    holds: bool,
}

/// All that was measured, as Markdown, and whether it suffices.
#[derive(Debug, Default)]
pub(crate) struct Report {
    latencies: String,
    limits: String,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn add_latency(&mut self, operation: Operation, sides: &[Latency]) {
        let side = |runtime| sides.iter().find(move |side| side.runtime == runtime);
        let (ours, theirs) = (side(Runtime::Corten), side(Runtime::Containerd));
        let total = |side: &Latency| side.total.clone();
        let required = format!("{}x, p99 {P99_FACTOR}x", operation.p50_factor);
        self.latency_row(
            operation.name,
            [ours.map(total), theirs.map(total)],
            &required,
        );

        let steps = ours.or(theirs).map_or(&[][..], |side| &side.steps);
        for (name, _) in steps {
            let step = |side: &Latency| {
                side.steps
                    .iter()
                    .find(|step| step.0 == *name)
                    .map(|step| step.1.clone())
            };
            let sides = [ours.and_then(step), theirs.and_then(step)];
            self.latency_row(&format!("– {name}"), sides, "");
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            self.check_factor(
                operation.name,
                "median",
                operation.p50_factor,
                [&ours.total, &theirs.total].map(Samples::p50),
            );
            self.check_factor(
                operation.name,
                "p99",
                P99_FACTOR,
                [&ours.total, &theirs.total].map(Samples::p99),
            );
        }
    }

    pub(crate) fn add_pulls(&mut self, sides: &[Pulls]) {
        let side = |runtime| sides.iter().find(move |side| side.runtime == runtime);
        let both = [side(Runtime::Corten), side(Runtime::Containerd)];
        let wall = both.map(|side| side.map(|side| side.wall.clone()));
        self.factor_row("pull, 6 layers", wall, PULL_FACTOR);
        let processor = both.map(|side| side.map(|side| side.processor.clone()));
        self.factor_row("– processor time", processor, PULL_PROCESSOR_FACTOR);
        for side in sides {
            let limit = Limit {
                what: "peak memory of the daemon in pulls".to_owned(),
                got: format!("{:.1} MiB", mebibytes(side.peak)),
                required: format!("at most {} MiB", MAX_PULL_PEAK >> 20),
                holds: side.peak <= MAX_PULL_PEAK,
            };
            self.limit_row(side.runtime, limit);
        }
    }

    /// Figures of both sides of which the median has to be `factor` times better.
    fn factor_row(&mut self, name: &str, sides: [Option<Samples>; 2], factor: f64) {
        if let [Some(ours), Some(theirs)] = &sides {
            self.check_factor(name, "median", factor, [ours.p50(), theirs.p50()]);
        }
        self.latency_row(name, sides, &format!("{factor}x"));
    }

    fn latency_row(&mut self, name: &str, sides: [Option<Samples>; 2], required: &str) {
        let p50 = sides.each_ref().map(|side| side.as_ref().map(Samples::p50));
        let p99 = sides.each_ref().map(|side| side.as_ref().map(Samples::p99));
        let cell = |side: Option<Duration>| side.map_or_else(|| "-".to_owned(), milliseconds);
        let factor = |[ours, theirs]: [Option<Duration>; 2]| match (ours, theirs) {
            (Some(ours), Some(theirs)) => format!("{:.1}x", ratio(theirs, ours)),
            _ => "-".to_owned(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            self.latencies,
            "| {name} | {} | {} | {} | {} | {} | {} | {required} |",
            cell(p50[0]),
            cell(p99[0]),
            cell(p50[1]),
            cell(p99[1]),
            factor(p50),
            factor(p99),
        );
    }

    fn check_factor(&mut self, name: &str, what: &str, want: f64, [ours, theirs]: [Duration; 2]) {
        let factor = ratio(theirs, ours);
        if factor.is_nan() || factor < want {
            self.failures.push(format!(
                "{name}: {what} is {factor:.1} times faster, want {want}"
            ));
        }
    }

    pub(crate) fn add_memory(&mut self, memory: Memory, range: Range) {
        let Memory {
            runtime,
            per_pod,
            at_many,
        } = memory;
        let limit = Limit {
            what: format!(
                "PSS of processes per pod, {} to {} pods",
                range.few, range.many
            ),
            got: format!("{} KiB", per_pod >> 10),
            required: format!("at most {} KiB", MAX_PER_POD >> 10),
            holds: per_pod <= MAX_PER_POD,
        };
        self.limit_row(runtime, limit);
        let what = format!("PSS of processes in all, {} pods", range.many);
        let got = format!("{:.1} MiB", mebibytes(at_many));
        self.limit_row(
            runtime,
            Limit {
                what,
                got,
                required: String::new(),
                holds: true,
            },
        );
    }

    pub(crate) fn add_sync_calls(&mut self, runtime: Runtime, calls: usize, pods: usize) {
        let limit = Limit {
            what: format!("sync calls in {pods} bridge pods"),
            got: calls.to_string(),
            required: "none".to_owned(),
            holds: calls == 0,
        };
        self.limit_row(runtime, limit);
    }

    pub(crate) fn add_mount_table(&mut self, table: &MountTable) {
        let (short, long) = (table.short.p50(), table.long.p50());
        let factor = ratio(long, short);
        let limit = Limit {
            what: format!(
                "median pod start, {} and then 1200 mounts",
                table.short_entries
            ),
            got: format!(
                "{}, {} ms: {factor:.2}x",
                milliseconds(short),
                milliseconds(long)
            ),
            required: format!("at most {MAX_MOUNT_FACTOR}x"),
            holds: factor <= MAX_MOUNT_FACTOR,
        };
        self.limit_row(table.runtime, limit);
    }

    pub(crate) fn add_seccomp(&mut self, seccomp: &Seccomp) {
        let rows = [
            ("CreateContainer and StartContainer", &seccomp.both),
            ("StartContainer", &seccomp.start),
        ];
        for (what, compared) in rows {
            let times = [&compared.confined, &compared.unconfined].map(|side| {
                format!(
                    "{} (p99 {})",
                    milliseconds(side.p50()),
                    milliseconds(side.p99())
                )
            });
            let more = compared.difference();
            let limit = Limit {
                what: format!("{what} with RuntimeDefault, and Unconfined"),
                got: format!(
                    "{}, {} ms: {} µs more in a pair",
                    times[0],
                    times[1],
                    more.unwrap_or_default() / 1000
                ),
                required: format!("at most {} µs more", MAX_SECCOMP / 1000),
                holds: more.is_some_and(|more| more <= MAX_SECCOMP),
            };
            self.limit_row(seccomp.runtime, limit);
        }
    }

    pub(crate) fn add_batches(&mut self, sides: &[Batch]) {
        for side in sides {
            let (one_by_one, at_once) = (side.one_by_one.p50(), side.at_once.p50());
            let limit = Limit {
                what: format!(
                    "{} pods with 5 volumes, one by one, then at once",
                    side.pods
                ),
                got: format!(
                    "{}, {} ms: {:.1} pods a second",
                    milliseconds(one_by_one),
                    milliseconds(at_once),
                    side.per_second()
                ),
                required: "no longer at once".to_owned(),
                holds: at_once <= one_by_one,
            };
            self.limit_row(side.runtime, limit);
        }
        let side = |runtime| sides.iter().find(|side| side.runtime == runtime);
        if let (Some(ours), Some(theirs)) = (side(Runtime::Corten), side(Runtime::Containerd)) {
            let factor = ours.per_second() / theirs.per_second();
            let limit = Limit {
                what: "pods a second at once, against containerd".to_owned(),
                got: format!("{factor:.1}x"),
                required: format!("{BATCH_FACTOR}x"),
                holds: factor >= BATCH_FACTOR,
            };
            self.limit_row(Runtime::Corten, limit);
        }
    }

    /// Limits bind Corten; containerd's figures stand there to compare with.
    fn limit_row(&mut self, runtime: Runtime, limit: Limit) {
        let Limit {
            what,
            got,
            required,
            holds,
        } = limit;
        let ours = runtime == Runtime::Corten;
        if ours && !holds {
            self.failures
                .push(format!("{what}: {got}, want {required}"));
        }
        let required = if ours { &required } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(
            self.limits,
            "| {what} | {} | {got} | {required} |",
            runtime.name()
        );
    }

    /// What falls short of its requirement, one line each.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(crate) fn markdown(&self, head: &str) -> String {
        let mut text = format!("{head}\n");
        if !self.latencies.is_empty() {
            text += "\n| | corten p50, ms | p99 | containerd p50, ms | p99 | p50 ratio | p99 ratio | required |\n\
                     | --- | --: | --: | --: | --: | --: | --: | --- |\n";
            text += &self.latencies;
        }
        if !self.limits.is_empty() {
            text += "\n| | of | measured | required |\n| --- | --- | --: | --- |\n";
            text += &self.limits;
        }
        text
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure for people, with one decimal"
)]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Compared;

    const EXEC: Operation = Operation {
        name: "ExecSync",
        p50_factor: 15.0,
    };

    fn side(runtime: Runtime, ms: u64) -> Latency {
        let mut total = Samples::default();
        total.push(Duration::from_millis(ms));
        Latency {
            runtime,
            total,
            steps: Vec::new(),
        }
    }

    #[track_caller]
    fn check(sides: &[Latency], row: &str, failures: &[&str]) {
        let mut report = Report::default();
        report.add_latency(EXEC, sides);
        let markdown = report.markdown("head");
        assert!(markdown.contains(row), "{markdown}");
        assert_eq!(report.failures(), failures);
    }

    #[test]
    fn a_ratio_below_the_requirement_fails() {
        check(
            &[side(Runtime::Corten, 2), side(Runtime::Containerd, 30)],
            "| ExecSync | 2.00 | 2.00 | 30.00 | 30.00 | 15.0x | 15.0x | 15x, p99 8x |",
            &[],
        );
        check(
            &[side(Runtime::Containerd, 14), side(Runtime::Corten, 2)],
            "| 7.0x | 7.0x |",
            &[
                "ExecSync: median is 7.0 times faster, want 15",
                "ExecSync: p99 is 7.0 times faster, want 8",
            ],
        );
    }

    #[test]
    fn one_side_alone_has_no_ratio() {
        check(
            &[side(Runtime::Containerd, 14)],
            "| - | - | 14.00 | 14.00 | - | - |",
            &[],
        );
    }

    #[test]
    fn no_samples_fail() {
        let mut report = Report::default();
        let none = |runtime| Latency {
            runtime,
            total: Samples::default(),
            steps: Vec::new(),
        };
        report.add_latency(EXEC, &[none(Runtime::Corten), none(Runtime::Containerd)]);
        assert_eq!(report.failures().len(), 2);
    }

    #[test]
    fn a_batch_is_held_against_one_by_one_and_against_containerd() {
        let batch = |runtime, one_by_one, at_once| {
            let mut batch = Batch {
                runtime,
                pods: 100,
                one_by_one: Samples::default(),
                at_once: Samples::default(),
            };
            batch.one_by_one.push(Duration::from_secs(one_by_one));
            batch.at_once.push(Duration::from_secs(at_once));
            batch
        };
        let failures = |ours, theirs| {
            let mut report = Report::default();
            report.add_batches(&[ours, theirs]);
            report.failures().len()
        };
        let theirs = || batch(Runtime::Containerd, 20, 16);
        assert_eq!(failures(batch(Runtime::Corten, 2, 2), theirs()), 0);
        assert_eq!(failures(batch(Runtime::Corten, 2, 3), theirs()), 2);
        assert_eq!(failures(batch(Runtime::Corten, 1, 2), theirs()), 1);
    }

    #[test]
    fn a_filter_may_cost_a_third_of_a_millisecond() {
        let failures = |confined, unconfined| {
            let mut compared = Compared::default();
            let [confined, unconfined] = [confined, unconfined].map(Duration::from_micros);
            compared.push(confined, unconfined);
            let mut report = Report::default();
            report.add_seccomp(&Seccomp {
                runtime: Runtime::Corten,
                both: compared.clone(),
                start: compared,
            });
            report.failures().len()
        };
        assert_eq!(failures(1300, 1000), 0);
        assert_eq!(failures(900, 1000), 0);
        assert_eq!(failures(1301, 1000), 2);
    }

    #[test]
    fn memory_mounts_and_syncs_have_limits() {
        let range = Range { few: 10, many: 60 };
        let memory = |per_pod: u64| Memory {
            runtime: Runtime::Corten,
            per_pod,
            at_many: 60 * per_pod,
        };
        let mut report = Report::default();
        report.add_memory(memory(MAX_PER_POD), range);
        report.add_sync_calls(Runtime::Corten, 0, 20);
        let ms = |n| side(Runtime::Corten, n).total;
        let table = |short, long| MountTable {
            runtime: Runtime::Corten,
            short: ms(short),
            long: ms(long),
            short_entries: 20,
        };
        report.add_mount_table(&table(10, 15));
        assert_eq!(report.failures(), [""; 0]);

        report.add_memory(memory(MAX_PER_POD + 1024), range);
        report.add_sync_calls(Runtime::Corten, 1, 20);
        report.add_mount_table(&table(10, 16));
        assert_eq!(report.failures().len(), 3);

        report.add_sync_calls(Runtime::Containerd, 1, 20);
        assert_eq!(report.failures().len(), 3);
    }
}
