//! The result: a Markdown table, and what is required of each figure.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use crate::{
    daemon::Runtime,
    latency::Latency,
    memory::{Memory, Range},
    mount_table::MountTable,
    samples::{Samples, ratio},
};

/// How many times faster than containerd an operation's 99th percentile has to be.
const P99_FACTOR: f64 = 8.0;
/// Bytes of PSS per running pod in processes of ours.
const MAX_PER_POD: u64 = 400 << 10;
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

/// All that was measured, as Markdown, and whether it suffices.
#[derive(Debug, Default)]
pub(crate) struct Report {
    latencies: String,
    others: String,
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
        let required = match memory.runtime {
            Runtime::Corten => format!("at most {} KiB", MAX_PER_POD >> 10),
            Runtime::Containerd => String::new(),
        };
        let name = memory.runtime.name();
        let what = format!(
            "PSS of {name}'s processes per pod, {} to {} pods",
            range.few, range.many
        );
        let got = format!("{} KiB", memory.per_pod >> 10);
        if memory.runtime == Runtime::Corten && memory.per_pod > MAX_PER_POD {
            self.failures
                .push(format!("{what}: {got}, want {required}"));
        }
        self.other_row(&what, &got, &required);
        let what = format!("PSS of {name}'s processes in all at {} pods", range.many);
        self.other_row(&what, &format!("{:.1} MiB", mebibytes(memory.at_many)), "");
    }

    pub(crate) fn add_sync_calls(&mut self, calls: usize, pods: usize) {
        if calls > 0 {
            self.failures
                .push(format!("{calls} sync calls in {pods} pods, want none"));
        }
        self.other_row(
            &format!("sync calls in {pods} pods"),
            &calls.to_string(),
            "0",
        );
    }

    pub(crate) fn add_mount_table(&mut self, table: &MountTable) {
        let (short, long) = (table.short.p50(), table.long.p50());
        let factor = ratio(long, short);
        if factor.is_nan() || factor > MAX_MOUNT_FACTOR {
            self.failures.push(format!(
                "a pod starts {factor:.2} times slower with 1200 mounts, want at most {MAX_MOUNT_FACTOR}"
            ));
        }
        let what = format!(
            "median pod start with 1200 mounts against {}",
            table.short_entries
        );
        let got = format!(
            "{} against {}: {factor:.2}x",
            milliseconds(long),
            milliseconds(short)
        );
        self.other_row(&what, &got, &format!("at most {MAX_MOUNT_FACTOR}x"));
    }

    fn other_row(&mut self, what: &str, got: &str, required: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.others, "| {what} | {got} | {required} |");
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
        if !self.others.is_empty() {
            text += "\n| | measured | required |\n| --- | --: | --- |\n";
            text += &self.others;
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
    fn memory_mounts_and_syncs_have_limits() {
        let range = Range { few: 10, many: 60 };
        let memory = |per_pod| Memory {
            runtime: Runtime::Corten,
            per_pod,
            at_many: 60 * per_pod,
        };
        let mut report = Report::default();
        report.add_memory(memory(MAX_PER_POD), range);
        report.add_sync_calls(0, 20);
        let ms = |n| side(Runtime::Corten, n).total;
        report.add_mount_table(&MountTable {
            short: ms(10),
            long: ms(15),
            short_entries: 20,
        });
        assert_eq!(report.failures(), [""; 0]);

        report.add_memory(memory(MAX_PER_POD + 1024), range);
        report.add_sync_calls(1, 20);
        report.add_mount_table(&MountTable {
            short: ms(10),
            long: ms(16),
            short_entries: 20,
        });
        assert_eq!(report.failures().len(), 3);
    }
}
