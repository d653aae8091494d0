//! What is said of execs, sessions and probes.

use std::time::Duration;

use super::{Limit, Report, mebibytes, milliseconds};
use crate::{
    daemon::Runtime,
    paced::Paced,
    probes::Soak,
    processes::Held,
    sessions::Sessions,
    streams::{Protocol, Stream},
};

/// How many times faster than containerd an ExecSync has to be at the pace of probes, at the median.
const EXEC_FACTOR: f64 = 15.0;
/// And how many times less processor time it may take.
const EXEC_PROCESSOR_FACTOR: f64 = 10.0;
/// Sessions are at least as fast as containerd's.
const STREAM_FACTOR: f64 = 1.0;
/// Bytes of the daemon's own memory that an idle session may take.
const MAX_SESSION: u64 = 100 << 10;
/// Bytes by which memory may grow while probes run: what an allocator moves about.
const MAX_DAEMON_GROWTH: u64 = 512 << 10;
const MAX_SHIM_GROWTH: u64 = 4 << 10;
/// Of the daemon: those for blocking work end ten seconds after it, and each look may see some.
const MAX_THREAD_GROWTH: u64 = 2;

impl Report {
    pub(crate) fn add_paced(&mut self, sides: &[Paced]) {
        let side = |runtime| sides.iter().find(move |side| side.runtime == runtime);
        let both = [side(Runtime::Corten), side(Runtime::Containerd)];
        let wall = both.map(|side| side.map(|side| side.wall.clone()));
        self.factor_row("ExecSync of `true`, 20 a second", wall, EXEC_FACTOR);
        let processor = both.map(|side| side.map(|side| side.processor.clone()));
        let name = "– processor time a call, `true` itself included";
        self.factor_row(name, processor, EXEC_PROCESSOR_FACTOR);
    }

    pub(crate) fn add_streams(&mut self, streams: &[Stream]) {
        for stream in streams {
            let side = |runtime| {
                stream
                    .sides
                    .iter()
                    .find(move |side| side.runtime == runtime)
            };
            let both = [side(Runtime::Corten), side(Runtime::Containerd)];
            let wall = both.map(|side| side.map(|side| side.wall.clone()));
            self.factor_row(&stream.to_string(), wall, STREAM_FACTOR);
            let processor = both.map(|side| side.map(|side| side.processor.clone()));
            self.latency_row("– processor time of daemon and shims a GiB", processor, "");
            for side in &stream.sides {
                let speed = |took: Duration| mebibytes(stream.load.bytes) / took.as_secs_f64();
                let wall = &side.wall;
                let limit = Limit {
                    what: format!("{stream}: throughput each way, p50 and the slowest"),
                    got: format!(
                        "{:.0}, {:.0} MiB/s",
                        speed(wall.p50()),
                        speed(wall.percentile(100))
                    ),
                    required: String::new(),
                    holds: true,
                };
                self.limit_row(side.runtime, limit);
            }
        }
    }

    pub(crate) fn add_sessions(&mut self, sessions: &Sessions) {
        let protocol = match sessions.protocol {
            Protocol::Spdy => "SPDY",
            Protocol::WebSocket => "WebSocket",
        };
        let a_session = |of: fn(&Sessions) -> [u64; 2]| {
            let [before, with] = of(sessions);
            with.saturating_sub(before) / sessions.count
        };
        let idle = a_session(|all| [all.before.daemon.anonymous, all.idle.daemon.anonymous]);
        let flowing = a_session(|all| [all.before.daemon.anonymous, all.flowing.daemon.anonymous]);
        let shims = a_session(|all| [all.before.shims.anonymous, all.idle.shims.anonymous]);
        let limit = Limit {
            what: format!(
                "{} sessions of exec, {protocol}: the daemon's memory for each, idle, with data flowing; the shims'",
                sessions.count
            ),
            got: format!("{}, {}; {} KiB", idle >> 10, flowing >> 10, shims >> 10),
            required: format!("at most {} KiB idle", MAX_SESSION >> 10),
            holds: idle <= MAX_SESSION,
        };
        self.limit_row(sessions.runtime, limit);
    }

    pub(crate) fn add_soak(&mut self, soak: &Soak) {
        let (pods, minutes) = (soak.pods, soak.minutes);
        let wall = [Some(soak.probes.wall.clone()), None];
        self.latency_row(&format!("probe, {pods} pods once a second"), wall, "");
        let failed = soak.probes.failed();
        let failures: Vec<String> = soak
            .probes
            .failures
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let limit = Limit {
            what: format!(
                "probes that failed in {minutes} minutes, of {}",
                soak.probes.wall.count() + failed
            ),
            got: match failed {
                0 => "0".to_owned(),
                _ => failures.join(", "),
            },
            required: "none".to_owned(),
            holds: failed == 0,
        };
        self.limit_row(soak.runtime, limit);
        let processor = Limit {
            what: "processor time a probe, `true` itself included".to_owned(),
            got: format!("{} ms", milliseconds(soak.processor)),
            required: String::new(),
            holds: true,
        };
        self.limit_row(soak.runtime, processor);
        let daemon = ("daemon", soak.early.daemon, soak.late.daemon);
        self.held_rows(soak, daemon, [MAX_DAEMON_GROWTH, MAX_THREAD_GROWTH]);
        let memory = MAX_SHIM_GROWTH * u64::try_from(pods).unwrap_or(u64::MAX);
        let shims = ("shims", soak.early.shims, soak.late.shims);
        self.held_rows(soak, shims, [memory, 0]);
        let zombies = [soak.early.zombies, soak.late.zombies];
        self.growth_row(soak, "zombies", zombies, 0);
    }

    /// Bounds: how much more memory, in bytes, and how many more threads.
    fn held_rows(
        &mut self,
        soak: &Soak,
        (whose, early, late): (&str, Held, Held),
        [memory, threads]: [u64; 2],
    ) {
        type Of = fn(&Held) -> u64;
        let rows: [(&str, Of, u64); 4] = [
            ("processes", |held| held.processes, 0),
            ("KiB of no file", |held| held.anonymous >> 10, memory >> 10),
            ("descriptors", |held| held.descriptors, 0),
            ("threads", |held| held.threads, threads),
        ];
        for (what, of, growth) in rows {
            let what = format!("{whose}: {what}");
            self.growth_row(soak, &what, [of(&early), of(&late)], growth);
        }
    }

    fn growth_row(&mut self, soak: &Soak, what: &str, [early, late]: [u64; 2], growth: u64) {
        let limit = Limit {
            what: format!("{what} after a minute, and {}", soak.minutes),
            got: format!("{early}, {late}"),
            required: match growth {
                0 => "no more".to_owned(),
                more => format!("at most {more} more"),
            },
            holds: late <= early + growth,
        };
        self.limit_row(soak.runtime, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probes::Probes,
        processes::Snapshot,
        samples::Samples,
        streams::{Load, Session, Throughput},
    };

    fn samples(ms: u64) -> Samples {
        let mut samples = Samples::default();
        samples.push(Duration::from_millis(ms));
        samples
    }

    fn failures(add: impl FnOnce(&mut Report)) -> usize {
        let mut report = Report::default();
        add(&mut report);
        report.failures().len()
    }

    #[test]
    fn an_exec_is_held_against_time_and_processor_time() {
        let side = |runtime, wall, processor| Paced {
            runtime,
            wall: samples(wall),
            processor: samples(processor),
        };
        let failures = |wall, processor| {
            let theirs = side(Runtime::Containerd, 30, 40);
            failures(|report| report.add_paced(&[side(Runtime::Corten, wall, processor), theirs]))
        };
        assert_eq!(failures(2, 4), 0);
        assert_eq!(failures(3, 4), 1);
        assert_eq!(failures(2, 5), 1);
    }

    #[test]
    fn a_stream_is_as_fast_as_containerds_where_that_has_one() {
        let side = |runtime, ms| Throughput {
            runtime,
            wall: samples(ms),
            processor: samples(1),
        };
        let failures = |sides| {
            let stream = Stream {
                session: Session::Exec,
                protocol: Protocol::Spdy,
                load: Load {
                    rounds: 1,
                    bytes: 1 << 20,
                },
                sides,
            };
            failures(|report| report.add_streams(&[stream]))
        };
        let (ours, theirs) = (Runtime::Corten, Runtime::Containerd);
        assert_eq!(failures(vec![side(ours, 10), side(theirs, 10)]), 0);
        assert_eq!(failures(vec![side(ours, 11), side(theirs, 10)]), 1);
        assert_eq!(failures(vec![side(ours, 11)]), 0);
    }

    #[test]
    fn an_idle_session_is_small() {
        let failures = |kib: u64| {
            let mut sessions = Sessions {
                runtime: Runtime::Corten,
                protocol: Protocol::Spdy,
                count: 200,
                before: Snapshot::default(),
                idle: Snapshot::default(),
                flowing: Snapshot::default(),
            };
            sessions.idle.daemon.anonymous = 200 * (kib << 10);
            sessions.flowing.daemon.anonymous = u64::MAX;
            failures(|report| report.add_sessions(&sessions))
        };
        assert_eq!(failures(100), 0);
        assert_eq!(failures(101), 1);
    }

    #[test]
    fn growth_and_failed_probes_fail() {
        type Change = fn(&mut Soak);
        let failures = |change: Change| {
            let mut soak = Soak {
                runtime: Runtime::Corten,
                pods: 100,
                minutes: 2,
                probes: Probes::default(),
                processor: Duration::ZERO,
                early: Snapshot::default(),
                late: Snapshot::default(),
            };
            change(&mut soak);
            failures(|report| report.add_soak(&soak))
        };
        assert_eq!(failures(|_| {}), 0);
        assert_eq!(failures(|soak| soak.early.daemon.descriptors = 9), 0);
        assert_eq!(failures(|soak| soak.late.daemon.anonymous = 512 << 10), 0);
        let bad: [Change; 6] = [
            |soak| soak.late.daemon.anonymous = 513 << 10,
            |soak| soak.late.shims.anonymous = 401 << 10,
            |soak| soak.late.daemon.descriptors = 1,
            |soak| soak.late.shims.threads = 1,
            |soak| soak.late.zombies = 1,
            |soak| *soak.probes.failures.entry("Internal".into()).or_default() += 1,
        ];
        for change in bad {
            assert_eq!(failures(change), 1);
        }
    }
}
