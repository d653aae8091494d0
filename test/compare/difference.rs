//! Which differences may be, and which are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    host::is_left_out,
    recording::{PROCESSES, Report, Reports},
};

const ABSENT: &str = "absent";
/// Lines of a report for people.
const MOST_LINES: usize = 200;

/// One line of the list. A `*` stands for any text.
#[derive(Debug)]
pub(crate) struct Listed {
    /// "row process".
    place: String,
    key: String,
    ours: String,
    theirs: String,
}

/// Place, key, Corten's value, containerd's value, reason, source; separated by tabs.
pub(crate) fn read(path: &Path) -> Result<Vec<Listed>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(parse).collect()
}

fn parse(line: &str) -> Result<Listed> {
    let fields: Vec<_> = line.split('\t').collect();
    let [place, key, ours, theirs, reason, source] = fields[..] else {
        bail!("{line}: want six fields");
    };
    ensure!(
        !reason.is_empty() && !source.is_empty(),
        "{line}: a difference needs a reason, and a specification or manual page"
    );
    Ok(Listed {
        place: place.to_owned(),
        key: key.to_owned(),
        ours: ours.to_owned(),
        theirs: theirs.to_owned(),
    })
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    key: String,
    ours: String,
    theirs: String,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rows without a difference that is not listed.
    good: usize,
    /// The places of each.
    bad: BTreeMap<Difference, Vec<String>>,
    /// Rows that one side lacks.
    notes: Vec<String>,
    /// Listed differences that are not there any more.
    stale: Vec<String>,
    /// The list is not of this kind of machine, whose kernel may not have all that it names.
    another_kind: bool,
    /// Rows that Corten cannot run yet.
    unbuilt: Vec<String>,
    /// Keys that were not compared.
    left_out: BTreeSet<String>,
    rows: usize,
}

/// `left_out` are keys that are not compared, see [`is_left_out`].
pub(crate) fn judge(
    ours: &Reports,
    theirs: &Reports,
    listed: &[Listed],
    left_out: BTreeSet<String>,
) -> Outcome {
    let mut outcome = Outcome {
        rows: ours.len(),
        left_out,
        ..Outcome::default()
    };
    let mut used = vec![false; listed.len()];
    for (row, ours) in ours {
        let Some(theirs) = theirs.get(row) else {
            outcome
                .notes
                .push(format!("row {row} has not been run on containerd"));
            continue;
        };
        // Told, and not a difference: what is not built yet is refused by name.
        let unbuilt = |report: &Report| {
            report
                .get("refused")
                .is_some_and(|why| why.contains("not supported"))
        };
        if ours.iter().all(unbuilt) {
            outcome.unbuilt.push(row.clone());
            continue;
        }
        let mut good = true;
        for ((process, ours), theirs) in PROCESSES.iter().zip(ours).zip(theirs) {
            let place = format!("{row} {process}");
            for difference in differences(ours, theirs) {
                let mut is_listed = is_left_out(&difference.key, &outcome.left_out);
                for (listed, used) in listed.iter().zip(&mut used) {
                    if listed.covers(&place, &difference) {
                        (is_listed, *used) = (true, true);
                    }
                }
                if !is_listed {
                    good = false;
                    outcome
                        .bad
                        .entry(difference)
                        .or_default()
                        .push(place.clone());
                }
            }
        }
        outcome.good += usize::from(good);
    }
    let is_out = |listed: &Listed| {
        let mut keys = outcome.left_out.iter();
        keys.any(|key| matches(&listed.key, key))
    };
    let stale = listed
        .iter()
        .zip(used)
        .filter(|(listed, used)| !used && !is_out(listed));
    let stale = stale.map(|(listed, _)| {
        format!(
            "the list has a difference that is not there: {} {}",
            listed.place, listed.key
        )
    });
    outcome.stale = stale.collect();
    outcome
}

/// Where one side refused the request, that is all there is to compare.
fn differences(ours: &Report, theirs: &Report) -> Vec<Difference> {
    let refused = |report: &Report| report.contains_key("refused");
    let keys: Vec<_> = if refused(ours) || refused(theirs) {
        vec!["refused".to_owned()]
    } else {
        let more = theirs.keys().filter(|key| !ours.contains_key(*key));
        ours.keys().chain(more).cloned().collect()
    };
    let value = |report: &Report, key: &String| {
        report
            .get(key)
            .cloned()
            .unwrap_or_else(|| ABSENT.to_owned())
    };
    keys.into_iter()
        .map(|key| Difference {
            ours: value(ours, &key),
            theirs: value(theirs, &key),
            key,
        })
        .filter(|difference| difference.ours != difference.theirs)
        .collect()
}

impl Listed {
    fn covers(&self, place: &str, difference: &Difference) -> bool {
        matches(&self.place, place)
            && matches(&self.key, &difference.key)
            && matches(&self.ours, &difference.ours)
            && matches(&self.theirs, &difference.theirs)
    }
}

/// A `*` of `pattern` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((front, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(front) else {
        return false;
    };
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.into_iter()
        .any(|at| text.get(at..).is_some_and(|text| matches(rest, text)))
}

impl Outcome {
    /// On a machine of another kind than that of the list, nothing that it names has to happen.
    pub(crate) fn of_another_kind(self, another_kind: bool) -> Self {
        Self {
            another_kind,
            ..self
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failed() == 0 && self.rows > 0
    }

    /// At least one where a note says that something is wrong.
    fn failed(&self) -> usize {
        let rows = self.rows - self.good - self.unbuilt.len();
        let stale = !self.stale.is_empty() && !self.another_kind;
        rows.max(usize::from(stale || !self.notes.is_empty()))
    }

    /// For people; the last line counts the rows.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Into a string, which takes everything.
        for (difference, places) in self.bad.iter().take(MOST_LINES) {
            let Difference { key, ours, theirs } = difference;
            let _ = writeln!(text, "{key}\n  corten      {ours}\n  containerd  {theirs}");
            let first: Vec<_> = places.iter().take(6).map(String::as_str).collect();
            let _ = writeln!(text, "  in {} reports: {}", places.len(), first.join(", "));
        }
        for note in self.notes.iter().chain(&self.stale) {
            let _ = writeln!(text, "{note}");
        }
        if !self.left_out.is_empty() {
            let first: Vec<_> = self.left_out.iter().take(6).map(String::as_str).collect();
            let _ = writeln!(
                text,
                "not compared, as the host itself has another answer than the recording's: {} keys: {}",
                self.left_out.len(),
                first.join(", ")
            );
        }
        for row in &self.unbuilt {
            let _ = writeln!(text, "{row}: not supported yet");
        }
        let (failed, skipped) = (self.failed(), self.unbuilt.len());
        let passed = self.rows.saturating_sub(failed + skipped);
        let _ = writeln!(
            text,
            "probe: {passed} passed, {failed} failed, {skipped} skipped"
        );
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn reports(value: &str) -> Reports {
        let report = Report::from([("key.one".to_owned(), value.to_owned())]);
        Reports::from([("row".to_owned(), [report.clone(), report])])
    }

    fn judged(ours: &Reports, theirs: &Reports, listed: &[Listed]) -> Outcome {
        judge(ours, theirs, listed, BTreeSet::new())
    }

    #[test]
    fn what_the_hosts_differ_in_is_not_compared() {
        let (ours, theirs) = (reports("1"), reports("2"));
        let left_out = |key: &str| BTreeSet::from([key.to_owned()]);
        assert!(judge(&ours, &theirs, &[], left_out("key.one")).is_good());
        assert!(!judge(&ours, &theirs, &[], left_out("key.two")).is_good());
        let unused = || vec![parse("row *\tkey.t*\t1\t2\tbecause\tman 5 proc").unwrap()];
        assert!(judge(&ours, &ours, &unused(), left_out("key.two")).is_good());
        assert!(!judge(&ours, &ours, &unused(), left_out("key.one")).is_good());
    }

    #[test]
    fn a_difference_is_a_failure_unless_it_is_listed() {
        let listed = |line: &str| vec![parse(line).unwrap()];
        let (ours, theirs) = (reports("1"), reports("2"));
        assert!(judged(&ours, &ours, &[]).is_good());
        assert!(!judged(&ours, &theirs, &[]).is_good());
        let good = "row *\tkey.*\t1\t2\tbecause\tman 5 proc";
        assert!(judged(&ours, &theirs, &listed(good)).is_good());
        // Half of it, another value, and one that is not there.
        for line in [
            "row init\tkey.*\t1\t2\tbecause\tman 5 proc",
            "row *\tkey.*\t1\t3\tbecause\tman 5 proc",
        ] {
            assert!(!judged(&ours, &theirs, &listed(line)).is_good(), "{line}");
        }
        assert!(!judged(&ours, &ours, &listed(good)).is_good());
        let elsewhere =
            |theirs: &Reports| judged(&ours, theirs, &listed(good)).of_another_kind(true);
        assert!(elsewhere(&ours).is_good() && !elsewhere(&reports("3")).is_good());
        assert!(!judged(&ours, &Reports::new(), &[]).is_good());
    }

    #[test]
    fn a_difference_needs_a_source() {
        assert!(parse("row *\tkey\t1\t2\tbecause\t").is_err());
        assert!(parse("row *\tkey\t1\t2").is_err());
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("*.x", "a.x.x", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
